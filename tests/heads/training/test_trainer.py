"""The training loop on features that carry the answer, and what is trained in front of a head."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from cache import FeatureStore, Recipe
from configs import TrainConfig, load_config
from heads.evaluation.evaluate import reopen
from heads.frame import Frame
from heads.protocols import find_protocol
from heads.protocols.defaults import default_protocol
from heads.sources import CachedFeatures
from heads.tasks import TASKS, Task, TaskError
from heads.training import trainer
from heads.training.accelerator import open_accelerator
from heads.training.experiment import open_experiment
from heads.training.learner import Learner
from heads.training.run import Run, RunError
from heads.training.train import train
from heads.training.trainer import State, TrainProgress, fit
from heads.training.validation import validate
from pipeline.datasets.shapes import ShapesDataset
from pipeline.networks.injection import load_injection
from tests import tiny
from tests.heads.worlds import World, assert_equal_weights, complaint, curve, ok, sets, weights

CPU = torch.device("cpu")
GRID = 12
DATASET = ShapesDataset(192, pixels=64)
SIZES = {name: (64, 64) for name in DATASET.ids}
LABELS = DATASET.annotations.labels


class Answers:
    """A source whose maps [C, G, G] say what the task asks, beside noise."""

    def __init__(self, answer: Callable[[str], Tensor]) -> None:
        self.arrays = ("clip/tokens",)
        self.shapes = {"clip/tokens": tuple(answer(DATASET.ids[0]).shape)}
        self.ids = tuple(DATASET.ids)
        self.recipe = Recipe({"test": 1})
        self.trained: nn.Module | None = None
        self.n_asked = 0
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self._maps = {name: answer(name) for name in self.ids}

    def expect(self, ids: Sequence[str]) -> None:
        self.calls.append(("expect", tuple(ids)))

    def maps(self, ids: Sequence[str]) -> dict[str, Tensor]:
        self.n_asked += 1
        self.calls.append(("maps", tuple(ids)))
        return {"clip/tokens": torch.stack([self._maps[name] for name in ids])}


def vector(name: str, size: int = 24) -> Tensor:
    """A random direction that belongs to a name."""
    seed = zlib.crc32(name.encode())
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def everywhere(direction: Tensor) -> Tensor:
    noise = torch.randn(len(direction), GRID, GRID, generator=torch.Generator().manual_seed(0))
    return direction[:, None, None] + 0.1 * noise


def category_of(name: str) -> Tensor:
    """A little of what is asked, and more that belongs to the image alone."""
    return everywhere(torch.cat([0.4 * vector(LABELS[name].category or ""), vector(f"own {name}")]))


def instance_of(name: str) -> Tensor:
    return everywhere(torch.cat([0.4 * vector(LABELS[name].source or name), vector(f"own {name}")]))


def foreground(name: str) -> Tensor:
    mask = torch.from_numpy(DATASET.annotations.masks[name]()).float()
    share = F.interpolate(mask[None, None], size=(GRID, GRID), mode="area")[0]
    return torch.cat([share, 1 - share, category_of(name)])


def keypoints() -> Callable[[str], Tensor]:
    """A bump at each keypoint, in a channel of its own."""
    points: dict[str, Tensor] = {}
    for pair in DATASET.annotations.pairs:
        points[pair.sketch] = torch.from_numpy(pair.sketch_points / 64)
        points[pair.photo] = torch.from_numpy(pair.photo_points / 64)
    centres = (torch.arange(GRID) + 0.5) / GRID

    def answer(name: str) -> Tensor:
        where = points.get(name, torch.zeros(8, 2)).float()
        x = (centres[None, None, :] - where[:, 0, None, None]) ** 2
        y = (centres[None, :, None] - where[:, 1, None, None]) ** 2
        return torch.exp(-(x + y) / 0.02)

    return answer


ANSWERS: Mapping[str, Callable[[], Callable[[str], Tensor]]] = {
    "correspondence": keypoints,
    "retrieval": lambda: category_of,
    "fine_grained": lambda: instance_of,
    "recognition": lambda: category_of,
    "segmentation": lambda: foreground,
}


def make_task(name: str, **settings: Any) -> Task[Any, Any]:
    values = {"width": 128, "grid": GRID, "dropout": 0.0, "device": "cpu", "batch_size": 12}
    config = TrainConfig(**{**values, **settings})
    usual = default_protocol(name, DATASET, SIZES)
    protocol = find_protocol(name, "stratified" if name == "recognition" else usual)
    parts = protocol.apply(DATASET.annotations, SIZES)
    return TASKS[name](protocol, parts, Frame(SIZES, 64, "edge"), config)


def make_learner(name: str, **settings: Any) -> Learner:
    task = make_task(name, **settings)
    torch.manual_seed(0)
    return Learner(task, Answers(ANSWERS[name]()), task.settings)


def learn(
    learner: Learner, out: Path, listener: Callable[[TrainProgress], None] | None = None
) -> tuple[State, Run]:
    out.mkdir(exist_ok=True)
    run = Run(out)
    state = fit(learner, run, learner.task.settings, Accelerator(cpu=True), listener)
    return state, run


# Learning ---------------------------------------------------------------------------------------

BARS = {
    "correspondence": ("pck@10", 0.8),
    "retrieval": ("map@all", 0.9),
    "fine_grained": ("acc@1", 0.95),
    "recognition": ("acc@1", 0.9),
    "segmentation": ("miou", 0.6),
}
"""What the training images must be known to, by the task's metric."""


