"""What a head chooses follows what the training images say, and never the test part."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from configs.train import StatisticsConfig
from heads.statistics.search import SearchResult, choose
from heads.training.experiment import image_kinds
from tests.heads.training.test_trainer import DATASET, Answers, keypoints, make_task, vector

KINDS = image_kinds(DATASET.annotations)


class Made(Answers):
    """Maps made from an image's category; asks for no image of the test part."""

    def __init__(self, task: object, shapes: Mapping[str, tuple[int, ...]], make: object) -> None:
        self.shapes = dict(shapes)
        self.arrays = tuple(shapes)
        self.trained = None
        self._test = set(task.parts.test.ids)
        self._make = make

    def maps(self, ids: Sequence[str]) -> dict[str, Tensor]:
        assert self._test.isdisjoint(ids), "the search looked at the test part"
        made = [self._make(image_id) for image_id in ids]
        return {name: torch.stack([one[name] for one in made]) for name in self.arrays}


def _noise(name: str, *shape: int) -> Tensor:
    return vector(name, math.prod(shape)).view(shape)


def _code(image_id: str) -> Tensor:
    """A random vector of the image's category."""
    return vector(DATASET.annotations.labels[image_id].category or "", 12)


def spread_maps(image_id: str) -> dict[str, Tensor]:
    """The category is in how much the channels vary; their means are noise."""
    noise = _noise(image_id, 12, 5, 5)
    noise = (noise - noise.mean((1, 2), keepdim=True)) / noise.std((1, 2), keepdim=True)
    power = (0.5 * _code(image_id)).exp()
    return {"sd/t1/s3": power[:, None, None] * noise + _noise(f"mean of {image_id}", 12, 1, 1)}


def offset_maps(image_id: str) -> dict[str, Tensor]:
    """The category is in the means, under what tells sketches from photos."""
    offset = 20.0 * torch.ones(12) * (1 if KINDS[image_id] == "photo" else -1)
    offset = offset * torch.linspace(-1, 1, 12)
    mean = _code(image_id) + 0.5 * _noise(image_id, 12) + offset
    return {"sd/t1/s3": mean[:, None, None].expand(12, 5, 5).clone()}


@pytest.mark.parametrize("name", ["retrieval", "fine_grained", "recognition"])
def test_where_the_spread_tells_it_is_pooled(name: str) -> None:
    task = make_task(name)
    found = choose(
        Made(task, {"sd/t1/s3": (12, 5, 5)}, spread_maps), task, KINDS, StatisticsConfig()
    )
    if name != "fine_grained":  # Nothing in these maps tells photos of a category apart.
        assert found.choices["sd/t1/s3"].pooling in ("deviation", "extremes", "joined")
        mean = max(t.score for t in found.trials if t.choices["sd/t1/s3"].pooling == "mean")
        assert max(t.score for t in found.trials) > mean + 0.1
    assert "fold" in found.measure


def test_where_kinds_differ_each_has_its_own_centre() -> None:
    task = make_task("retrieval")
    source = Made(task, {"sd/t1/s3": (12, 5, 5)}, offset_maps)
    found = choose(source, task, KINDS, StatisticsConfig(whitening=False, pooling="mean"))
    assert found.choices["sd/t1/s3"].centring == "kind"


def test_a_useless_part_gets_no_weight_and_the_same_choice_comes_again() -> None:
    task = make_task("retrieval")

    def make(image_id: str) -> dict[str, Tensor]:
        return {**offset_maps(image_id), "clip/pooled": _noise(image_id, 7)}

    shapes = {"sd/t1/s3": (12, 5, 5), "clip/pooled": (7,)}
    found = choose(Made(task, shapes, make), task, KINDS, StatisticsConfig())
    assert found.choices["sd/t1/s3"].weight == 1 and found.choices["clip/pooled"].weight == 0
    again = choose(Made(task, shapes, make), task, KINDS, StatisticsConfig())
    assert again == found
    assert SearchResult.parse(json.loads(json.dumps(found.as_json()))) == found


def test_configured_keys_are_kept() -> None:
    task = make_task("retrieval")
    settings = StatisticsConfig(
        pooling="extremes", centring="common", shrinkage=0.5, weights={"sd": 2.0}
    )
    source = Made(task, {"sd/t1/s3": (12, 5, 5)}, spread_maps)
    found = choose(source, task, KINDS, settings)
    (choice,) = found.choices.values()
    assert (choice.pooling, choice.centring, choice.shrinkage, choice.weight) == (
        "extremes",
        "common",
        0.5,
        2.0,
    )
    assert not found.trials


def test_segmentation_takes_the_defaults_and_reads_nothing() -> None:
    task = make_task("segmentation")
    source = Made(task, {"sd/t1/s3": (12, 5, 5)}, lambda image_id: pytest.fail("read"))
    found = choose(source, task, KINDS, StatisticsConfig())
    choice = found.choices["sd/t1/s3"]
    assert choice.centring == "common" and choice.shrinkage == 0.1 and not found.trials


def test_correspondence_weighs_its_layers_on_validation_pairs() -> None:
    task, answer = make_task("correspondence"), keypoints()

    def make(image_id: str) -> dict[str, Tensor]:
        return {"sd/t1/s3": answer(image_id), "sd/t1/s4": _noise(image_id, 6, 4, 4)}

    shape = tuple(answer(task.parts.train.pairs[0].sketch).shape)
    source = Made(task, {"sd/t1/s3": shape, "sd/t1/s4": (6, 4, 4)}, make)
    found = choose(source, task, KINDS, StatisticsConfig(n_images=512))
    assert found.choices["sd/t1/s3"].weight == 1
    assert found.choices["sd/t1/s4"].weight < 1
