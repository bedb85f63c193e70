"""From the folders of runs to heads with their networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cache import Recipe
from configs import Config
from heads.training.experiment import trains_backbone
from heads.training.reading import configured_arrays
from heads.training.run import Run, RunError, open_run
from heads.use.shared import SharedExtractor
from heads.use.trained import Log, Trained, check_task
from pipeline.job import Networks, load_networks


def open_trained(
    folder: str | Path, log: Log = lambda line: None, task: str | None = None
) -> Trained:
    """Load a run's head with its best weights, and the backbone.

    Needs the run's folder and the backbone's weights: not the dataset, no store. With `task` a run
    of another one is refused before anything is loaded.

    Raises:
        UseError: a run of another task.
        RunError: no run, no weights, or other networks than it was trained on.
        CheckpointError: damaged weights.
        BackboneError, InjectionError: a network that cannot be loaded.
    """
    if task is not None:
        run = open_run(Path(folder))
        check_task(run, run.config().task, task)
    (trained,) = open_several([folder], log)
    return trained


def open_several(
    folders: Sequence[str | Path], log: Log = lambda line: None
) -> tuple[Trained, ...]:
    """Load several runs. Those with the same networks share them, and a picture's features.

    Raises as `open_trained` does, before anything is loaded where that can be told.
    """
    runs = [_open_finished(Path(folder)) for folder in folders]
    configs = [_for_use(run) for run in runs]
    opened: dict[int, Trained] = {}
    for first, config in enumerate(configs):
        if first in opened:
            continue
        alike = [n for n, other in enumerate(configs) if n == first or _share(config, other)]
        log(f"loading backbone {config.backbone.label}")
        networks = load_networks(config)
        if len(alike) > 1:
            networks = replace(networks, extractor=_shared(networks, [configs[n] for n in alike]))
        for n in alike:
            recipe = _checked_recipe(runs[n], networks.recipe, trains_backbone(configs[n]))
            opened[n] = Trained(runs[n], replace(networks, config=configs[n], recipe=recipe))
    return tuple(opened[n] for n in range(len(runs)))


def _open_finished(folder: Path) -> Run:
    run = open_run(folder)
    if not run.best.is_file():
        raise RunError(f"{run.folder}: has no trained weights yet; train it with --resume")
    return run


def _share(one: Config, other: Config) -> bool:
    """Whether two runs can use the same networks; a fine-tuned UNet is a run's own."""
    return (
        one.backbone == other.backbone
        and one.extraction == other.extraction
        and not (one.train.finetune or other.train.finetune)
    )


def _shared(networks: Networks, configs: Sequence[Config]) -> SharedExtractor:
    arrays = dict.fromkeys(name for config in configs for name in configured_arrays(config))
    return SharedExtractor(networks.extractor, list(arrays))


def _for_use(run: Run) -> Config:
    """The configuration whose networks give what the run's head was trained on."""
    config = run.config()
    update: dict[str, object] = {"prefix": None, "device": config.train.device}
    update["compile"] = False  # Takes longer than what a person asks for.
    if config.train.injection.sites:
        if not run.injection.is_file():
            raise RunError(
                f"{run.injection}: is written when training ends; train the run with --resume"
            )
        update["injection"] = run.injection
    elif config.train.finetune:
        update["injection"] = None
    extraction = config.extraction.model_copy(update=update)
    return config.model_copy(update={"extraction": extraction})


def _checked_recipe(run: Run, recipe: Recipe, learns_in_front: bool) -> Recipe:
    """The recipe of these networks, with the digests that the run's stores have for them.

    Raises RunError unless these networks are those that the run was trained on.
    """
    trained_on = run.recipes()[0]
    if learns_in_front:
        # What was injected into the store's layers did not matter.
        trained_on = trained_on.updated({"injection": recipe.fields.get("injection")})
    differences = trained_on.differences(recipe)
    if differences:
        raise RunError(
            f"{run.folder}: its backbone is not the one it was trained on "
            f"({'; '.join(differences)}); restore those weights, or train a new run"
        )
    return recipe.spelled_as(trained_on)
