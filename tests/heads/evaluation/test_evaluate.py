"""Evaluation: what it prints, what it compares with, and data that is hardly any."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache import FeatureStore
from heads.evaluation.evaluate import evaluate, reopen
from heads.evaluation.result import Evaluation
from heads.evaluation.table import text_table
from heads.training.run import Run
from tests import tiny
from tests.heads.worlds import (
    World,
    complaint,
    ok,
    run,
    sets,
    write_config,
)

TASKS = {
    "correspondence": {"pck@5", "pck@10"},
    "retrieval": {"map@all", "map@200", "p@100", "p@200"},
    "fine_grained": {"acc@1", "acc@5"},
    "recognition": {"acc@1", "acc@5"},
    "segmentation": {"miou", "pacc"},
}
FLOORS = {
    "correspondence": {"copied position", "dense HOG"},
    "retrieval": {"global HOG"},
    "fine_grained": {"global HOG"},
    "recognition": {"global HOG"},
    "segmentation": {"mean mask"},
}


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each task from the one store."""
    root = tmp_path_factory.mktemp("runs")
    for task in TASKS:
        world.train(root / task, f"task={task}", "train.epochs=1")
    return root


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def scored(*arguments: str | Path) -> dict[str, Any]:
    """`evaluate --json`; whatever it prints must be strict JSON of fractions."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in the JSON")

    found = json.loads(ok("evaluate", *arguments, "--json").stdout, parse_constant=refuse)
    for key in ("metrics", "baselines", "chance", "beside", "paper"):
        for value in numbers(found[key]):
            assert math.isfinite(value) and 0 <= value <= 1
    return found


@pytest.mark.parametrize("task", TASKS)
def test_the_result_of_each_task(world: World, runs: Path, task: str) -> None:
    found = scored(runs / task)
    assert {
        "task", "protocol", "split", "metrics", "baselines", "chance", "stores", "n",
    } <= found.keys()  # fmt: skip
    assert (found["task"], found["split"]) == (task, "test")
    assert found["metrics"].keys() >= TASKS[task] and found["chance"].keys() >= TASKS[task]
    assert found["baselines"].keys() == {"B-CLIP", "B-SD", "B-SD+CLIP"} | FLOORS[task]
    for metrics in found["baselines"].values():
        assert metrics.keys() == found["metrics"].keys()
    assert found["missing"].keys() == {"B-DINO", "B-DINOv2"}
    assert found["stores"] == [FeatureStore.open(world.store).fingerprint]
    assert isinstance(found["n"], int) and found["n"] > 0
    assert found["paper"] == {}
    assert json.loads((runs / task / "evaluation.json").read_text()) == found


@pytest.mark.parametrize("task", TASKS)
def test_the_table_names_protocol_variants_and_everything_beside(runs: Path, task: str) -> None:
    found = scored(runs / task, "--no-floors")
    printed = ok("evaluate", runs / task, "--no-floors").stdout
    title, header, *rows = printed.splitlines()
    assert found["protocol"] in title and f"n = {found['n']:,}" in title
    for key, value in found["variants"].items():
        assert f"{key} {value}" in title
    assert header.split() == list(found["metrics"])
    own = f"this run: {found['name']}"
    for name in (own, *found["baselines"], "chance"):
        assert any(row.startswith(name) for row in rows), name
    name, value = list(found["metrics"].items())[-1]
    last = f"{100 * value:.2f} ± {100 * found['errors'][name]:.2f}"
    assert rows[0].startswith(own) and rows[0].endswith(last)
    assert len({len(row) for row in rows[: 1 + len(found["baselines"])]}) == 1
    # What it is ahead of each baseline by stands below, if it can be told.
    (start,) = [n for n, row in enumerate(rows) if row.endswith("this run minus")]
    for row, (name, gap) in zip(rows[start + 1 :], found["differences"].items(), strict=False):
        found_gap = gap[found["headline"]]
        assert row.split("  ")[1] == name
        unclear = found_gap["low"] <= 0 <= found_gap["high"]
        assert row.endswith("not distinguishable") == unclear


def test_without_floors_there_are_none(runs: Path) -> None:
    found = scored(runs / "retrieval", "--no-floors")
    assert found["baselines"].keys() == {"B-CLIP", "B-SD", "B-SD+CLIP"}


def test_evaluation_uses_the_best_weights(world: World, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(runs / "retrieval", out)
    before = scored(out)["metrics"]
    shutil.copy(out / "best.safetensors", tmp_path / "kept")
    world.train(tmp_path / "other", "task=retrieval", "train.seed=5", "train.learning_rate=0.01")
    shutil.copy(tmp_path / "other" / "best.safetensors", out)
    assert scored(out)["metrics"] == scored(tmp_path / "other")["metrics"] != before
    (out / "last.safetensors").unlink()
    shutil.copy(tmp_path / "kept", out / "best.safetensors")
    assert scored(out)["metrics"] == before


def test_evaluating_changes_nothing_else_and_repeats(runs: Path) -> None:
    folder = runs / "segmentation"

    def state() -> dict[str, bytes]:
        results = {"evaluation.json", "report.html"}
        paths = (path for path in folder.iterdir() if path.name not in results)
        return {path.name: path.read_bytes() for path in paths if path.is_file()}

    before, first = state(), scored(folder)
    assert scored(folder) == first
    assert state() == before


def test_an_unfinished_run_is_evaluated_and_says_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heads.training import trainer

    class Died(BaseException):
        pass

    logged = trainer._Logger.validation

    def validation(self: Any, state: Any, *arguments: Any) -> None:
        logged(self, state, *arguments)
        if state.epoch == 2:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Logger, "validation", validation)
        with pytest.raises(Died):
            world.train(tmp_path / "run", "task=retrieval", "train.epochs=3")
    found = scored(tmp_path / "run", "--no-floors")
    assert any("not finished" in note for note in found["notes"])
    world.train(tmp_path / "run", "task=retrieval", "train.epochs=3", extra=["--resume"])
    found = scored(tmp_path / "run", "--no-floors")
    assert not any("not finished" in note for note in found["notes"])


def test_what_cannot_be_written_is_printed_all_the_same(runs: Path, tmp_path: Path) -> None:
    """The run of somebody else, whose folder may not be written to."""
    out = tmp_path / "run"
    shutil.copytree(runs / "retrieval", out)
    expected = scored(out, "--no-floors")
    for name in ("evaluation.json", "report.html"):
        (out / name).unlink()
        (out / name).mkdir()
    result = ok("evaluate", out, "--no-floors", "--json")
    assert json.loads(result.stdout) == expected
    assert result.stderr.count("not written (Is a directory)") == 2


# Other runs and stores beside it ------------------------------------------------------------------


def test_another_run_beside_it(world: World, runs: Path, tmp_path: Path) -> None:
    world.train(tmp_path / "probe", "task=retrieval", "train.aggregation=linear")
    found = scored(runs / "retrieval", "--beside", tmp_path / "probe", "--no-floors")
    assert found["baselines"]["B-SD+CLIP (probe)"] == scored(tmp_path / "probe")["metrics"]
    # Two of one name are told apart, and one's own name is not taken.
    for name in ("one", "two"):
        shutil.copytree(runs / "retrieval", tmp_path / name)
    both = ["--beside", tmp_path / "one", "--beside", tmp_path / "two"]
    found = scored(runs / "retrieval", *both, "--no-floors")
    others = [metrics for name, metrics in found["baselines"].items() if "aggregated" in name]
    assert others == [found["metrics"]] * 2
    assert found["name"] not in found["baselines"]


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (("task=recognition",), "do not belong into one table"),
        (("task=retrieval", "train.protocol=held-out-4"), "do not belong into one table"),
        (("task=retrieval", "train.variants.ap=ap-voc"), "ap-voc"),
        (("task=retrieval", "dataset.size=96"), "other images"),
    ],
)
def test_a_run_that_is_not_comparable_is_refused(
    world: World, runs: Path, tmp_path: Path, items: tuple[str, ...], says: str
) -> None:
    world.train(tmp_path / "other", *items, "train.epochs=1")
    assert says in complaint("evaluate", runs / "retrieval", "--beside", tmp_path / "other")


def test_what_is_beside_must_be_a_run(runs: Path, tmp_path: Path) -> None:
    assert "not a run" in complaint("evaluate", runs / "retrieval", "--beside", tmp_path)
    assert str(tmp_path) in complaint("evaluate", runs / "retrieval", "--cache", tmp_path)


def test_plain_sd_beside_an_injected_store(world: World, tmp_path: Path) -> None:
    injection = tiny.save_injection(tmp_path / "some.safetensors")
    item = f"extraction.injection={injection}"
    store = world.precompute(tmp_path / "store", "dataset.size=96", item)
    base = ("task=retrieval", "dataset.size=96", item, "train.epochs=1")
    ok(*world.command(tmp_path / "run", *base, "train.features=sd", store=store))
    found = scored(tmp_path / "run", "--no-floors")
    assert found["name"] == "SketchFusion"
    assert found["baselines"].keys() == {"B-CLIP"}
    assert "--cache" in found["missing"]["B-SD"]
    found = scored(tmp_path / "run", "--no-floors", "--cache", world.store)
    assert found["baselines"].keys() == {"B-CLIP", "B-SD", "B-SD+CLIP"}
    small = world.precompute(tmp_path / "small", "dataset.size=48")
    found = scored(tmp_path / "run", "--no-floors", "--cache", small)
    assert "lacks some of the images" in found["missing"]["B-SD"]


# Paper ------------------------------------------------------------------------------------------


def test_published_numbers_stand_only_beside_all_of_their_images(
    world: World, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heads.protocols import paper
    from heads.protocols.base import Parts

    numbers = paper.PaperNumbers({"SD-PL": {"map@all": 0.7}}, "not quite the same")
    monkeypatch.setitem(paper._NUMBERS, ("retrieval", "shapes-24-8"), numbers)
    found = evaluate(runs / "retrieval", floors=False)
    assert found.paper == {"SD-PL": {"map@all": 0.7}}
    assert "published numbers: not quite the same" in found.notes
    table = text_table(found)
    assert any(line.split()[:3] == ["paper:", "SD-PL", "70.00"] for line in table.splitlines())
    whole = Parts.__init__

    def incomplete(self: Any, *arguments: Any, **options: Any) -> None:
        whole(self, *arguments, **options)
        object.__setattr__(self, "complete", False)

    monkeypatch.setattr(Parts, "__init__", incomplete)
    found = evaluate(runs / "retrieval", floors=False)
    assert found.paper == {}
    assert any("left out" in note for note in found.notes)


def test_the_table_shows_a_dash_for_what_is_not_known() -> None:
    table = text_table(
        Evaluation(
            "ours", "retrieval", "p", {"ap": "ap-voc"}, "test", {"map@all": 0.5, "p@100": 0.25},
            {}, {}, {}, {"p@100": 0.1}, {"method": {"map@all": 0.875}}, 1234, ["f"], ["a note"],
        )
    )  # fmt: skip
    assert table.splitlines() == [
        "retrieval by p (ap ap-voc), test part, n = 1,234",
        "                map@all  p@100",
        "this run: ours    50.00  25.00",
        "chance                -  10.00",
        "paper: method     87.50      -",
        "a note",
    ]


# PSC6K --------------------------------------------------------------------------------------------


def pictures_of_pairs(root: Path, n_categories: int, n_pairs: int) -> list[str]:
    """Pictures with a spot at each of four points, and the rows of their table."""
    rng = np.random.default_rng(0)
    rows = []
    for category in range(n_categories):
        for number in range(n_pairs):
            names = (
                f"photo/tx_000100000000/c{category}/n{category}_{number:03d}.jpg",
                f"sketch/tx_000100000000/c{category}/n{category}_{number:03d}-1.png",
            )
            cells = []
            for name in names:
                points = rng.uniform(20, 236, (4, 2)).round(1)
                pixels = np.full((64, 64, 3), 255, np.uint8)
                for k, (x, y) in enumerate(points / 4):
                    pixels[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = (60 * k, 0, 200)
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / name)
                cells += [";".join(map(str, points[:, axis])) for axis in (0, 1)]
            rows.append(",".join([*names, str(category), *cells]))
    return rows


@pytest.fixture(scope="module")
def psc6k(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of 2 categories x 33 test pairs and 2 x 6 training pairs, with a store."""
    root = tmp_path_factory.mktemp("psc6k")
    header = "photo,sketch,class,XA,YA,XB,YB"
    rows = pictures_of_pairs(root / "data", 2, 39)
    train = [row for row in rows if int(row.split(".jpg")[0][-3:]) >= 33]
    test = [row for row in rows if row not in train]
    (root / "data" / "test_pairs_ps.csv").write_text("\n".join([header, *test]) + "\n")
    (root / "data" / "train_pairs_ps.csv").write_text("\n".join([header, *train]) + "\n")
    write_config(
        root / "c.yaml", world.root, {"name": "psc6k", "root": str(root / "data")}, batch_size=4
    )
    ok("precompute", root / "c.yaml", "--out", root / "store")
    return root


