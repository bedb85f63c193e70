"""Baselines: which store gives which, and their scores against numpy on the same features."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cache import ArraySpec, FeatureStore, ImageRecord, Recipe, StoreWriter
from configs import Config, load_config
from heads.evaluation.baselines import (
    FAMILIES,
    Baseline,
    find_baselines,
    score_baseline,
    score_floors,
)
from heads.frame import Frame
from heads.protocols import find_protocol
from heads.tasks import TASKS
from pipeline.datasets.shapes import ShapesDataset

SPECS = [
    ArraySpec("sd/t195/s3", (3, 6, 6), "float32"),
    ArraySpec("sd/t195/s5", (5, 3, 3), "float32"),
    ArraySpec("clip/tokens", (4, 4, 4), "float32"),
    ArraySpec("clip/pooled", (2,), "float32"),
]
DINO_SPECS = [
    ArraySpec("dino/tokens", (3, 4, 4), "float32"),
    ArraySpec("dino/pooled", (3,), "float32"),
]
SD_NAMES = ["sd/t195/s3", "sd/t195/s5"]
PIXELS = 64
DATASET = ShapesDataset(size=192, pixels=PIXELS)
CPU = torch.device("cpu")
Values = dict[str, dict[str, np.ndarray]]
"""By image and array."""


def config_of(*sets: str) -> Config:
    return load_config("demo", ["extraction.layers=[s3, s5]", "extraction.timesteps=[195]", *sets])


def features(ids: Sequence[str], specs: Sequence[ArraySpec], seed: int = 0) -> Values:
    """Random, and a little alike within a category, so that scores are neither 0 nor 1."""
    chance = np.random.default_rng(seed)
    values: Values = {}
    for name in ids:
        kind = np.random.default_rng(sum(name.split("/")[1].encode()))
        values[name] = {
            spec.name: (kind.normal(size=spec.shape) + 2 * chance.normal(size=spec.shape)).astype(
                np.float32
            )
            for spec in specs
        }
    return values


def write(
    path: Path,
    ids: Sequence[str] = ("a/a/0", "a/a/1"),
    specs: Sequence[ArraySpec] = SPECS,
    values: Values | None = None,
    n_shards: int | None = None,
    world: str = "",
    backbone: Any = None,
    **fields: Any,
) -> FeatureStore:
    """A store of these images, in shards of 8 or 64; with `n_shards` only the first of them."""
    images = [
        ImageRecord(name, hashlib.sha256(f"{world}{name}".encode()).hexdigest(), PIXELS, PIXELS)
        for name in ids
    ]
    recipe = Recipe(
        {"injection": None, "resolution": 48, "preprocessing": {"pad": "edge"}, **fields}
    )
    provenance = {"backbone": backbone} if backbone is not None else {}
    values = values or features(ids, specs)
    shard_size = 8 if len(ids) < 64 else 64
    writer = StoreWriter.open(path, recipe, images, specs, shard_size, provenance)
    for task in writer.pending()[:n_shards]:
        with writer.shard(task) as shard:
            for row in task.rows:
                shard.put(row, values[ids[row]])
            shard.commit(timings={})
    return FeatureStore.open(path)


def found_of(
    stores: Sequence[FeatureStore], images: Sequence[str] = ("a/a/0",), *sets: str
) -> tuple[dict[str, Baseline], dict[str, str]]:
    found, missing = find_baselines(config_of(*sets), stores, images)
    assert len(found) + len(missing) == len(FAMILIES)
    return {baseline.name: baseline for baseline in found}, missing


# Which store gives what


def test_a_plain_store_gives_three_baselines_and_says_why_not_the_others(tmp_path: Path) -> None:
    store = write(tmp_path / "plain")
    found, missing = found_of([store])
    assert {name: baseline.arrays for name, baseline in found.items()} == {
        "B-CLIP": ("clip/tokens",),
        "B-SD": tuple(SD_NAMES),
        "B-SD+CLIP": ("clip/tokens", *SD_NAMES),
    }
    assert all(baseline.stores == (store,) for baseline in found.values())
    assert all("backbone dino or dinov2" in missing[name] for name in ("B-DINO", "B-DINOv2"))


def test_an_injected_store_gives_clip_and_no_sd(tmp_path: Path) -> None:
    injected = write(tmp_path / "injected", injection="0f" * 32)
    found, missing = found_of([injected])
    assert set(found) == {"B-CLIP"}
    assert "no store of plain SD; give one with --cache" in missing["B-SD"]
    assert "no store of plain SD" in missing["B-SD+CLIP"]
    plain = write(tmp_path / "plain")
    found, _ = found_of([injected, plain])
    assert found["B-CLIP"].stores == (injected,)
    assert found["B-SD"].stores == found["B-SD+CLIP"].stores == (plain,)


def test_a_store_without_the_layers_or_timesteps_asked_for_gives_no_sd(tmp_path: Path) -> None:
    store = write(tmp_path / "plain")
    for key in ("extraction.timesteps=[60]", "train.layers=[s4]", "train.timesteps=[60, 195]"):
        found, _ = found_of([store], ("a/a/0",), key)
        assert set(found) == {"B-CLIP"}, key
    found, _ = found_of([store], ("a/a/0",), "train.layers=[s5]")
    assert found["B-SD"].arrays == ("sd/t195/s5",)


def test_a_store_of_layers_alone_gives_sd_alone(tmp_path: Path) -> None:
    found, missing = found_of([write(tmp_path / "sd", specs=SPECS[:2])])
    assert set(found) == {"B-SD"}
    assert missing["B-CLIP"] == "no store with clip/tokens"


def test_a_store_that_lacks_images_is_refused_and_says_so(tmp_path: Path) -> None:
    ids = [f"a/a/{i}" for i in range(20)]
    unfinished = write(tmp_path / "unfinished", ids, n_shards=2)
    found, missing = found_of([unfinished], ids)
    assert not found
    assert missing["B-SD"] == missing["B-CLIP"] == "its store lacks some of the images"
    assert set(found_of([unfinished], ids[:16])[0]) == {"B-CLIP", "B-SD", "B-SD+CLIP"}
    whole = write(tmp_path / "whole", ids, seed=1)
    found, _ = found_of([unfinished, whole], ids)
    assert found["B-SD"].stores == (whole,)


def test_stores_of_one_recipe_complete_each_other_and_of_two_do_not(tmp_path: Path) -> None:
    ids = [f"a/a/{i}" for i in range(6)]
    first, second = write(tmp_path / "1", ids[:4]), write(tmp_path / "2", ids[2:])
    found, _ = found_of([first, second], ids)
    assert found["B-SD"].stores == (first, second)
    stranger = write(tmp_path / "3", ids[2:], seed=5)
    assert not found_of([first, stranger], ids)[0]


def test_a_store_of_other_pictures_under_the_same_names_is_refused(tmp_path: Path) -> None:
    """Worlds of shapes with another seed have the same names."""
    ours = write(tmp_path / "ours", injection="0f" * 32)
    others = write(tmp_path / "others", world="another")
    found, missing = found_of([ours, others])
    assert set(found) == {"B-CLIP"} and found["B-CLIP"].stores == (ours,)
    assert missing["B-SD"] == "its store has other pictures under the same names"
    plain = write(tmp_path / "plain")
    assert found_of([ours, others, plain])[0]["B-SD"].stores == (plain,)


TIMM = {
    "B-DINO": ["vit_base_patch16_224.dino", "my/DINO.json"],
    "B-DINOv2": ["vit_base_patch14_dinov2.lvd142m", "dino/dinov2.json"],
    None: ["vit_base_patch16_dinov3.lvd1689m", "vit_base_patch16_224.augreg_in21k"],
}


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for name, models in TIMM.items() for model in models]
)
def test_a_vision_store_is_what_its_provenance_says(
    tmp_path: Path, model: str, name: str | None
) -> None:
    store = write(
        tmp_path / "v", specs=DINO_SPECS, backbone={"timm": {"model": model}, "name": None}
    )
    found, missing = found_of([store])
    assert set(found) == ({name} if name else set())
    assert ("B-DINO" in missing) == (name != "B-DINO")
    assert all("no store of it" in missing[n] for n in missing if n.startswith("B-DINO"))


def test_the_name_of_a_backbone_speaks_where_its_path_does_not(tmp_path: Path) -> None:
    named = {"timm": {"model": "model/vit.json"}, "name": "dinov2"}
    assert set(found_of([write(tmp_path / "n", specs=DINO_SPECS, backbone=named)])[0]) == {
        "B-DINOv2"
    }
    renamed = {"timm": {"model": "vit_base_patch16_224.dino"}, "name": "dinov2"}
    store = write(tmp_path / "r", specs=DINO_SPECS, backbone=renamed)
    assert set(found_of([store])[0]) == {"B-DINO"}


@pytest.mark.parametrize("backbone", [None, "dinov2", {"timm": None}, {"timm": "vit"}, {}])
def test_a_vision_store_that_says_nothing_is_no_baseline(tmp_path: Path, backbone: Any) -> None:
    assert not found_of([write(tmp_path / "v", specs=DINO_SPECS, backbone=backbone)])[0]


def test_both_dinos_stand_side_by_side(tmp_path: Path) -> None:
    stores = [
        write(tmp_path / str(i), specs=DINO_SPECS, backbone={"timm": {"model": model}}, clip=str(i))
        for i, model in enumerate(TIMM["B-DINO"][:1] + TIMM["B-DINOv2"][:1])
    ]
    found, _ = found_of(stores)
    assert found["B-DINO"].stores == (stores[0],) and found["B-DINOv2"].stores == (stores[1],)


def test_without_stores_all_are_missing() -> None:
    found, missing = found_of([])
    assert not found and set(missing) == set(FAMILIES)


# Scores


@pytest.fixture(scope="module")
def values() -> Values:
    return features(DATASET.ids, SPECS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, values: Values) -> FeatureStore:
    return write(tmp_path_factory.mktemp("stores") / "shapes", DATASET.ids, values=values)


@lru_cache
def task_of(name: str) -> Any:
    """The task on the shapes world, by the dataset's usual protocol."""
    by_class = name in ("retrieval", "fine_grained", "segmentation")
    protocol = find_protocol(name, "shapes-24-8" if by_class else "shapes")  # type: ignore[arg-type]
    sizes = dict.fromkeys(DATASET.ids, (PIXELS, PIXELS))
    parts = protocol.apply(DATASET.annotations, sizes)
    return TASKS[name](protocol, parts, Frame(sizes, 48, "edge"), config_of("train.grid=6").train)