@pytest.mark.parametrize("name", BARS)
def test_each_task_learns_what_the_features_say(name: str, tmp_path: Path) -> None:
    noise = {"correspondence": {"target_noise": 0.0}}
    losses: list[float] = []

    def listen(progress: TrainProgress) -> None:
        if progress.validation is None:
            losses.append(progress.loss)

    learner = make_learner(name, epochs=16, learning_rate=3e-3, **noise)
    before = dict(learner.task.evaluate(
        learner.task.parts.train, learner.describe, learner.layers,
        learner.task.fit(learner.describe, learner.layers),
    ).metrics)  # fmt: skip
    _, run = learn(learner, tmp_path / "run", listen)
    task = learner.task
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    assert last < 0.6 * first, f"{name}: loss {first:.3f} before, {last:.3f} after"
    fitted = task.fit(learner.describe, learner.layers)
    score = task.evaluate(task.parts.train, learner.describe, learner.layers, fitted)
    metric, bar = BARS[name]
    assert score.metrics[metric] > bar, (before, score.metrics)
    assert all(math.isfinite(value) for value in score.metrics.values())
    assert {"loss", "rate"} <= curve(run.folder)[0].keys()


def test_the_rate_falls_along_the_papers_cosine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "LOG_SECONDS", 0.0)
    rates = {"learning_rate": 1e-2, "final_learning_rate": 1e-4}
    _, run = learn(make_learner("recognition", epochs=4, **rates), tmp_path / "run")
    found = [entry["rate"] for entry in curve(run.folder) if "rate" in entry]
    for step, rate in enumerate(found):
        share = (1 + math.cos(math.pi * step / len(found))) / 2
        assert rate == pytest.approx(1e-4 + (1e-2 - 1e-4) * share)


# Validation, patience, best -----------------------------------------------------------------------


def scripted(
    monkeypatch: pytest.MonkeyPatch, monitor: str, results: Sequence[float]
) -> list[dict[str, Tensor]]:
    """Validation gives these results in turn; returns the weights at each."""
    seen: list[dict[str, Tensor]] = []

    def result(learner: Learner) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in learner.learned().items()})
        return {monitor: results[len(seen) - 1]}

    monkeypatch.setattr(trainer, "validate", result)
    return seen


def test_the_best_epoch_is_kept_and_ends_up_in_the_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scripted(monkeypatch, "acc@1", [0.2, 0.6, 0.4, 0.5])
    learner = make_learner("fine_grained", epochs=4)
    state, run = learn(learner, tmp_path / "run")
    assert (state.best, state.best_epoch, state.epoch) == (0.6, 2, 4)
    best = load_file(run.best)
    assert all(torch.equal(best[name], value) for name, value in seen[1].items())
    assert all(torch.equal(learner.learned()[name], value) for name, value in seen[1].items())
    assert not all(torch.equal(best[name], value) for name, value in seen[3].items())
    assert json.loads(run.best.with_suffix(".json").read_text())["epoch"] == 2


