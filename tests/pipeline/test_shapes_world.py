"""The shapes world itself: categories, exactness of the ground truth, poses, legibility."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.shapes import contact_sheet
from pipeline.shapes.categories import CATEGORIES, SEEN, UNSEEN, UNSEEN_SETS
from pipeline.shapes.curves import arc, box, ellipse, inside, smooth, strip
from pipeline.shapes.view import View
from pipeline.shapes.world import World, keypoint_names

WORLD = World(0)
SECOND = World(0, "second")
WORLD_OF = dict.fromkeys(CATEGORIES, WORLD) | dict.fromkeys(UNSEEN_SETS["second"], SECOND)
TURN = len(CATEGORIES)
GEOMETRY = {
    "first": "5a1de75c42294102e6e218f2e4dd3303069dd18843153af575ee6d5938968fb3",
    "second": "8aa9881968eec7df82fb4a604ac1d4563cc5853c95230ebfac067e0eb6edc3c9",
}
"""SHA-256 of `geometry`."""
COLOURS = {
    "first": {
        0: (160.10, 166.16, 110.15),
        7: (137.66, 102.94, 85.19),
        37: (139.84, 98.18, 74.69),
    },
    "second": {
        0: (160.10, 166.16, 110.15),
        7: (203.13, 189.63, 167.91),
        35: (207.51, 191.62, 97.19),
    },
}
"""The mean red, green and blue of an instance's photo at 96 pixels."""

both_sets = pytest.mark.parametrize(
    "categories", [CATEGORIES, UNSEEN_SETS["second"]], ids=["all", "second"]
)


def instances_of(category: str, n: int) -> list[int]:
    return [WORLD_OF[category].instance(category, k) for k in range(n)]


def views(kind: str, categories: tuple[str, ...], n: int) -> Iterator[View]:
    """The photos, or one sketch each, of the first `n` instances of the categories."""
    for category in categories:
        for instance in instances_of(category, n):
            world = WORLD_OF[category]
            yield world.photo(instance) if kind == "photo" else world.sketch(instance, 1)


def test_seen_and_unseen_are_fixed_and_disjoint():
    assert len(SEEN) == 24
    assert UNSEEN == (
        "teapot", "rabbit", "truck", "turtle", "cactus", "helicopter", "shoe", "penguin",
    )  # fmt: skip
    assert set(SEEN) | set(UNSEEN) == set(CATEGORIES)
    assert not set(SEEN) & set(UNSEEN)
    assert UNSEEN_SETS == {
        "first": UNSEEN,
        "second": (
            "windmill", "crab", "scissors", "giraffe", "clock", "pineapple", "anchor", "octopus",
            "castle", "snowman",
        ),
    }  # fmt: skip
    assert not set(UNSEEN_SETS["second"]) & set(CATEGORIES)


def test_a_category_is_found_by_its_number():
    for world in (WORLD, SECOND):
        shown = [world.category(instance) for instance in range(400)]
        assert set(shown) == set(world.categories)
        assert list(dict.fromkeys(shown)) == list(world.categories)
        for category in world.categories:
            own = [instance for instance, name in enumerate(shown) if name == category]
            assert own == [world.instance(category, k) for k in range(len(own))]


@pytest.mark.parametrize("category", WORLD_OF)
def test_a_category_has_eight_named_keypoints_on_the_object(category):
    world, names = WORLD_OF[category], keypoint_names(category)
    assert len(set(names)) == 8
    seen_in_photo = []
    for instance in instances_of(category, 12):
        thing = world.thing(instance)
        assert thing.category == category
        assert thing.keypoint_names == names
        for view in (world.photo(instance), world.sketch(instance, 1)):
            mask = Image.fromarray(view.mask(96).astype(np.uint8) * 255)
            near = np.asarray(mask.filter(ImageFilter.MaxFilter(9)))
            x, y = np.floor(view.keypoints[view.visible] * 96).astype(int).T
            assert near[y, x].all(), f"{category} {instance}"
        seen_in_photo.append(world.photo(instance).visible.sum())
    assert np.mean(seen_in_photo) > 6.5


@pytest.mark.parametrize("category", WORLD_OF)
def test_instances_of_a_category_differ_in_shape(category):
    world = WORLD_OF[category]
    configurations = np.stack([world.thing(i).keypoints for i in instances_of(category, 10)])
    assert configurations.std(0).max() > 0.05