def baseline(store: FeatureStore, *arrays: str) -> Baseline:
    return Baseline("any", (store,), arrays)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_a_retrieval_baseline_is_the_cosine_of_means_and_embeddings(
    store: FeatureStore, values: Values
) -> None:
    task = task_of("retrieval")
    part = task.parts.test

    def described(ids: Sequence[str]) -> torch.Tensor:
        rows = []
        for name in ids:
            means = [unit(values[name][array].mean((1, 2))) for array in SD_NAMES]
            rows.append(np.concatenate([unit(values[name]["clip/pooled"]), *means]))
        return torch.from_numpy(np.stack(rows))

    expected = task.protocol.score(part, described(part.queries), described(part.gallery))
    ours = score_baseline(baseline(store, "clip/tokens", *SD_NAMES), task, CPU)
    assert 0 < expected.metrics["map@all"] < 1
    assert ours.n == expected.n
    assert ours.metrics == {n: pytest.approx(v, abs=1e-6) for n, v in expected.metrics.items()}


def test_without_an_embedding_the_mean_of_the_tokens_serves(tmp_path: Path, values: Values) -> None:
    tokens = {name: {"clip/tokens": arrays["clip/tokens"]} for name, arrays in values.items()}
    bare = write(tmp_path / "bare", DATASET.ids, SPECS[2:3], tokens)
    task = task_of("recognition")
    score = score_baseline(baseline(bare, "clip/tokens"), task, CPU)

    def described(ids: Sequence[str]) -> np.ndarray:
        return np.stack([unit(values[name]["clip/tokens"].mean((1, 2))) for name in ids])

    train, test = task.parts.train, task.parts.test
    vectors, labels = described(train.ids), np.array(train.categories)
    means = np.stack([unit(vectors[labels == c].mean(0)) for c in np.unique(labels)])
    found = np.unique(labels)[(described(test.ids) @ means.T).argmax(1)]
    assert score.metrics["acc@1"] == pytest.approx((found == np.array(test.categories)).mean())