@pytest.mark.parametrize(
    ("results", "patience", "epochs", "best"),
    [
        ([0.5, 0.4, 0.3, 0.9], 2, 3, 1),
        ([0.1, 0.2, 0.1, 0.3, 0.2, 0.2], 2, 6, 4),
        ([0.1, 0.1, 0.1, 0.1], 2, 3, 3),  # equals do not improve, but the latest is as good
        ([0.5, 0.4, 0.3, 0.2], None, 4, 1),
    ],
)
def test_patience_ends_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    results: list[float],
    patience: int | None,
    epochs: int,
    best: int,
) -> None:
    scripted(monkeypatch, "acc@1", results)
    learner = make_learner("fine_grained", epochs=len(results), patience=patience)
    state, run = learn(learner, tmp_path / "run")
    assert (state.epoch, state.best_epoch) == (epochs, best)
    # Finished is finished: nothing is done again.
    again, _ = learn(
        make_learner("fine_grained", epochs=len(results), patience=patience), run.folder
    )
    assert (again.epoch, again.step) == (state.epoch, state.step)


def test_validation_comes_every_few_epochs_and_at_the_end(tmp_path: Path) -> None:
    _, run = learn(make_learner("fine_grained", epochs=5, validate_every=2), tmp_path / "run")
    validated = [entry["epoch"] for entry in curve(run.folder) if "validation" in entry]
    assert validated == [2, 4, 5]


def test_without_validation_the_last_weights_are_the_best(tmp_path: Path) -> None:
    learner = make_learner("recognition", epochs=3)
    parts = learner.task.parts
    empty = type(parts.val)((), (), parts.val.classes)
    object.__setattr__(learner.task, "parts", type(parts)(parts.train, empty, parts.test))
    state, run = learn(learner, tmp_path / "run")
    assert (state.best, state.best_epoch) == (None, None)
    best = load_file(run.best)
    assert all(torch.equal(best[name], value) for name, value in learner.learned().items())
    assert all(torch.equal(weights(run.folder)["last"][f"model.{k}"], v) for k, v in best.items())


@pytest.mark.parametrize("worst", [math.nan, -math.inf])
def test_a_validation_that_is_not_a_number_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worst: float
) -> None:
    scripted(monkeypatch, "acc@1", [worst, 0.1, worst])
    state, run = learn(make_learner("fine_grained", epochs=3), tmp_path / "run")
    assert (state.best, state.best_epoch) == (0.1, 2)
    assert run.best.is_file()


def test_validation_drops_nothing_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    """Steps depend on the seed and their number, not on how often one validates."""
    found = []
    for every in (1, 3):
        learner = make_learner("retrieval", epochs=3, validate_every=every, dropout=0.5)
        _, run = learn(learner, tmp_path / str(every))
        found.append(weights(run.folder)["last"])
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_descriptors_are_those_of_evaluation(tmp_path: Path) -> None:
    learner = make_learner("retrieval", dropout=0.5)
    learner.train()
    a, b = (learner.describe(DATASET.ids[:4]) for _ in range(2))
    assert torch.equal(a.spatial, b.spatial)
    assert learner.training
    assert not a.pooled.requires_grad
    assert validate(learner) == validate(learner)


# What goes wrong ----------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_says_what_to_do(tmp_path: Path) -> None:
    learner = make_learner("recognition", epochs=5, learning_rate=1e30)
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d+; lower"):
        learn(learner, tmp_path / "run")


def test_nothing_to_learn_is_said(tmp_path: Path) -> None:
    learner = make_learner("correspondence")
    parts = learner.task.parts
    object.__setattr__(
        learner.task, "parts", type(parts)(type(parts.train)(()), parts.val, parts.test)
    )
    with pytest.raises(TaskError, match="no annotated training pairs"):
        learn(learner, tmp_path / "run")


