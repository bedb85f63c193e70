"""The losses of retrieval: against the same written out sketch by sketch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.train import Negatives
from heads.tasks.losses import contrastive_loss, triplet_loss

KINDS: tuple[Negatives, ...] = ("hard", "semi-hard")


def written_out(
    sketches: Tensor,
    photos: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    kind: Negatives,
) -> float:
    losses = []
    for b, sketch in enumerate(sketches):
        cosines = [float(sketch.double() @ photo.double()) for photo in photos]
        right = cosines[int(positive[b])]
        wrong = [cosine for n, cosine in enumerate(cosines) if negative[b, n]]
        if not wrong:
            continue
        farther = [cosine for cosine in wrong if cosine < right]
        chosen = max(farther) if kind == "semi-hard" and farther else max(wrong)
        losses.append(max(0.0, margin + chosen - right))
    return sum(losses) / len(losses) if losses else 0.0


def random_batch(n_sketches: int, n_photos: int, seed: int) -> tuple[Tensor, ...]:
    chance = torch.Generator().manual_seed(seed)
    sketches = F.normalize(torch.randn(n_sketches, 3, generator=chance), dim=1)
    photos = F.normalize(torch.randn(n_photos, 3, generator=chance), dim=1)
    positive = torch.randint(n_photos, (n_sketches,), generator=chance)
    negative = torch.rand(n_sketches, n_photos, generator=chance) < 0.5
    negative[torch.arange(n_sketches), positive] = False
    return sketches, photos, positive, negative


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.floats(0.01, 1.5),
    st.sampled_from(KINDS),
    st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_the_loss_is_as_written_out(
    n_sketches: int, n_photos: int, margin: float, kind: Negatives, seed: int
) -> None:
    batch = random_batch(n_sketches, n_photos, seed)
    ours = triplet_loss(*batch, margin, kind)
    assert float(ours) == pytest.approx(written_out(*batch, margin, kind), abs=1e-5)


def on_circle(*degrees: float) -> Tensor:
    radians = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=1).float()


def one_sketch(kind: Negatives, *degrees: float) -> float:
    """A sketch at 0 degrees, its photo at the first angle, wrong ones at the others."""
    photos = on_circle(*degrees)
    negative = torch.tensor([[False] + [True] * (len(photos) - 1)])
    loss = triplet_loss(on_circle(0), photos, torch.tensor([0]), negative, 0.2, kind)
    return float(loss)


def cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def test_hard_takes_the_nearest_and_semi_hard_the_nearest_beyond_the_right_photo() -> None:
    angles = (30, 10, 40, 90)  # right, nearer than right, a little farther, far
    assert one_sketch("hard", *angles) == pytest.approx(0.2 + cosine(10) - cosine(30), abs=1e-6)
    assert one_sketch("semi-hard", *angles) == pytest.approx(
        0.2 + cosine(40) - cosine(30), abs=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_are_nearer_the_nearest_is_taken(kind: Negatives) -> None:
    expected = 0.2 + cosine(10) - cosine(60)
    assert one_sketch(kind, 60, 20, 10) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_margin_that_is_kept_costs_nothing(kind: Negatives) -> None:
    assert one_sketch(kind, 10, 80, 120) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_photo_that_ties_with_the_right_one_costs_the_margin(kind: Negatives) -> None:
    assert one_sketch(kind, 30, 30) == pytest.approx(0.2, abs=1e-6)


def test_a_tie_is_not_farther() -> None:
    """Semi-hard passes over what equals the right photo while something lies beyond it."""
    expected = 0.2 + cosine(35) - cosine(30)
    assert one_sketch("semi-hard", 30, 30, 35) == pytest.approx(expected, abs=1e-6)
    assert one_sketch("hard", 30, 30, 35) == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_wrong_photo_loss_and_gradients_are_zero(kind: Negatives) -> None:
    sketches, photos, positive, negative = random_batch(4, 3, 0)
    sketches, photos = sketches.requires_grad_(), photos.requires_grad_()
    loss = triplet_loss(sketches, photos, positive, negative & False, 0.2, kind)
    loss.backward()
    assert float(loss.detach()) == 0
    for leaf in (sketches, photos):
        assert leaf.grad is not None and not leaf.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_sketches_without_wrong_photos_change_nothing_for_the_others(kind: Negatives) -> None:
    sketches, photos, positive, negative = random_batch(5, 4, 3)
    negative[[1, 4]] = False
    negative[0, (int(positive[0]) + 1) % 4] = True
    kept = negative.any(1)
    assert kept.sum() in (1, 2, 3)
    sketches.requires_grad_()
    whole = triplet_loss(sketches, photos, positive, negative, 2.0, kind)
    part = triplet_loss(
        sketches.detach()[kept],
        photos,
        positive[kept],
        negative[kept],
        2.0,
        kind,
    )
    torch.testing.assert_close(whole.detach(), part)
    whole.backward()
    assert sketches.grad is not None and sketches.grad.isfinite().all()
    assert not sketches.grad[~kept].any() and sketches.grad[kept].any(1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_descriptors_that_are_all_the_same_give_the_margin(kind: Negatives, value: float) -> None:
    _, _, positive, negative = random_batch(4, 3, 1)
    same = torch.full((4, 4), value, requires_grad=True)
    loss = triplet_loss(same, same[:3], positive, negative, 0.3, kind)
    assert float(loss.detach()) == pytest.approx(0.3)
    loss.backward()
    assert same.grad is not None and same.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_downhill_brings_the_right_photo_nearer(kind: Negatives) -> None:
    sketch, photos = on_circle(0), on_circle(50, 60)
    photos.requires_grad_()
    negative = torch.tensor([[False, True]])
    triplet_loss(sketch, photos, torch.tensor([0]), negative, 0.2, kind).backward()
    assert photos.grad is not None
    moved = (photos - 0.01 * photos.grad).detach()
    assert sketch[0] @ moved[0] > cosine(50) and sketch[0] @ moved[1] < cosine(60)


# The contrastive loss ---------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.05, 1.0), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_the_contrastive_loss_is_as_written_out(
    n_sketches: int, n_photos: int, temperature: float, seed: int
) -> None:
    sketches, photos, _, negative = random_batch(n_sketches, n_photos, seed)
    losses = []
    for b, sketch in enumerate(sketches):
        scores = [float(sketch.double() @ photo.double()) / temperature for photo in photos]
        right = [score for n, score in enumerate(scores) if not negative[b, n]]
        if 0 < len(right) < len(scores):
            everything = math.log(sum(map(math.exp, scores)))
            losses.append(sum(everything - score for score in right) / len(right))
    expected = sum(losses) / len(losses) if losses else 0.0
    ours = contrastive_loss(sketches, photos, ~negative, temperature)
    assert float(ours) == pytest.approx(expected, abs=1e-4)


def test_a_contrastive_batch_without_a_wrong_photo_has_no_gradient() -> None:
    sketches = on_circle(0, 10).requires_grad_()
    loss = contrastive_loss(sketches, on_circle(20, 30), torch.ones(2, 2, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss.item() == 0 and not sketches.grad.any()