def geometry(world: World) -> str:
    """SHA-256 of all but the pixels of the first 40 instances, which show every category."""
    digest = hashlib.sha256()
    for instance in range(40):
        digest.update(f"{world.category(instance)} {world.split(instance)}".encode())
        for view in (world.photo(instance), world.sketch(instance, 1), world.sketch(instance, 2)):
            for values in (view.points, view.keypoints, np.array(view.stream)):
                digest.update((np.round(values * 1e6).astype("<i8") + 0).tobytes())
            digest.update(view.drawn.tobytes() + view.visible.tobytes())
        colours = [part.colour for part in world.thing(instance).parts]
        digest.update(np.round(np.array(colours) * 1e6).astype("<i8").tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("world", [WORLD, SECOND], ids=lambda world: world.unseen)
def test_the_world_is_the_one_it_was(world):
    """Stores are keyed by image bytes: a change here makes every stored feature useless."""
    assert geometry(world) == GEOMETRY[world.unseen]
    for instance, colour in COLOURS[world.unseen].items():
        # Bytes may differ in a few places between versions of Pillow.
        found = np.asarray(world.photo(instance).image(96), dtype=float).mean((0, 1))
        np.testing.assert_allclose(found, colour, atol=0.5)


def test_another_unseen_set_changes_nothing_else():
    for instance in range(32):
        assert WORLD.split(instance) == SECOND.split(instance)
        if WORLD.category(instance) in SEEN:
            assert SECOND.category(instance) == WORLD.category(instance)
            for ours, theirs in (
                (WORLD.photo(instance), SECOND.photo(instance)),
                (WORLD.sketch(instance, 1), SECOND.sketch(instance, 1)),
            ):
                assert ours.image(32).tobytes() == theirs.image(32).tobytes()
                assert ours.keypoints.tobytes() == theirs.keypoints.tobytes()
                assert ours.visible.tobytes() == theirs.visible.tobytes()
        else:
            assert WORLD.split(instance) == "test"
            assert SECOND.category(instance) in UNSEEN_SETS["second"]


def test_photo_and_sketch_have_poses_of_their_own():
    """Mirroring agrees in half of the pairs, and the angles have nothing to do with each other."""
    frames = []
    for instance in range(192):
        thing = WORLD.thing(instance)
        frames.append([_frame(thing.keypoints, view.keypoints) for view in
                       (WORLD.photo(instance), WORLD.sketch(instance, 1))])  # fmt: skip
    mirrored, angle = np.moveaxis(np.array(frames), 2, 0)
    assert 0.4 < mirrored.mean() < 0.6
    assert 0.4 < (mirrored[:, 0] == mirrored[:, 1]).mean() < 0.6
    assert abs(np.corrcoef(angle.T)[0, 1]) < 0.15
    assert np.abs(angle).mean() > 15  # degrees


def test_a_photo_shows_the_thing_exactly():
    """Its keypoints are one affine image of the thing's: its left is its left, mirrored or not."""
    for instance in range(64):
        points, keypoints = WORLD.thing(instance).keypoints, WORLD.photo(instance).keypoints
        affine = np.linalg.lstsq(np.column_stack([points, np.ones(8)]), keypoints, rcond=None)[0]
        residual = np.column_stack([points, np.ones(8)]) @ affine - keypoints
        assert np.abs(residual).max() < 1e-9


def test_sketches_of_one_instance_are_like_it_but_not_alike():
    first, second = WORLD.sketch(5, 1), WORLD.sketch(5, 2)
    assert first.thing.points.tolist() == second.thing.points.tolist()
    assert not np.allclose(first.keypoints, second.keypoints, atol=0.02)


@both_sets
def test_abstraction_leaves_parts_out_and_their_keypoints_with_them(categories):
    left_out = 0
    for sketch in views("sketch", categories, 8):
        missing = ~sketch.drawn[sketch.thing.owners]
        left_out += missing.sum()
        assert not sketch.visible[missing].any()
    assert left_out > 0


@pytest.mark.parametrize("view", [WORLD.photo(37), WORLD.sketch(37, 1)], ids=["photo", "sketch"])
def test_a_larger_side_shows_the_same_scene(view):
    small = np.asarray(view.image(96), dtype=float)
    large = np.asarray(view.image(192).reduce(2), dtype=float)
    assert np.abs(small - large).mean() < 12
    coarse = view.mask(192).reshape(96, 2, 96, 2).mean((1, 3)) >= 0.5
    assert (coarse == view.mask(96)).mean() > 0.99


@both_sets
def test_photos_stand_out_from_their_surroundings(categories):
    apart = []
    for view in views("photo", categories, 2):
        mask = Image.fromarray(view.mask(96).astype(np.uint8) * 255)
        wide, tight = (np.asarray(mask.filter(ImageFilter.MaxFilter(k))) > 0 for k in (15, 5))
        colours = np.asarray(view.image(96), dtype=float) / 255
        surroundings = np.median(colours[wide & ~tight], axis=0)
        off = ((colours[np.asarray(mask) > 0] - surroundings) ** 2) @ (0.30, 0.59, 0.11)
        apart.append(np.median(np.sqrt(off)))
    assert np.percentile(apart, 2) > 0.12  # black to white is 1
    assert np.median(apart) > 0.25


@both_sets
def test_sketches_are_dark_lines_on_white_paper(categories):
    for sketch in views("sketch", categories, 2):
        grey = np.asarray(sketch.image(96).convert("L"))
        assert np.median(grey) == 255
        assert grey.min() < 90
        assert 0.01 < (grey < 200).mean() < 0.3


def test_the_silhouette_is_filled():
    """Far more than the ink: a closed outline counts with all it encloses."""
    sketch = WORLD.sketch(CATEGORIES.index("apple"), 1)
    ink = np.asarray(sketch.image(96).convert("L")) < 128
    assert sketch.mask(96).sum() > 2 * ink.sum()


@both_sets
def test_the_silhouette_is_that_of_the_ink(categories):
    for sketch in views("sketch", categories, 1):
        ink = np.asarray(sketch.image(96).convert("L")) < 128
        mask = Image.fromarray(sketch.mask(96).astype(np.uint8) * 255)
        near = np.asarray(mask.filter(ImageFilter.MaxFilter(5))) > 0
        assert near[ink].mean() > 0.97, sketch.thing.category


def test_curves_go_through_their_knots():
    knots = [(0.0, 0.0), (1.0, 0.2), (0.8, 1.0), (-0.3, 0.7)]
    for closed in (True, False):
        curve = smooth(*knots, closed=closed)
        gaps = np.linalg.norm(curve[:, None] - np.array(knots), axis=2).min(0)
        np.testing.assert_allclose(gaps, 0, atol=1e-12)


def test_strips_have_the_width_asked_for():
    outline = strip(arc(0, 0, 2, 2, 0, 90, 50), 0.4)
    np.testing.assert_allclose(np.linalg.norm(outline[:50], axis=1), 1.8, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(outline[50:], axis=1), 2.2, atol=0.01)


@pytest.mark.parametrize(
    ("outline", "formula"),
    [
        (ellipse(0.1, -0.2, 0.8, 0.4, n=400), lambda x, y: np.hypot((x - 0.1) / 2, y + 0.2) < 0.4),
        (box(-0.5, -0.3, 0.6, 0.4), lambda x, y: (abs(x - 0.05) < 0.55) & (abs(y - 0.05) < 0.35)),
    ],
)
def test_inside_agrees_with_the_formula(outline, formula):
    points = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    assert (inside(points, outline) == formula(*points.T)).mean() > 0.998


@pytest.mark.parametrize(("options", "rows"), [([], 8), (["--unseen", "second"], 5)])
def test_the_contact_sheet_is_written(tmp_path, monkeypatch, options, rows):
    arguments = ["contact_sheet", str(tmp_path / "s.png"), "--pixels", "32", *options]
    monkeypatch.setattr("sys.argv", arguments)
    contact_sheet.main()
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (16 * 32, rows * 32)


@pytest.mark.parametrize("category", WORLD_OF)
def test_the_keypoints_are_documented(category):
    page = (Path(__file__).parents[2] / "docs" / "shapes.md").read_text()
    star = " *" if category in UNSEEN else ""
    assert f"| {category}{star} | {', '.join(keypoint_names(category))} |" in page


def _frame(points: np.ndarray, placed: np.ndarray) -> tuple[bool, float]:
    """Whether a placement of points [K, 2] mirrors them, and by how many degrees it turns them."""
    a, b = points - points.mean(0), placed - placed.mean(0)
    matrix = np.linalg.lstsq(a, b, rcond=None)[0]
    mirrored = bool(np.linalg.det(matrix) < 0)
    if mirrored:
        matrix = np.diag([-1.0, 1.0]) @ matrix
    angle = np.degrees(np.arctan2(matrix[0, 1] - matrix[1, 0], matrix[0, 0] + matrix[1, 1]))
    return mirrored, float(angle)