def test_the_next_batch_is_expected_before_one_is_computed(tmp_path: Path) -> None:
    learner = make_learner("correspondence", epochs=2)
    learn(learner, tmp_path)
    source = learner.source
    assert isinstance(source, Answers)
    asked = [ids for call, ids in source.calls if call == "maps"]
    expected = [ids for call, ids in source.calls if call == "expect"]
    assert len(expected) > 2 and set(expected) <= set(asked)
    for number, (call, ids) in enumerate(source.calls):
        if call == "expect":
            # The batch in hand, and then the one that was expected.
            assert source.calls[number + 1][0] == "maps"
            later = [ids for call, ids in source.calls[number + 2 : number + 4] if call == "maps"]
            assert later[0] == ids


def test_reading_ahead_trains_the_same_head(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = ("task=correspondence", "dataset.size=96", "train.epochs=2")
    world.train(tmp_path / "plain", *items)
    init = CachedFeatures.__init__

    def ahead(this: CachedFeatures, *args: Any) -> None:
        init(this, *args)
        this.reads_ahead = True

    monkeypatch.setattr(CachedFeatures, "__init__", ahead)
    world.train(tmp_path / "ahead", *items)
    assert_equal_weights(tmp_path / "ahead", tmp_path / "plain")


def test_gradients_are_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in grads if g is not None]).norm()))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    learn(make_learner("recognition", epochs=1), tmp_path / "free")
    assert max(norms) > 0.01
    norms.clear()
    learn(make_learner("recognition", epochs=1, gradient_norm=0.01), tmp_path / "short")
    assert 0 < max(norms) <= 0.0101


# In front of the head -----------------------------------------------------------------------------


def digest(*modules: nn.Module) -> list[Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values()]


@pytest.mark.parametrize(
    ("asked", "trained"),
    [("all", tiny.SITES), ("[up.1, down.3]", ("down.3", "up.1"))],
)
def test_trained_sites_move_and_nothing_else(
    world: World, tmp_path: Path, asked: str, trained: tuple[str, ...]
) -> None:
    """Of sites in a file, those that are not trained stay, and stay injected."""
    start = tiny.save_injection(tmp_path / "start.safetensors")
    items = [
        "task=retrieval", "dataset.size=96", "train.epochs=1", "train.batch_size=12",
        f"train.injection.sites={asked}", f"extraction.injection={start}",
    ]  # fmt: skip
    config = load_config(world.config, items)
    experiment = open_experiment(config, [world.store], CPU, lambda line: None)
    backbone = experiment.source.backbone  # type: ignore[attr-defined]
    frozen = digest(backbone.unet, backbone.vae, backbone.clip.model) if hasattr(
        backbone.clip, "model") else digest(backbone.unet, backbone.vae)  # fmt: skip
    names = [name for name, _ in experiment.learner.named_parameters()]
    assert not [name for name in names if "unet" in name or "vae" in name]
    train(config, [world.store], tmp_path / "run", resume=False)
    after = digest(backbone.unet, backbone.vae, backbone.clip.model) if hasattr(
        backbone.clip, "model") else digest(backbone.unet, backbone.vae)  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(frozen, after, strict=True))
    before, found = load_file(start), load_file(tmp_path / "run" / "injection.safetensors")
    assert before.keys() == found.keys()
    for name, value in before.items():
        site = name.rpartition(".")[0]
        assert torch.equal(found[name], value) is (site not in trained), name
    load_injection(
        tmp_path / "run" / "injection.safetensors", backbone.clip.width, backbone.channels
    )


def test_from_zero_live_training_starts_at_plain_sd(world: World) -> None:
    base = ["task=retrieval", "dataset.size=96"]
    live, plain = (
        open_experiment(load_config(world.config, items), [world.store], CPU, lambda line: None)
        for items in ([*base, "train.injection.sites=all"], base)
    )
    ids = DATASET.ids[:6]
    for name, value in plain.source.maps(ids).items():
        torch.testing.assert_close(live.source.maps(ids)[name], value, atol=1e-4, rtol=0)
    own, theirs = live.learner.describe(ids), plain.learner.describe(ids)
    torch.testing.assert_close(own.pooled, theirs.pooled, atol=1e-4, rtol=0)
    drawn = open_experiment(
        load_config(world.config, [*base, "train.injection.sites=all",
                                   "train.injection.init=random"]),
        [world.store], CPU, lambda line: None,
    )  # fmt: skip
    assert not torch.allclose(drawn.learner.describe(ids).pooled, theirs.pooled, atol=1e-3)