@pytest.mark.parametrize(
    ("protocol", "n_test", "n_train", "threshold"),
    [("psc6k-official", 66, 10, "<="), ("sketchfusion-release", 6, 60, "<")],
)
def test_correspondence_on_psc6k_by_both_protocols(
    psc6k: Path, tmp_path: Path, protocol: str, n_test: int, n_train: int, threshold: str
) -> None:
    named = [] if protocol == "psc6k-official" else sets(f"train.protocol={protocol}")
    result = ok(
        "train", psc6k / "c.yaml", "--cache", psc6k / "store", "--out", tmp_path / "run",
        *sets("task=correspondence"), *named,
    )  # fmt: skip
    n_val = 2 if protocol == "psc6k-official" else 0
    expected = f"by {protocol}: {n_train} to train on, {n_val} to validate, {n_test} to test"
    assert expected in result.stderr
    found = scored(tmp_path / "run")
    assert (found["protocol"], found["n"]) == (protocol, n_test)
    assert found["variants"] == {"threshold": threshold}
    assert found["paper"] == {}
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert not set(split["test"]) & set(split["train"])
    facts = json.loads((tmp_path / "run" / "best.json").read_text())
    assert (facts["epoch"] == 2) or n_val  # without validation the last epoch is the best
    assert "best validation" in result.stdout if n_val else "best validation" not in result.stdout


