"""Runs that are killed, resumed, damaged, or asked to read another store."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from cache import FeatureStore
from configs import load_config
from heads.training import trainer
from heads.training.checkpoint import Checkpoint, load_facts, save_checkpoint
from heads.training.run import Run, open_run
from heads.training.train import train
from tests import tiny
from tests.heads.worlds import (
    Processes,
    World,
    assert_equal_weights,
    complaint,
    curve,
    ok,
    processes,
    run,
    save_networks,
    sets,
    validations,
    weights,
    write_config,
)

RETRIEVAL = ("task=retrieval", "dataset.size=96", "train.batch_size=20")
"""Two steps an epoch."""


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, for tests that copy it."""
    out = tmp_path_factory.mktemp("runs") / "done"
    world.train(out, *RETRIEVAL)
    return out


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


# Kills ------------------------------------------------------------------------------------------


class Died(BaseException):
    """The process ends here."""


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> Iterator[list[str]]:
    """Whatever changes the folder is counted from 0; the process dies before or after number
    `at`. A line of the curve is cut short where it dies before it."""
    events: list[str] = []
    replace, log = os.replace, Run.log

    def dies(what: str, before: bool) -> bool:
        return len(events) - 1 == at and before is not after

    def replaced(source: Path, target: Path) -> None:
        events.append(Path(target).name)
        if dies(events[-1], before=True):
            raise Died
        replace(source, target)
        if dies(events[-1], before=False):
            raise Died

    def logged(self: Run, entry: dict[str, Any]) -> None:
        events.append("metrics.jsonl")
        if dies(events[-1], before=True):
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write('{"step": 1, "ep')
            raise Died
        log(self, entry)
        if dies(events[-1], before=False):
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        patch.setattr(Run, "log", logged)
        yield events


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_killed_at_any_write_it_ends_as_if_nothing_had_happened(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before every renamed file and every line of the curve."""
    monkeypatch.setattr(trainer, "LOG_SECONDS", 0.0)
    config = load_config(world.config, [*RETRIEVAL, "train.checkpoint_minutes=0"])

    def start(out: Path) -> None:
        train(config, [world.store], out, resume=True)

    whole = tmp_path / "whole"
    with dying(monkeypatch, -1, after=True) as events:
        start(whole)
    assert events.count("last.safetensors") == 5 and events.count("best.safetensors") >= 1
    assert [entry["step"] for entry in curve(whole)] == [1, 2, 2, 3, 4, 4]
    # After one write is before the next, so only the last is tried both ways.
    moments = [(at, False) for at in range(len(events))] + [(len(events) - 1, True)]
    for at, after in moments:
        out = tmp_path / f"{at}-{after}"
        with dying(monkeypatch, at, after), pytest.raises(Died):
            start(out)
        start(out)
        where = f"killed {'after' if after else 'before'} write {at} ({events[at]})"
        assert_equal_weights(out, whole)
        assert curve(out) == curve(whole), where
        assert files(out) == files(whole), where
        shutil.rmtree(out)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("server")) as server:
        yield server


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.parametrize(
    "more",
    [("train.checkpoint_minutes=0",), ("train.injection.sites=[up.0]", "train.features=sd")],
    ids=["cached", "live"],
)
def test_sigkill_at_random_moments_then_resume(
    world: World, server: Processes, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Whatever is killed: the weights are those of a run that never was."""
    items = ("task=fine_grained", "dataset.size=96", "train.batch_size=12", "train.epochs=2", *more)
    server.start(*world.command(tmp_path / "whole", *items))
    began = time.monotonic()
    assert server.wait() == 0, server.output()
    seconds = time.monotonic() - began
    out, rng, n_kills = tmp_path / "killed", random.Random(0), 0
    arguments = world.command(out, *items, extra=["--resume"])
    for _ in range(3):
        process = server.start(*arguments)
        wait_for(out / "config.yaml")
        time.sleep(rng.uniform(0.1, 0.5) * seconds)
        os.kill(process, signal.SIGKILL)
        n_kills += server.wait() == -signal.SIGKILL
    assert n_kills > 0
    server.start(*arguments)
    assert server.wait() == 0, server.output()
    assert_equal_weights(out, tmp_path / "whole")
    assert validations(out) == validations(tmp_path / "whole")
    steps = [entry["step"] for entry in curve(out) if "loss" in entry]
    assert steps == sorted(set(steps))
    assert not list(out.glob("*.tmp"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_it_says_in_one_line_how_to_go_on(
    world: World, server: Processes, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    items = (*RETRIEVAL, "train.epochs=100000")
    process = server.start(*world.command(tmp_path / "run", *items))
    wait_for(tmp_path / "run" / "last.safetensors")
    os.kill(process, number)
    assert server.wait() == code, server.output()
    last = server.output().strip().splitlines()[-1]
    assert last.startswith("stopped") and "--resume" in last
    assert "Traceback" not in server.output()


def test_a_finished_run_is_not_written_to_again(world: World, tmp_path: Path) -> None:
    """Its injection is what a store is being made with, perhaps by another process."""
    items = (*RETRIEVAL, "train.epochs=1", "train.injection.sites=[up.0]")
    out = tmp_path / "run"

    def files() -> dict[str, tuple[int, int]]:
        found = [path for path in out.iterdir() if path.is_file()]
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}

    world.train(out, *items)
    before = files()
    world.train(out, *items, extra=["--resume"])
    assert files() == before
    # A damaged injection is written anew.
    injection = out / "injection.safetensors"
    whole = injection.read_bytes()
    injection.write_bytes(whole[:-9])
    world.train(out, *items, extra=["--resume"])
    assert injection.read_bytes() == whole


def test_a_finished_run_is_resumed_without_a_step(world: World, copied: Path) -> None:
    before = weights(copied), (copied / "metrics.jsonl").read_text()
    result = world.train(copied, *RETRIEVAL, extra=["--resume", "--json"])
    assert json.loads(result.stdout)["epochs"] == 2
    assert (copied / "metrics.jsonl").read_text() == before[1]
    assert_equal_weights(copied, copied)
    assert all(torch.equal(weights(copied)["last"][k], v) for k, v in before[0]["last"].items())


def test_the_seed_decides_the_weights(world: World, done: Path, tmp_path: Path) -> None:
    world.train(tmp_path / "again", *RETRIEVAL)
    assert_equal_weights(tmp_path / "again", done)
    world.train(tmp_path / "other", *RETRIEVAL, "train.seed=1")
    ours, theirs = weights(tmp_path / "other")["last"], weights(done)["last"]
    assert not all(torch.equal(ours[key], value) for key, value in theirs.items())


# What a folder holds -----------------------------------------------------------------------------


def test_the_folder_tells_what_was_read_and_why(world: World, done: Path) -> None:
    facts = json.loads((done / "run.json").read_text())
    store = FeatureStore.open(world.store)
    assert [entry["fingerprint"] for entry in facts["stores"]] == [store.fingerprint]
    assert (facts["task"], facts["protocol"]) == ("retrieval", "shapes-24-8")
    split = json.loads((done / "split.json").read_text())
    assert set(split) == {"train", "val", "test"}
    assert all(split.values())
    used = [image_id for part in split.values() for image_id in part]
    assert len(used) == len(set(used))
    assert set(used) <= set(Run(done).image_ids())
    assert load_config(done / "config.yaml").train.epochs == 2
    assert not [path for path in done.iterdir() if path.suffix in (".pt", ".pkl", ".bin")]
    with safe_open(done / "best.safetensors", "pt") as file:
        assert all(name.startswith("aggregation.") for name in file.keys())  # noqa: SIM118


def test_relative_paths_are_those_of_where_it_was_trained(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is evaluated and resumed from anywhere."""
    tiny.save_injection(tmp_path / "some.safetensors")
    shutil.copytree(world.root / "sd", tmp_path / "sd")
    monkeypatch.chdir(tmp_path)
    relative = ("extraction.injection=some.safetensors", "backbone.sd.source=sd")
    world.precompute(Path("store"), "dataset.size=96", *relative)
    ok(*world.command(Path("run"), *RETRIEVAL, *relative, store=Path("store")))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    ok("evaluate", tmp_path / "run", "--no-floors")
    assert str(tmp_path / "sd") == load_config(tmp_path / "run" / "config.yaml").backbone.sd.source


# Refusals ---------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_refused_without_resume(world: World, copied: Path) -> None:
    before = files(copied)
    line = complaint(*world.command(copied, *RETRIEVAL))
    assert "holds a run already" in line and "--resume" in line
    assert files(copied) == before


@pytest.mark.parametrize(
    ("item", "key"),
    [
        ("train.learning_rate=0.5", "train.learning_rate"),
        ("train.epochs=7", "train.epochs"),
        ("train.retrieval.margin=0.1", "train.retrieval.margin"),
        ("train.variants.ap=ap-voc", "train.variants.ap"),
        ("task=recognition", "task"),
        ("dataset.size=93", "dataset.size"),
        ("extraction.seed=4", "extraction.seed"),
    ],
)
def test_another_configuration_is_refused_and_the_key_named(
    world: World, done: Path, item: str, key: str
) -> None:
    line = complaint(*world.command(done, *RETRIEVAL, item, extra=["--resume"]))
    assert f"{key}: the run has" in line


@pytest.mark.parametrize("damage", ["cut", "empty", "words", "other", "foreign"])
def test_a_damaged_checkpoint_is_one_line(world: World, copied: Path, damage: str) -> None:
    last = copied / "last.safetensors"
    if damage == "cut":
        tiny.truncate(last)
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "words":
        last.write_text("not a checkpoint" * 10)
    elif damage == "other":
        save_file(load_file(last), last)  # without its facts
    else:
        facts = json.dumps(dict(load_facts(last)))
        save_file({"weight": torch.zeros(3)}, last, metadata={"sketchfusion": facts})
    line = complaint(*world.command(copied, *RETRIEVAL, extra=["--resume"]))
    if damage == "foreign":
        assert "weights are of another head" in line
    else:
        assert "last.safetensors: damaged" in line and "train the run again" in line


def test_a_damaged_best_checkpoint_is_one_line(copied: Path) -> None:
    tiny.truncate(copied / "best.safetensors")
    assert "best.safetensors" in complaint("evaluate", copied)
    (copied / "best.safetensors").unlink()
    assert "no trained weights" in complaint("evaluate", copied)


@pytest.mark.parametrize("name", ["run.json", "images.txt", "config.yaml"])
@pytest.mark.parametrize("content", ["", "{", "[]", None], ids=["empty", "cut", "list", "missing"])
def test_a_damaged_folder_is_one_line(
    world: World, copied: Path, name: str, content: str | None
) -> None:
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_text(content)
    line = complaint("evaluate", copied)
    assert str(copied) in line


def test_lines_of_a_curve_that_nobody_wrote_are_left_out(copied: Path) -> None:
    run = open_run(copied)
    before = run.curve()
    with (copied / "metrics.jsonl").open("a") as file:
        for entry in (
            '"validation": 5',
            '"validation": {"map@all": "high"}',
            '"loss": "a"',
            '"loss": null',
        ):
            file.write(f'{{"step": 1, "epoch": 1, {entry}}}\n')
    assert run.curve() == before


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    assert "not a run" in complaint("evaluate", tmp_path)
    assert "not a run" in complaint("evaluate", tmp_path / "nowhere")


def test_a_run_that_could_not_begin_leaves_no_folder_to_resume(
    world: World, tmp_path: Path
) -> None:
    """The next try, with the cause mended, is not told to resume."""
    out = tmp_path / "run"
    # Of the first 12 images none is a validation or test pair, or all are of one part.
    complaint(*world.command(out, "task=retrieval", "dataset.size=6"))
    assert not Run(out).exists
    world.train(out, *RETRIEVAL)


def test_two_at_once_into_one_folder_are_refused(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with Run(out).held():
        assert "another process" in complaint(*world.command(out, *RETRIEVAL))
    world.train(out, *RETRIEVAL)
    with Run(out).held():
        assert "another process" in complaint(*world.command(out, *RETRIEVAL, extra=["--resume"]))


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_system(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tmp_path / "nowhere" / "a.safetensors", Checkpoint({}, {}))

    def full(*arguments: object, **options: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr("pipeline.networks.saving.save_file", full)
    line = complaint(*world.command(tmp_path / "run", *RETRIEVAL))
    assert "No space left" in line and "best.safetensors" in line


# Stores -----------------------------------------------------------------------------------------

OTHERS = {
    "seed": ("extraction.seed=9",),
    "injection": ("extraction.injection={root}/some.safetensors",),
    "unet": ("backbone.sd.source={root}/other/sd",),
}


@pytest.fixture(scope="module")
def others(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of the same images by other recipes: by the field in which each differs."""
    root = tmp_path_factory.mktemp("others")
    tiny.save_injection(root / "some.safetensors")
    save_networks(root / "other", seed=7)
    return {
        field: world.precompute(
            root / field, "dataset.size=96", *(item.format(root=root) for item in items)
        )
        for field, items in OTHERS.items()
    }


@pytest.mark.parametrize("field", ["seed", "injection"])
def test_a_store_of_another_recipe_is_refused_and_the_field_named(
    world: World, others: dict[str, Path], tmp_path: Path, field: str
) -> None:
    line = complaint(*world.command(tmp_path / "run", *RETRIEVAL, store=others[field]))
    assert f"{field}: " in line and str(others[field]) in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [(), ("train.injection.sites=all",)], ids=["cached", "live"])
def test_a_store_of_other_weights_is_refused_and_the_field_named(
    world: World, others: dict[str, Path], tmp_path: Path, more: tuple[str, ...]
) -> None:
    line = complaint(*world.command(tmp_path / "run", *RETRIEVAL, *more, store=others["unet"]))
    assert "unet" in line or "backbone.sd.source" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["seed", "injection", "unet"])
def test_stores_of_two_recipes_do_not_mix(
    world: World, others: dict[str, Path], tmp_path: Path, field: str
) -> None:
    both = world.command(tmp_path / "run", *RETRIEVAL, extra=["--cache", others[field]])
    assert field in complaint(*both)


@pytest.mark.parametrize("field", ["seed", "injection", "unet"])
def test_resuming_and_evaluating_with_a_store_made_anew_is_refused(
    world: World, others: dict[str, Path], tmp_path: Path, field: str
) -> None:
    """The store a run was trained on has been replaced by one of another recipe."""
    store = tmp_path / "store"
    shutil.copytree(world.store, store)
    out = tmp_path / "run"
    ok(*world.command(out, *RETRIEVAL, store=store))
    shutil.rmtree(store)
    shutil.copytree(others[field], store)
    named = "backbone.sd.source: store has" if field == "unet" else f"{field}: store has"
    assert named in complaint("evaluate", out)
    again = world.command(out, *RETRIEVAL, store=store, extra=["--resume"])
    assert named in complaint(*again)
    aside = world.command(out, *RETRIEVAL, store=others[field], extra=["--resume"])
    assert named in complaint(*aside)
    shutil.rmtree(store)
    assert str(store) in complaint("evaluate", out)


def test_a_store_of_other_pictures_with_the_same_names_is_refused(
    world: World, tmp_path: Path
) -> None:
    """Worlds of two seeds call their images alike."""
    store = world.precompute(tmp_path / "store", "dataset.size=96", "dataset.seed=1")
    line = complaint(*world.command(tmp_path / "run", *RETRIEVAL, store=store))
    assert "another picture" in line
    ok(*world.command(tmp_path / "run", *RETRIEVAL, "dataset.seed=1", store=store))
    line = complaint("evaluate", tmp_path / "run", "--cache", world.store)
    assert "another picture" in line


def test_a_store_that_has_grown_gives_the_same_run(world: World, tmp_path: Path) -> None:
    """Pictures of a folder joined dataset and store; split and result stay."""
    pictures = tmp_path / "pictures"
    for category in "abcd":
        for domain in ("photo", "sketch"):
            tiny.write_images(pictures / domain / category, 3, seed=ord(category) + len(domain))
    networks = world.root
    config = write_config(
        tmp_path / "c.yaml", networks, {"name": "folder", "root": str(pictures)}, batch_size=4
    )
    store, out = tmp_path / "store", tmp_path / "run"
    arguments = ["train", config, "--cache", store, "--out", out, *sets("task=retrieval")]
    ok("precompute", config, "--out", store)
    ok(*arguments)
    before = json.loads(ok("evaluate", out, "--json").stdout)
    assert before["protocol"] == "held-out-1"
    # Four more categories: by now a quarter would be two.
    for category in "efgh":
        for domain in ("photo", "sketch"):
            tiny.write_images(pictures / domain / category, 3, seed=ord(category) + len(domain))
    tiny.write_images(pictures / "photo" / "a" / "more", 2, seed=1)
    ok("precompute", config, "--out", store)
    assert len(FeatureStore.open(store)) == 24 + 24 + 2
    assert json.loads(ok("evaluate", out, "--json").stdout) == before
    (out / "last.safetensors").unlink()
    ok(*arguments, "--resume")
    assert json.loads(ok("evaluate", out, "--json").stdout) == before


def test_a_store_that_lost_images_is_refused(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    store = world.precompute(tmp_path / "store", "dataset.size=96")
    ok(*world.command(out, *RETRIEVAL, store=store))
    shutil.rmtree(store)
    world.precompute(store, "dataset.size=48")
    assert "lacks 48 images" in complaint("evaluate", out)
    again = world.command(out, *RETRIEVAL, store=store, extra=["--resume"])
    assert "lacks 48 images" in complaint(*again)


def test_a_dataset_that_lost_images_is_refused(world: World, tmp_path: Path) -> None:
    """The store still has them, but nobody knows any more what they show."""
    pictures = tmp_path / "pictures"
    for category in "abcd":
        for domain in ("photo", "sketch"):
            tiny.write_images(pictures / domain / category, 3, seed=ord(category) + len(domain))
    dataset = {"name": "folder", "root": str(pictures)}
    config = write_config(tmp_path / "c.yaml", world.root, dataset, batch_size=4)
    store, out = tmp_path / "store", tmp_path / "run"
    ok("precompute", config, "--out", store)
    ok("train", config, "--cache", store, "--out", out, *sets("task=retrieval"))
    split = json.loads((out / "split.json").read_text())
    (pictures / split["test"][0]).unlink()
    line = complaint("evaluate", out)
    assert "split" in line and split["test"][0] in line


def test_a_moved_store_is_found_with_cache(world: World, tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "run"
    shutil.copytree(world.store, store)
    items = (*RETRIEVAL, "train.epochs=3")
    ok(*world.command(out, *items, store=store))
    shutil.move(store, tmp_path / "moved")
    (out / "last.safetensors").unlink()
    assert str(store) in complaint("train", world.config, "--out", out, *sets(*items), "--resume")
    ok(*world.command(out, *items, store=tmp_path / "moved", extra=["--resume"]))


def test_the_run_that_is_not_there_yet_may_be_resumed(world: World, tmp_path: Path) -> None:
    """So that one command line serves a job that is started again and again."""
    assert run(*world.command(tmp_path / "run", *RETRIEVAL, extra=["--resume"])).exit_code == 0
