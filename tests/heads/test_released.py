"""Matching, loss and schedule of the released code, against its equations written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import ConfigError, TrainConfig, load_config
from heads.aggregation import AggregationNetwork
from heads.frame import Frame
from heads.protocols import CorrespondencePart, Parts, PointPair, find_protocol
from heads.released import (
    ReleasedCoordinates,
    cell_descriptors,
    cells_of,
    flow_error,
    released_points,
)
from heads.tasks.correspondence import Correspondence, best_points, points_loss
from heads.training import trainer
from tests.heads.tasks.small import MadeUp, generator
from tests.heads.training.test_trainer import learn, make_learner
from tests.oracle.released import released_loss, released_match

GRID, SIDE = 60, 336
RELEASED = load_config("as-released").train.correspondence


def maps_of(seed: int, likeness: float, grid: int = GRID) -> tuple[Tensor, Tensor]:
    """Unit descriptor maps [8, G, G] of two pictures; the more alike, the clearer the maxima."""
    chance = generator(seed)
    source = torch.randn(8, grid, grid, generator=chance)
    target = torch.randn(8, grid, grid, generator=chance)
    target = likeness * source.roll((3, -5), (1, 2)) + (1 - likeness) * target
    smooth = [F.avg_pool2d(m[None], 5, 1, 2)[0] for m in (source, target)]
    first, second = (F.normalize(m, dim=0) for m in smooth)
    return first, second


def keypoints(seed: int, n: int = 8, side: float = SIDE) -> Tensor:
    """[K, 2] in pixels, the last one in the upper left cell."""
    points = torch.rand(n, 2, generator=generator(seed), dtype=torch.float64) * side
    points[-1] = 1.0
    return points


@pytest.mark.parametrize(("seed", "likeness"), [(0, 0.9), (1, 0.4), (2, 0.0)])
def test_points_are_those_of_the_released_evaluation(seed: int, likeness: float) -> None:
    source, target = maps_of(seed, likeness)
    points = keypoints(seed)
    own = cell_descriptors(source[None], points[None] / SIDE, 1.0)
    correlation = torch.einsum("bkp,phw->bkhw", own, target)
    found = best_points(correlation, RELEASED, SIDE)[0] * SIDE
    expected = released_match(
        source.double().numpy(), target.double().numpy(), points.numpy(), SIDE, 7
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=0.01)
    # Our own reading is another: by the offset alone 0.8 pixels in x and in y.
    ours = best_points(correlation, RELEASED.model_copy(update={"matcher": "windowed"}), SIDE)
    assert np.median(np.linalg.norm(ours[0].numpy() * SIDE - expected, axis=1)) > 1.0


def test_cells_beyond_the_window_weigh_as_much_as_a_similarity_of_zero() -> None:
    """One cell of similarity 0.1 among others of -1: in the window they keep their -1."""
    grid = 20
    correlation = torch.full((1, 1, grid, grid), -1.0)
    correlation[0, 0, 9, 9] = 0.1
    weight, outside = np.exp(0.1 / 0.02), grid * grid - 15 * 15
    inside = [i for i in range(grid) if abs(i - 9) <= 7]
    all_columns = sum(range(grid)) * grid
    in_window = sum(inside) * len(inside)
    mean = (weight * 9 + all_columns - in_window) / (weight + outside)
    found = released_points(correlation, 336.0, 336)
    stride = 336 / grid  # 16.8, half of it rounded down 8
    np.testing.assert_allclose(found[0, 0].numpy(), [mean * stride + 8] * 2, atol=1e-3)


def test_where_nothing_is_alike_the_window_itself_loses() -> None:
    """With a negative maximum all cells beyond the window win."""
    correlation = torch.full((1, 1, GRID, GRID), -0.9)
    correlation[0, 0, 0, 0] = -0.5
    found = released_points(correlation, 1.0, SIDE)
    rest = [(i, j) for i in range(GRID) for j in range(GRID) if i > 7 or j > 7]
    mean = np.mean([j for _, j in rest])
    assert found[0, 0, 0].item() * SIDE == pytest.approx(mean * 5.6 + 2, abs=0.01)


def test_a_point_belongs_to_the_cell_that_holds_it() -> None:
    points = torch.tensor([[[0.0, 0.999], [0.25, 0.2499], [1.0, -3.0], [float("nan"), 0.5]]])
    assert cells_of(points, 4, 1.0).tolist() == [[[0, 3], [1, 0], [3, 0], [0, 2]]]
    maps = torch.arange(32.0).reshape(1, 2, 4, 4)
    found = cell_descriptors(maps, points, 1.0)
    assert found.tolist() == [[[12, 28], [1, 17], [3, 19], [8, 24]]]
    # Exactly where a keypoint of the 256 x 256 frame meets a cell's edge: 64 * 60 / 256 = 15.
    assert cells_of(torch.tensor([64 / 256, 192 / 256]), GRID, 1.0).tolist() == [15, 45]


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_loss_is_the_released_one(noise: float) -> None:
    source, target = maps_of(3, 0.5)
    points, truth = keypoints(4, 6), keypoints(5, 6)
    visible = torch.tensor([[True, True, False, True, True, True]])
    coordinates = ReleasedCoordinates(GRID)
    np.testing.assert_allclose(coordinates.x.detach(), np.linspace(-1, 1, GRID), atol=1e-6)
    with torch.no_grad():  # as after some training
        coordinates.x.mul_(0.9).add_(0.05)
        coordinates.y[10:].sub_(0.1)
    settings = RELEASED.model_copy(update={"target_noise": noise})
    own = cell_descriptors(source[None], points[None] / SIDE, 1.0)
    correlation = torch.einsum("bkp,phw->bkhw", own, target)
    torch.manual_seed(6)
    loss = points_loss(
        correlation, points[None] / SIDE, truth[None] / SIDE, visible, settings, coordinates
    )
    torch.manual_seed(6)
    # 0.1 * threshold / 2, and the threshold is the side in cells.
    moved = torch.randn(1, 6, 2, dtype=torch.float64)[0] * (0.1 * GRID / 2 if noise else 0)
    seen = visible[0].numpy()
    expected = released_loss(
        source.double().numpy(),
        target.double().numpy(),
        points.numpy()[seen] * GRID / SIDE,
        truth.numpy()[seen] * GRID / SIDE,
        moved.numpy()[seen],
        (coordinates.x.detach().double().numpy(), coordinates.y.detach().double().numpy()),
    )
    assert loss.item() == pytest.approx(expected, abs=1e-4)
    loss.backward()
    for parameter in coordinates.parameters():
        assert parameter.grad is not None and parameter.grad.any()


def test_without_a_visible_point_the_loss_is_zero() -> None:
    cells = torch.zeros(1, 2, 2, requires_grad=True)
    points = torch.full((1, 2, 2), float("nan"))
    loss = flow_error(cells, points, points, torch.zeros(1, 2, dtype=torch.bool), 1.0, 4)
    loss.backward()
    assert loss.item() == 0 and not cells.grad.any()


# The task


SIZES = {"s0": (64, 64), "p0": (64, 64), "s1": (64, 64), "p1": (64, 64)}


def pair(sketch: str, photo: str, n: int, seed: int) -> PointPair:
    points = torch.rand(2, n, 2, generator=generator(seed), dtype=torch.float64)
    return PointPair(sketch, photo, "a", points[0], points[1], torch.ones(n, dtype=torch.bool))


def task_of(pairs: Sequence[PointPair], **keys: object) -> Correspondence:
    settings = TrainConfig.model_validate(
        {"grid": 16, "batch_size": 1, "correspondence": {"matcher": "released", **keys}}
    )
    parts = Parts(*(CorrespondencePart(tuple(part)) for part in (pairs, (), pairs)))
    protocol = find_protocol("correspondence", "sketchfusion-release")
    return Correspondence(protocol, parts, Frame(SIZES, SIDE, "black"), settings)


def test_training_descends_the_released_loss_in_the_listed_order() -> None:
    pairs = [pair("s0", "p0", 3, 0), pair("s1", "p1", 4, 1), pair("s0", "p1", 2, 2)]
    task = task_of(pairs, shuffle=False)
    assert [batch for batch in task.batches(generator(1))] == [[one] for one in pairs]
    layers = task.layers(8)
    assert isinstance(layers, ReleasedCoordinates) and len(layers.x) == 16
    assert not list(task_of(pairs, matcher="windowed").layers(8).parameters())
    known = MadeUp(SIZES, grid=16)
    located, leaves = known.located(task.images(pairs[:1]))
    task.loss(pairs[:1], located, layers).backward()
    assert leaves.spatial.grad is not None and leaves.spatial.grad.flatten(1).any(1).all()


# Dropout and schedule


def test_values_are_dropped_from_the_grid_in_training_only() -> None:
    maps = {"sd/t1/s3": torch.randn(2, 8, 5, 5, generator=generator(1))}
    torch.manual_seed(0)
    usual = AggregationNetwork({"sd/t1/s3": 8}, 32, 10, 0.5, 4)
    released = AggregationNetwork({"sd/t1/s3": 8}, 32, 10, 0.5, 4, dropout_on_grid=True)
    released.load_state_dict(usual.state_dict())
    block = released.blocks["sd/s3"]

    torch.manual_seed(3)
    found = released(maps)
    torch.manual_seed(3)
    resized = F.interpolate(maps["sd/t1/s3"], (10, 10), mode="bilinear", align_corners=False)
    dropped = F.dropout(resized, 0.5)
    hidden = F.relu(block.norm1(block.conv1(dropped)))
    hidden = F.relu(block.norm2(block.conv2(hidden)))
    summed = F.relu(block.norm3(block.conv3(hidden)) + block.shortcut_norm(block.shortcut(dropped)))
    torch.testing.assert_close(found.spatial, F.normalize(summed, dim=1), atol=1e-5, rtol=0)

    for one, other in zip(usual.eval()(maps)[:2], released.eval()(maps)[:2], strict=True):
        assert torch.equal(one, other)


def test_dropout_stops_and_the_cosine_rises_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation after the first epoch switches dropout off for good; the schedule's length
    is fixed, and torch's cosine goes on."""
    settings = {"epochs": 3, "batch_size": 24, "cosine_steps": 5, "learning_rate": 1e-3}
    learner = make_learner("correspondence", dropout=0.5, dropout_epochs=1, **settings)
    dropping: list[bool] = []
    rates: list[float] = []
    schedule = trainer._schedule

    def note_rate(optimizer: torch.optim.Optimizer, settings: TrainConfig, done: float) -> None:
        schedule(optimizer, settings, done)
        rates.append(optimizer.param_groups[0]["lr"])

    def note_dropout(module: nn.Module, inputs: object) -> None:
        if learner.training:
            dropping.append(learner.aggregation.dropout.training)

    monkeypatch.setattr(trainer, "_schedule", note_rate)
    learner.aggregation.register_forward_pre_hook(note_dropout)
    learn(learner, tmp_path / "run")
    steps = len(rates) // 3
    assert len(rates) > 7 and dropping == [True] * steps + [False] * 2 * steps

    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=5, eta_min=1e-6)
    expected = []
    for _ in rates:
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        cosine.step()
    assert min(rates) == pytest.approx(1e-6)
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_dropout_on_the_grid_needs_the_network_that_has_one() -> None:
    with pytest.raises(ConfigError, match="dropout_on=grid is for aggregation=bottleneck"):
        load_config("demo", ["train.dropout_on=grid", "train.aggregation=linear"])