def test_psc6k_without_training_pairs_says_what_to_do(psc6k: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(psc6k / "data", data)
    (data / "train_pairs_ps.csv").unlink()
    line = complaint(
        "train", psc6k / "c.yaml", "--cache", psc6k / "store", "--out", tmp_path / "run",
        *sets("task=correspondence", f"dataset.root={data}"),
    )  # fmt: skip
    assert "no annotated training pairs" in line and "sketchfusion-release" in line
    assert not (tmp_path / "run").exists()


# Own folders, and hardly any data -----------------------------------------------------------------


def own_folder(root: Path, counts: dict[str, int], network: Path, **train: Any) -> Path:
    """A configuration of a folder with so many pictures in each sub-folder, and its store."""
    for seed, (name, n) in enumerate(counts.items()):
        tiny.write_images(root / "pictures" / name, n, seed=seed)
    dataset = {"name": "folder", "root": str(root / "pictures")}
    config = write_config(root / "c.yaml", network, dataset, **train)
    ok("precompute", config, "--out", root / "store")
    return config


def command(root: Path, *items: str) -> list[str | Path]:
    return ["train", root / "c.yaml", "--cache", root / "store", "--out", root / "run",
            *sets(*items)]  # fmt: skip


def test_recognition_on_folders_of_sketches(world: World, tmp_path: Path) -> None:
    counts = {"cat": 12, "hot-air_balloon": 12, "Dog": 12}
    own_folder(tmp_path, counts, world.root, batch_size=8)
    ok(*command(tmp_path, "task=recognition"))
    found = scored(tmp_path / "run")
    assert found["protocol"] == "stratified" and found["variants"] == {"seed": "0"}
    assert found["n"] == 6 and found["chance"] == {"acc@1": pytest.approx(1 / 3), "acc@5": 1.0}
    experiment = reopen(Run(tmp_path / "run"), lambda line: None)
    assert experiment.task.parts.test.classes == ("cat", "dog", "hot air balloon")
    shutil.rmtree(tmp_path / "run")
    ok(*command(tmp_path, "task=recognition", "train.recognition.classifier=mlp"))
    assert scored(tmp_path / "run")["n"] == 6


def test_retrieval_with_own_categories_held_out(world: World, tmp_path: Path) -> None:
    counts = {f"{domain}/{c}": 3 for domain in ("photo", "sketch") for c in "abcde"}
    own_folder(tmp_path, counts, world.root, batch_size=4)
    ok(*command(tmp_path, "task=retrieval", "train.protocol=held-out-2",
                "train.variants.unseen=[b, D]"))  # fmt: skip
    found = scored(tmp_path / "run")
    assert (found["protocol"], found["n"]) == ("held-out-2", 6)
    assert found["variants"]["unseen"] == "listed"
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert {name.split("/")[1] for name in split["test"]} == {"b", "d"}
    assert {name.split("/")[1] for name in split["train"]} == {"a", "c", "e"}
    line = complaint("train", tmp_path / "c.yaml", "--cache", tmp_path / "store",
                     *sets("task=fine_grained"), "--out", tmp_path / "fine")  # fmt: skip
    assert "own photo" in line


TINY_DATA = {
    "one image in a class": ({"photo/a": 1, "sketch/a": 3, "photo/b": 1, "sketch/b": 3}, ()),
    "one photo in the seen class, many sketches": (
        {"photo/a": 1, "sketch/a": 9, "photo/b": 3, "sketch/b": 3},
        ("train.variants.unseen=[b]", "train.protocol=held-out-1"),
    ),
    "one sketch in the seen class, many photos": (
        {"photo/a": 9, "sketch/a": 1, "photo/b": 3, "sketch/b": 3},
        ("train.variants.unseen=[b]", "train.protocol=held-out-1"),
    ),
    "one class": ({"photo/a": 3, "sketch/a": 3}, ()),
    "no sketch": ({"photo/a": 3, "photo/b": 3}, ()),
    "batch of one": (
        {"photo/a": 3, "sketch/a": 3, "photo/b": 3, "sketch/b": 3},
        ("train.batch_size=1",),
    ),
    "batch of more than all": (
        {"photo/a": 3, "sketch/a": 3, "photo/b": 3, "sketch/b": 3},
        ("train.batch_size=100000",),
    ),
    "pictures without folders": ({".": 4}, ()),
}


@pytest.mark.parametrize("name", TINY_DATA)
@pytest.mark.parametrize("task", ["retrieval", "recognition", "fine_grained", "correspondence",
                                  "segmentation"])  # fmt: skip
def test_hardly_any_data_gives_a_result_or_one_line(
    world: World, stores: dict[str, Path], tmp_path: Path, name: str, task: str
) -> None:
    items = TINY_DATA[name][1]
    if task in ("recognition", "correspondence"):
        items = tuple(item for item in items if "batch" in item)
    root, out = stores[name], tmp_path / "run"
    result = run(*command(root, f"task={task}", *items), "--out", out)
    if result.exit_code:
        assert result.stderr.strip().splitlines()[-1].startswith(f"Error: {task}"), result.stderr
        assert not out.exists()
    else:
        found = scored(out)
        assert found["n"] > 0
        for line in (out / "metrics.jsonl").read_text().splitlines():
            assert all(math.isfinite(value) for value in numbers(json.loads(line)))
    if name.startswith("batch") and task in ("retrieval", "recognition"):
        assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def stores(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of `TINY_DATA`, each precomputed once."""
    made: dict[str, Path] = {}
    known: dict[str, Path] = {}
    for name, (counts, _) in TINY_DATA.items():
        key = json.dumps(counts)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("tiny")
            own_folder(known[key], counts, world.root, batch_size=4)
        made[name] = known[key]
    return made


@pytest.mark.parametrize("batch_size", [1, 100_000])
@pytest.mark.parametrize("task", TASKS)
def test_any_batch_size_trains_every_task(
    world: World, tmp_path: Path, task: str, batch_size: int
) -> None:
    items = (f"train.batch_size={batch_size}", "train.epochs=1", "train.width=8")
    world.train(tmp_path / "run", f"task={task}", *items)
    assert scored(tmp_path / "run", "--no-floors")["n"] > 0