@pytest.mark.parametrize("task", ["retrieval", "segmentation"])
def test_a_store_precomputed_with_the_trained_injection_gives_what_was_live(
    world: World, tmp_path: Path, task: str
) -> None:
    items = (f"task={task}", "dataset.size=96", "train.injection.learning_rate=0.01")
    world.train(tmp_path / "live", *items, "train.injection.sites=all")
    injection = f"extraction.injection={tmp_path / 'live' / 'injection.safetensors'}"
    store = world.precompute(tmp_path / "store", "dataset.size=96", injection)
    live = reopen(Run(tmp_path / "live"), lambda line: None)
    config = load_config(world.config, [*items, injection])
    cached = open_experiment(config, [store], CPU, lambda line: None)
    assert cached.learner.front is None
    cached.learner.restore_head(load_file(tmp_path / "live" / "best.safetensors"))
    cached.learner.eval()
    ids = [*live.task.parts.test.ids, *live.task.parts.train.ids][:40]
    ours, theirs = live.learner.describe(ids), cached.learner.describe(ids)
    torch.testing.assert_close(ours.spatial, theirs.spatial, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.pooled, theirs.pooled, atol=1e-4, rtol=0)
    scores = [
        e.task.evaluate(e.task.parts.test, e.learner.describe, e.learner.layers,
                        e.task.fit(e.learner.describe, e.learner.layers)).metrics
        for e in (live, cached)
    ]  # fmt: skip
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    # Plain SD is another thing: the test would not pass without the injection.
    plain = open_experiment(load_config(world.config, items), [world.store], CPU, lambda line: None)
    assert not torch.allclose(plain.source.maps(ids)["sd/t195/s3"],
                              cached.source.maps(ids)["sd/t195/s3"], atol=1e-3)  # fmt: skip


