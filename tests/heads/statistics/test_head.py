"""The statistics head against its equations written out in numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from heads.statistics.choices import ChoiceError, PartChoice, choices_document, parse_choices
from heads.statistics.head import Batch, StatisticsHead

SHAPES = {"sd/t1/s3": (3, 4, 4), "clip/tokens": (5, 2, 2), "clip/pooled": (6,)}
CHOICES = {
    "sd/t1/s3": PartChoice("kind", 0.1, 1.5, "extremes"),
    "clip/tokens": PartChoice("common", None, 0.5, "deviation"),
    "clip/pooled": PartChoice("none", None, 1.0),
}
KINDS = ["sketch", "photo", "photo", "sketch", "sketch", "photo", "photo", "sketch"]


def images(n: int = 8, seed: int = 0) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(n, *shape, generator=chance)
        * (1 + torch.arange(shape[0])).view(-1, *[1] * (len(shape) - 1))
        for name, shape in SHAPES.items()
    }


def fitted(cells: bool = False, dropout: float = 0.0) -> StatisticsHead:
    head = StatisticsHead(SHAPES, CHOICES, 6, dropout, cells)
    maps = images()

    def batches() -> Iterator[Batch]:
        for rows in (slice(0, 3), slice(3, 8)):
            yield Batch({name: values[rows] for name, values in maps.items()}, KINDS[rows])

    head.fit(batches(), batches)
    return head.eval().requires_grad_(False)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def whitened(values: np.ndarray, shrinkage: float) -> np.ndarray:
    """Centred vectors times the inverse symmetric root of their shrunk covariance."""
    covariance = values.T @ values / len(values)
    power, axes = np.linalg.eigh(covariance)
    return values @ (axes / np.sqrt(power + shrinkage * power.mean())) @ axes.T


def expected_parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    maps = {name: values.double().numpy() for name, values in images().items()}
    is_photo = np.array([kind == "photo" for kind in KINDS])
    s3, tokens = maps["sd/t1/s3"], maps["clip/tokens"]
    s3 = (s3 / s3.std((0, 2, 3), keepdims=True)).reshape(8, 3, -1)
    tokens = (tokens / tokens.std((0, 2, 3), keepdims=True)).reshape(8, 5, -1)
    pooled = np.concatenate(
        [np.log(np.exp(2 * s3).mean(2)) / 2, -np.log(np.exp(-2 * s3).mean(2)) / 2], axis=1
    )
    for kind in (True, False):
        pooled[is_photo == kind] -= pooled[is_photo == kind].mean(0)
    deviation = tokens.std(2)
    return (
        1.5 * unit(whitened(pooled, 0.1)),
        0.5 * unit(deviation - deviation.mean(0)),
        unit(maps["clip/pooled"]),
    )


def test_untrained_it_is_its_parts_side_by_side() -> None:
    head = fitted()
    found = head(images(), KINDS)
    s3, tokens, whole = expected_parts()
    assert head.width == found.pooled.shape[1] == 6 + 5 + 6
    expected = unit(np.concatenate([whole, s3, tokens], axis=1))
    assert found.pooled.numpy() == pytest.approx(expected, abs=1e-4)
    assert found.corrected is not None
    corrected = unit(np.concatenate([s3, tokens], axis=1))
    assert found.corrected.numpy() == pytest.approx(corrected, abs=1e-4)
    assert found.spatial.shape == (8, 8, 6, 6)


def test_the_correction_turns_the_maps_part_and_nothing_else() -> None:
    head = fitted()
    before = head(images(), KINDS)
    with torch.no_grad():
        head.correction.weight.copy_(
            torch.randn(11, 11, generator=torch.Generator().manual_seed(1))
        )
    after = head(images(), KINDS)
    # The frozen part keeps its share of the length, whatever is learnt.
    assert torch.allclose(after.pooled[:, :6], before.pooled[:, :6], atol=1e-6)
    z = np.concatenate(expected_parts()[:2], axis=1)
    moved = z + z @ head.correction.weight.detach().double().numpy().T
    assert after.corrected.detach().numpy() == pytest.approx(unit(moved), abs=1e-4)
    with head.uncorrected():
        assert torch.equal(head(images(), KINDS).pooled, before.pooled)
    assert torch.equal(head(images(), KINDS).pooled, after.pooled)


def test_cells_are_standardised_where_they_are() -> None:
    head = fitted(cells=True)
    found = head(images(), KINDS)
    parts = []
    for name, shrinkage, weight in (("sd/t1/s3", 0.1, 1.5), ("clip/tokens", None, 0.5)):
        values = images()[name].double().numpy()
        n, channels, height, width = values.shape
        cells = values.transpose(0, 2, 3, 1).reshape(n, -1, channels)
        if name == "sd/t1/s3":
            for kind in ("sketch", "photo"):
                own = [row for row, k in enumerate(KINDS) if k == kind]
                cells[own] -= cells[own].reshape(-1, channels).mean(0)
        else:
            cells -= cells.reshape(-1, channels).mean(0)
        if shrinkage is not None:
            cells = whitened(cells.reshape(-1, channels), shrinkage).reshape(cells.shape)
        layer_map = torch.from_numpy(cells.reshape(n, height, width, channels)).permute(0, 3, 1, 2)
        resized = F.interpolate(layer_map, size=(6, 6), mode="bilinear", align_corners=False)
        parts.append(weight * F.normalize(resized, dim=1))
    joined = torch.cat(parts, dim=1)
    assert torch.allclose(found.spatial.double(), F.normalize(joined, dim=1), atol=1e-4)
    mean = F.normalize(joined.mean((2, 3)), dim=1)
    assert torch.allclose(found.pooled.double(), mean, atol=1e-4)


def test_an_unknown_kind_has_the_common_mean() -> None:
    head = fitted()
    assert torch.equal(head(images()).pooled, head(images(), [None] * 8).pooled)
    assert not torch.allclose(head(images()).pooled, head(images(), KINDS).pooled, atol=1e-3)


def test_a_part_of_weight_nothing_is_not_there() -> None:
    choices = {**CHOICES, "clip/tokens": PartChoice(weight=0.0)}
    head = StatisticsHead(SHAPES, choices, 6)
    assert head.arrays == ("sd/t1/s3", "clip/pooled")
    with pytest.raises(ChoiceError, match="weight"):
        StatisticsHead(SHAPES, {name: PartChoice(weight=0.0) for name in SHAPES}, 6)
    with pytest.raises(ChoiceError, match="no map"):
        StatisticsHead({"clip/pooled": (6,)}, CHOICES, 6, cells=True)
    with pytest.raises(ChoiceError, match="nothing is chosen for clip/pooled"):
        StatisticsHead({"clip/pooled": (6,)}, {}, 6)


def test_a_global_descriptor_alone_is_corrected_itself() -> None:
    head = StatisticsHead({"clip/pooled": (6,)}, CHOICES, 6).eval()
    found = head(images(), KINDS)
    assert torch.allclose(found.pooled, F.normalize(images()["clip/pooled"], dim=1), atol=1e-6)
    assert torch.equal(found.pooled, found.corrected)
    assert found.spatial.shape == (8, 6, 6, 6)


def test_what_is_fitted_is_saved_with_the_head() -> None:
    head = fitted()
    again = StatisticsHead(SHAPES, parse_choices(choices_document(CHOICES)), 6).eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(
        again(images(1), ["photo"] * 8).pooled, head(images(1), ["photo"] * 8).pooled
    )


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"a": 1},
        {"a": {"weight": -1}},
        {"a": {"weight": "x"}},
        {"a": {"pooling": "median"}},
        {"a": {"centring": "all"}},
        {"a": {"shrinkage": 0}},
        {"a": {"unknown": 1}},
    ],
)
def test_other_documents_are_refused(document: object) -> None:
    with pytest.raises(ChoiceError, match="not the choices"):
        parse_choices(document)
