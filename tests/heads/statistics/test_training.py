"""The statistics head through the commands: training, resume, live injection, stores, use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache import FeatureStore
from configs import load_config
from heads.evaluation.evaluate import reopen
from heads.statistics.head import StatisticsHead
from heads.training.run import open_run
from heads.training.train import train
from heads.training.trainer import TrainProgress
from heads.use import load_picture, open_trained
from tests.heads.training.test_trainer import learn, make_learner
from tests.heads.worlds import World, assert_equal_weights, complaint, ok, sets

HEAD = (
    "train.aggregation=statistics",
    "train.features=[sd, clip_pooled]",
    "train.statistics.n_images=128",
)
RETRIEVAL = ("task=retrieval", "train.retrieval.loss=contrastive", *HEAD)


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("statistics") / "retrieval"
    world.train(out, *RETRIEVAL)
    return out


def stopped(world: World, out: Path, step: int, *items: str) -> None:
    """Train until a step, and no further."""
    config = load_config(world.config, items)

    def listener(progress: TrainProgress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, [world.store], out, resume=False, listener=listener)


@pytest.mark.parametrize("step", [1, 6])
def test_resumed_it_ends_as_if_nothing_had_happened(
    world: World, run: Path, tmp_path: Path, step: int
) -> None:
    n_steps = json.loads((run / "last.json").read_text())["step"]
    assert n_steps > 6
    stopped(world, tmp_path / "run", step, *RETRIEVAL)
    world.train(tmp_path / "run", *RETRIEVAL, extra=["--resume"])
    assert_equal_weights(tmp_path / "run", run)
    ours, theirs = ((folder / "statistics.json").read_text() for folder in (tmp_path / "run", run))
    assert ours == theirs


def test_the_table_has_the_untrained_head(run: Path) -> None:
    found = json.loads(ok("evaluate", run, "--json").stdout)
    assert "the same head, untrained" in found["baselines"]
    assert found["name"] == "SD+CLIP, statistics"
    report = (run / "report.html").read_text()
    assert "How the head reads the features" in report and "clip/pooled" in report


def test_a_picture_has_the_descriptor_of_its_kind(run: Path, pictures: Path) -> None:
    experiment = reopen(open_run(run), lambda line: None)
    trained = open_trained(run)
    part = experiment.task.parts.test
    for ids, kind in ((part.queries[:3], "sketch"), (part.gallery[:3], "photo")):
        expected = experiment.learner.describe(ids).pooled
        found = trained.describe([load_picture(pictures / name) for name in ids], kind).pooled
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_run_searches_and_says_what_is_missing(
    run: Path, world: World, pictures: Path, tmp_path: Path
) -> None:
    sketch = pictures / open_run(run).image_ids()[0]
    found = ok("retrieve", run, sketch, "--gallery", world.store, "--json").stdout
    assert json.loads(found)
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    (copy / "statistics.json").write_text("{}")
    assert "statistics.json: damaged" in complaint("retrieve", copy, sketch)
    (copy / "statistics.json").unlink()
    assert "statistics.json" in complaint("retrieve", copy, sketch)


@pytest.mark.parametrize("task", ["correspondence", "fine_grained", "recognition", "segmentation"])
def test_every_task_trains_and_is_evaluated(world: World, tmp_path: Path, task: str) -> None:
    features = "[sd, clip]" if task in ("correspondence", "segmentation") else "[sd, clip_pooled]"
    world.train(
        tmp_path / "run",
        f"task={task}",
        *HEAD[:1],
        f"train.features={features}",
        *HEAD[2:],
        "train.epochs=1",
    )
    found = json.loads(ok("evaluate", tmp_path / "run", "--json").stdout)
    assert found["metrics"].keys() == found["baselines"]["the same head, untrained"].keys()


@pytest.mark.parametrize(
    "items",
    [
        ("extraction.store_dtype=int8",),
        ("extraction.store_dtype=float16", "extraction.timesteps=[195, 400]"),
    ],
)
def test_other_stores_do_as_well(world: World, tmp_path: Path, items: tuple[str, ...]) -> None:
    store = world.precompute(tmp_path / "store", *items)
    ok(*world.command(tmp_path / "run", *RETRIEVAL, *items, "train.epochs=1", store=store))
    arrays = json.loads((tmp_path / "run" / "statistics.json").read_text())["chosen"]
    assert set(arrays) <= set(FeatureStore.open(store).arrays)
    ok("evaluate", tmp_path / "run")


def test_several_stores_give_the_head_of_one(world: World, run: Path, tmp_path: Path) -> None:
    parts = []
    for part in ("1/2", "2/2"):
        store = tmp_path / part[0]
        ok("precompute", world.config, "--out", store, "--part", part)
        parts += ["--cache", store]
    ok("train", world.config, *parts, "--out", tmp_path / "run", *sets(*RETRIEVAL))
    assert_equal_weights(tmp_path / "run", run)


def test_the_fit_follows_a_trained_injection(world: World, tmp_path: Path) -> None:
    live = (*RETRIEVAL, "train.injection.sites=up", "train.injection.learning_rate=0.05")
    world.train(tmp_path / "run", *live, "train.batch_size=64", "train.epochs=1")
    run = open_run(tmp_path / "run")
    experiment = reopen(run, lambda line: None)
    head = experiment.learner.aggregation
    assert isinstance(head, StatisticsHead)
    kept = {name: buffer.clone() for name, buffer in head.named_buffers()}
    experiment.learner.fit_statistics()
    for name, buffer in head.named_buffers():
        torch.testing.assert_close(buffer, kept[name], atol=1e-5, rtol=1e-4)
    # And the features did move: what a head without the injection would have been fitted to.
    with torch.no_grad():
        for parameter in experiment.learner.front.parameters():
            parameter.zero_()
    experiment.learner.fit_statistics()
    moved = [
        not torch.allclose(b, kept[n], atol=1e-3) for n, b in head.named_buffers() if b.numel()
    ]
    assert any(moved)


def test_the_cycle_takes_the_head_over(world: World, tmp_path: Path) -> None:
    items = (*RETRIEVAL, "train.injection.sites=up.0", "train.batch_size=64", "train.epochs=1")
    world.train(tmp_path / "run", *items, "train.cycle.epochs=1")
    ours, theirs = (
        (folder / "statistics.json").read_text()
        for folder in (tmp_path / "run", tmp_path / "run/live")
    )
    assert ours == theirs
    ok("evaluate", tmp_path / "run")


@pytest.mark.parametrize("validated", [True, False])
def test_every_checkpoint_is_fitted_to_features_that_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validated: bool
) -> None:
    """Without a validation part the last weights are the best: they need the fit as well."""
    settings = {"aggregation": "statistics", "statistics": {"weights": {"clip": 1.0}}, "epochs": 2}
    learner = make_learner("retrieval", **settings)
    task = learner.task
    if not validated:
        part = task.parts.val.of_categories(())
        learner.task = replace(task, parts=replace(task.parts, val=part))
    learner.front = torch.nn.Linear(2, 2)
    fits: list[int] = []
    monkeypatch.setattr(learner, "fit_statistics", lambda: fits.append(1))
    learn(learner, tmp_path / "run")
    assert len(fits) == 2


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (("train.statistics.weights={sd: 0, clip_pooled: 0}",), "no array that it reads"),
        (("train.features=clip_pooled", "task=correspondence"), "no map that it reads"),
    ],
)
def test_a_head_of_nothing_is_one_line(
    world: World, tmp_path: Path, items: tuple[str, ...], says: str
) -> None:
    assert says in complaint(*world.command(tmp_path / "run", *RETRIEVAL, *items))
    assert not (tmp_path / "run").exists()
