"""Matching by a trained run is what the task predicts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from heads.evaluation.evaluate import reopen
from heads.matching import correlate, sample_descriptors
from heads.tasks.correspondence import best_points
from heads.training.run import open_run
from heads.use import UseError, grid_points, load_picture, match, open_trained
from pipeline.pictures.images import Letterbox
from tests.heads.use.conftest import Open
from tests.heads.worlds import World, complaint, ok


@pytest.mark.parametrize("matcher", ["windowed", "soft-argmax", "nearest"])
def test_it_finds_what_the_task_predicts(
    opened: Open, pictures: Path, tmp_path: Path, matcher: str
) -> None:
    if matcher == "windowed":
        trained = opened("correspondence")
    else:
        # It is no part of the weights.
        run = Path(shutil.copytree(opened("correspondence").run.folder, tmp_path / "run"))
        config = (run / "config.yaml").read_text()
        changed = config.replace("matcher: windowed", f"matcher: {matcher}")
        assert changed != config
        (run / "config.yaml").write_text(changed)
        trained = open_trained(run)
    experiment = reopen(open_run(trained.run.folder), lambda line: None)
    task = experiment.task
    pairs = task.parts.test.pairs[:4]
    predicted = task.predict(pairs, experiment.learner.describe)
    for pair, expected in zip(pairs, predicted, strict=True):
        there = (pair.sketch, pair.sketch_points), (pair.photo, expected.photo_points)
        back = (pair.photo, pair.photo_points), (pair.sketch, expected.sketch_points)
        for (first, points), (second, places) in (there, back):
            files = pictures / first, pictures / second
            own = points[pair.visible].numpy() * np.array(Image.open(files[0]).size)
            found = match(trained, *files, own)
            size = np.array(Image.open(files[1]).size)
            pixels = places[pair.visible].clamp(0, 1).numpy() * size
            np.testing.assert_allclose(found.found, pixels, atol=0.05)
            np.testing.assert_array_equal(found.sketch_points, own)
            assert found.similarity.shape == (len(own),) and (np.abs(found.similarity) <= 1).all()


def test_places_are_pixels_of_each_picture_whatever_its_shape(opened: Open, pictures: Path) -> None:
    """By stage 1's own geometry of the square: 64 pixels here, two thirds of it margin."""
    own = Image.open(next(pictures.rglob("sketch/*/*.png"))).resize((90, 120))
    wide = Image.open(next(pictures.rglob("photo/*/*.png"))).resize((300, 100))
    points = np.array([[10.0, 110.0], [45.0, 60.0], [80.0, 5.5]])
    trained = opened("correspondence")
    found = match(trained, own, wide, points)
    side = trained.config.backbone.resolution
    maps = trained.describe([load_picture(own), load_picture(wide)]).spatial
    asked = torch.from_numpy(Letterbox(90, 120, side).to_square(points)).float()[None]
    correlation = correlate(sample_descriptors(maps[:1], asked, side), maps[1:])
    matcher = trained.config.train.correspondence
    squares = best_points(correlation, matcher, side)[0].numpy() * side
    expected = Letterbox(300, 100, side).to_image(squares).clip(0, (300, 100))
    np.testing.assert_allclose(found.found, expected, atol=1e-3)
    assert found.found[:, 0].max() > 100


def test_similarity_is_the_cosine_with_the_most_similar_cell(opened: Open, pictures: Path) -> None:
    trained = opened("correspondence")
    files = sorted(pictures.rglob("*.png"))[::40][:2]
    grid = trained.config.train.grid
    side = Image.open(files[0]).size[0]
    ours, theirs = trained.describe([load_picture(file) for file in files]).spatial
    # At a cell's centre the descriptor is the cell's own.
    found = match(trained, *files, [((2 + 0.5) * side / grid, (3 + 0.5) * side / grid)])
    expected = torch.einsum("p,phw->hw", ours[:, 3, 2], theirs).max()
    assert found.similarity[0] == pytest.approx(float(expected), abs=1e-5)


def test_a_grid_has_a_point_where_something_is_drawn() -> None:
    sketch = Image.new("RGB", (80, 40), "white")
    ImageDraw.Draw(sketch).rectangle((2, 22, 9, 37), fill="black")
    sketch.putpixel((70, 3), (0, 0, 0))
    points = grid_points(sketch, 4)
    # Drawn is 69 x 35 pixels from (2, 3): fields are 17.25 x 8.75. The centres of the two that
    # hold the block are at (10.6, 24.9) and (10.6, 33.6).
    np.testing.assert_allclose(points, [[70.5, 3.5], [9.5, 24.5], [9.5, 33.5]])
    np.testing.assert_allclose(grid_points(sketch, 1), [[9.5, 22.5]])
    inverted = Image.eval(sketch, lambda value: 255 - value)
    np.testing.assert_allclose(grid_points(inverted, 4), points)
    with pytest.raises(UseError, match="nothing is drawn"):
        grid_points(Image.new("RGB", (80, 40), "white"), 4)


def test_the_command_prints_draws_and_takes_points(
    runs: Open, pictures: Path, tmp_path: Path
) -> None:
    sketch, photo = (next(pictures.rglob(f"{kind}/*/*.png")) for kind in ("sketch", "photo"))
    pair = (runs("correspondence"), sketch, photo)
    out = tmp_path / "drawn" / "match.png"
    result = ok("match", *pair, "--point", "10,20.5", "--point", "30,30", "--out", out, "--json")
    printed = json.loads(result.stdout)
    assert [point["sketch"] for point in printed["points"]] == [[10, 20.5], [30, 30]]
    found = match(open_trained(pair[0]), sketch, photo, [(10, 20.5), (30, 30)])
    assert [point["photo"] for point in printed["points"]] == found.found.tolist()
    assert Image.open(out).width > 200
    table = ok("match", *pair, "--grid", "2").stdout.splitlines()
    assert len(table) == 1 + len(grid_points(sketch, 2))
    assert "was trained for" not in ok("match", *pair).stderr
    assert "trained for retrieval" in ok("match", runs("retrieval"), sketch, photo).stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--point", "64.5,3"], "point 64.5,3 is outside"),
        (["--point", "-1,3"], "outside"),
        (["--point", "nan,3"], "outside"),
        (["--point", "3"], "X,Y"),
        (["--point", "3,4,5"], "X,Y"),
        (["--point", "a,b"], "X,Y"),
        (["--point", "3,4", "--grid", "2"], "either"),
        (["--out", "match.bmp"], "match.bmp"),
    ],
)
def test_bad_points_are_one_line(runs: Open, pictures: Path, options: list[str], says: str) -> None:
    picture = next(pictures.rglob("sketch/*/*.png"))
    assert says in complaint("match", runs("correspondence"), picture, picture, *options)


def test_a_run_that_sees_only_whole_pictures_cannot_match(
    world: World, pictures: Path, tmp_path: Path
) -> None:
    world.train(tmp_path / "run", "task=retrieval", "train.features=clip_pooled", "train.epochs=1")
    picture = next(pictures.rglob("sketch/*/*.png"))
    assert "whole pictures" in complaint("match", tmp_path / "run", picture, picture)