def test_a_segmentation_baseline_compares_sketches_and_cells_in_one_space(
    store: FeatureStore, values: Values
) -> None:
    """Clip's embedding has other channels than its tokens and must not take part."""
    task = task_of("segmentation")
    asked: list[str] = []
    original = Watched(store, asked)
    score = score_baseline(baseline(original, "clip/tokens"), task, CPU)
    assert "clip/pooled" not in asked and "clip/tokens" in asked
    assert score.n == sum(1 for _ in task.parts.test.combinations())
    assert 0 < score.metrics["miou"] < 1


class Watched:
    """A store that notes which arrays are read."""

    def __init__(self, store: FeatureStore, asked: list[str]) -> None:
        self._store, self._asked = store, asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._store

    def read(self, ids: Sequence[str], arrays: Sequence[str], pin: bool) -> Any:
        self._asked += arrays
        return self._store.read(ids, arrays, pin=pin)


def test_another_networks_square_is_its_own(tmp_path: Path) -> None:
    """The same features of a store that stretched pictures give points of stretched pictures."""
    ids = DATASET.ids
    given = features(ids, SPECS[:1])
    wide = {name: (PIXELS, PIXELS // 2) for name in ids}
    task = task_of("correspondence")
    task = type(task)(task.protocol, task.parts, Frame(wide, 48, "edge"), task.settings)
    scores, expected = [], []
    for pad in ("edge", "stretch"):
        made = write(tmp_path / pad, ids, SPECS[:1], given, preprocessing={"pad": pad})
        scores.append(score_baseline(baseline(made, "sd/t195/s3"), task, CPU).metrics["pck@10"])
        framed = type(task)(task.protocol, task.parts, Frame(wide, 48, pad), task.settings)
        again = score_baseline(baseline(made, "sd/t195/s3"), framed, CPU).metrics["pck@10"]
        expected.append(again)
    assert scores == expected and scores[0] != scores[1]


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_scores_every_baseline_alike_each_time(name: str, store: FeatureStore) -> None:
    task = task_of(name)
    found, _ = find_baselines(config_of(), [store], DATASET.ids)
    assert [one.name for one in found] == ["B-CLIP", "B-SD", "B-SD+CLIP"]
    for one in found:
        score = score_baseline(one, task, CPU)
        assert set(score.metrics) == set(task.protocol.metrics)
        assert all(0 <= metric <= 1 for metric in score.metrics.values())
        assert score.metrics == score_baseline(one, task, CPU).metrics


@pytest.fixture(scope="module", params=[0.0, 1.0])
def same(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store whose features are all one number."""
    one = {spec.name: np.full(spec.shape, request.param, np.float32) for spec in SPECS}
    values = dict.fromkeys(DATASET.ids, one)
    return write(tmp_path_factory.mktemp("same") / "store", DATASET.ids, values=values)


@pytest.mark.parametrize("name", list(TASKS))
def test_features_that_are_all_the_same_are_scored(name: str, same: FeatureStore) -> None:
    score = score_baseline(baseline(same, "clip/tokens", *SD_NAMES), task_of(name), CPU)
    assert all(0 <= metric <= 1 for metric in score.metrics.values())


FLOORS = {
    "correspondence": {"copied position", "dense HOG"},
    "retrieval": {"global HOG"},
    "fine_grained": {"global HOG"},
    "recognition": {"global HOG"},
    "segmentation": {"mean mask"},
}


@pytest.mark.parametrize("name", list(TASKS))
def test_floors_look_at_pictures_of_the_test_part_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for recognition, whose class means are of training pictures."""
    task, seen = task_of(name), set()
    decode = ShapesDataset.decode

    def noted(self: ShapesDataset, image_id: str, data: bytes) -> Image.Image:
        seen.add(image_id)
        return decode(self, image_id, data)

    monkeypatch.setattr(ShapesDataset, "decode", noted)
    floors = score_floors(task, DATASET)
    assert set(floors) == FLOORS[name]
    for score in floors.values():
        assert set(score.metrics) == set(task.protocol.metrics)
        assert all(0 <= metric <= 1 for metric in score.metrics.values())
    allowed = {*task.parts.test.ids, *(task.parts.train.ids if name == "recognition" else ())}
    assert seen == (set() if name == "segmentation" else allowed)