def test_fresh_noise_trains_and_is_reproducible(world: World, tmp_path: Path) -> None:
    items = ("task=retrieval", "dataset.size=96", "train.epochs=1", "train.injection.sites=up",
             "train.injection.noise=fresh", "train.injection.checkpointing=true")  # fmt: skip
    for name in ("a", "b"):
        world.train(tmp_path / name, *items)
    a, b = (load_file(tmp_path / name / "injection.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[name], value) for name, value in b.items())
    assert all(value.abs().max() > 0 for value in a.values())


def test_a_finetuned_unet_learns_saves_and_evaluates(world: World, tmp_path: Path) -> None:
    items = ("task=retrieval", "dataset.size=96", "train.epochs=1", "train.finetune=true",
             "train.features=sd")  # fmt: skip
    result = world.train(tmp_path / "run", *items)
    assert "fine-tuned" in result.stderr
    best = load_file(tmp_path / "run" / "best.safetensors")
    before = load_file(world.root / "sd" / "unet" / "diffusion_pytorch_model.safetensors")
    unet = {k.removeprefix("front."): v for k, v in best.items() if k.startswith("front.")}
    assert len(unet) > 50
    moved = [name for name, value in unet.items() if not torch.equal(value, before[name])]
    assert len(moved) > 0.9 * len(unet)
    assert not (tmp_path / "run" / "injection.safetensors").exists()
    found = json.loads(ok("evaluate", tmp_path / "run", "--json").stdout)
    assert found["name"] == "B-Finetuning"
    world.train(tmp_path / "plain", "task=retrieval", "dataset.size=96")
    beside = ok("evaluate", tmp_path / "plain", "--beside", tmp_path / "run", "--json").stdout
    assert json.loads(beside)["baselines"]["B-Finetuning"] == found["metrics"]


def test_what_is_in_front_stays_in_evaluation_mode(world: World) -> None:
    config = load_config(world.config, ["task=retrieval", "train.finetune=true"])
    learner = open_experiment(config, [world.store], CPU, lambda line: None).learner
    learner.train()
    assert learner.training and learner.aggregation.training
    assert learner.front is not None and not learner.front.training


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["train.finetune=true", "train.injection.sites=all"], "one or the other"),
        (["train.injection.sites=all", "train.features=clip"], "no layer asked for"),
        (["train.injection.sites=all", "train.layers=[s5]"], "no layer asked for"),
        (["train.finetune=true", "train.features=clip"], "no layer of the UNet"),
        (["train.injection.sites=up", "train.injection.noise=fresh",
          "train.injection.prefix_memory=1000"], "prefix"),
        (["train.finetune=true", "extraction.precision=bfloat16"], "precision"),
        (["train.precision=fp16"], "train.precision"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(
    world: World, tmp_path: Path, items: list[str], says: str
) -> None:
    arguments = world.command(tmp_path / "run", "task=retrieval", "dataset.size=96", *items)
    assert says in complaint(*arguments)
    assert not (tmp_path / "run").exists()


def test_mixed_precision_trains(world: World, tmp_path: Path) -> None:
    items = ("task=retrieval", "dataset.size=96", "train.epochs=1")
    world.train(tmp_path / "half", *items, "train.precision=bf16")
    world.train(tmp_path / "whole", *items)
    a, b = weights(tmp_path / "half")["last"], weights(tmp_path / "whole")["last"]
    assert all(value.isfinite().all() for value in a.values())
    assert a.keys() == b.keys() and any(not torch.equal(a[k], b[k]) for k in a)
    ok("evaluate", tmp_path / "half", "--no-floors")


def test_only_the_head_is_in_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are computed, and losses taken, in their own types; gradients reach the head."""
    learner = make_learner("correspondence")
    asked: list[bool] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            asked.append(torch.is_autocast_enabled("cpu"))
            return function(*arguments)

        return noted

    for owner, name in (
        (type(learner.source), "maps"),
        (type(learner.aggregation), "forward"),
        (type(learner.task), "loss"),
    ):
        monkeypatch.setattr(owner, name, noting(getattr(owner, name)))
    batch = learner.task.batches(torch.Generator())[0]
    with torch.autocast("cpu", torch.bfloat16):
        value = learner(batch)
    assert asked == [False, True, False]
    assert value.dtype == torch.float32
    value.backward()
    assert any(p.grad is not None and p.grad.any() for p in learner.aggregation.parameters())


def test_float32_stays_float32_on_a_card() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    open_accelerator(TrainConfig(device="cpu"))
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_two_tasks_from_one_store_never_touch_a_network(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither training nor evaluation loads the backbone, and both say so."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the backbone was loaded")

    for place in ("pipeline.networks.backbone", "heads.training.experiment", "pipeline.job"):
        monkeypatch.setattr(f"{place}.load_backbone", refuse)
    files = {path: path.stat().st_mtime_ns for path in world.store.rglob("*")}
    for task in ("retrieval", "correspondence"):
        result = world.train(tmp_path / task, f"task={task}", "dataset.size=96")
        assert "features: cached" in result.stderr and "backbone is not loaded" in result.stderr
        assert "features: cached" in ok("evaluate", tmp_path / task).stderr
    assert {path: path.stat().st_mtime_ns for path in world.store.rglob("*")} == files
    fingerprint = FeatureStore.open(world.store).fingerprint
    for task in ("retrieval", "correspondence"):
        facts = json.loads((tmp_path / task / "run.json").read_text())
        assert [entry["fingerprint"] for entry in facts["stores"]] == [fingerprint]
    with pytest.raises(AssertionError, match="the backbone was loaded"):
        config = load_config(world.config, ["task=retrieval", *["train.injection.sites=all"]])
        open_experiment(config, [world.store], CPU, lambda line: None)


def test_the_probe_is_trained_by_configuration(world: World, tmp_path: Path) -> None:
    world.train(
        tmp_path / "run", "task=recognition", "dataset.size=192", "train.aggregation=linear"
    )
    found = json.loads(ok("evaluate", tmp_path / "run", "--no-floors", "--json").stdout)
    assert found["name"] == "B-SD+CLIP (probe)"
    assert sets("a=b") == ["--set", "a=b"]
