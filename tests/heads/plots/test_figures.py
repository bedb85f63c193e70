"""Each kind of figure says what its records say, and not by colour alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from heads.pca import ColourMaps
from heads.plots import (
    MappedImages,
    PlotError,
    confusion_figure,
    curves_figure,
    guesses_figure,
    maps_figure,
    masks_figure,
    matches_figure,
    mixing_figure,
    retrieval_figure,
)
from heads.plots.records import Guess, Hit, Mask, Match, Picture, Ranking
from heads.plots.style import MISSED, RIGHT, UNJUDGED, WRONG


def picture(name: str = "sketch/cat/$1$.png", width: int = 20, height: int = 20) -> Picture:
    values = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Picture(name, Image.fromarray(values.astype(np.uint8)))


def texts(figure: Figure) -> str:
    """Every word in a figure that is drawn, one text a line."""
    figure.draw_without_rendering()
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return "\n".join(text.get_text() for text in found)


def match(right: list[bool] | None) -> Match:
    n = 3 if right is None else len(right)
    points = np.stack((np.arange(n) * 4.0 + 2, np.full(n, 5.0)), axis=1)
    truth = None if right is None else points + 8
    judged = None if right is None else np.array(right)
    return Match(picture(), picture("photo/cat/2.png", 40, 20), points, points + 3, truth, judged)


def test_matches_differ_by_line_and_marker() -> None:
    figure = matches_figure([match([True, False, True])])
    axes = figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert [(line.get_linestyle(), line.get_color()) for line in lines] == [
        ("-", RIGHT),
        ("--", WRONG),
        (":", WRONG),
        ("-", RIGHT),
    ]
    # The photo stands beside the sketch at the same height: 20 px wide, a gap, 40 px of 20.
    start, end = np.array(lines[0].get_xydata())
    np.testing.assert_allclose(start, (2 / 20, 5 / 20))
    np.testing.assert_allclose(end, (1.08 + 5 / 20, 8 / 20))
    np.testing.assert_allclose(lines[2].get_xydata()[1], (1.08 + 14 / 20, 13 / 20))
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert {"X", "o"} == {point.get_marker() for point in points}
    words = texts(figure)
    assert "2 of 3 points right" in words and "cat/$1$.png" in words
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["right", "wrong", "where it should be"]


def test_matches_without_truth_claim_nothing() -> None:
    figure = matches_figure([match(None), match(None), match(None)])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["found"]
    assert {line.get_color() for axes in figure.axes for line in axes.lines} == {UNJUDGED}
    assert "right" not in texts(figure)
    # The empty fourth panel is not shown.
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]


def test_all_right_has_no_legend_of_wrong_ones() -> None:
    figure = matches_figure([match([True, True])])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["right"]


def ranking(*relevant: bool | None) -> Ranking:
    hits = (Hit(picture(f"photo/{i}.png", 30, 10), 0.9 - i / 10, r) for i, r in enumerate(relevant))
    return Ranking(picture(), tuple(hits))


def test_hits_are_framed_in_their_order() -> None:
    figure = retrieval_figure([ranking(True, False), ranking(False)])
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(frames) == 5  # Two queries, three hits.
    query, right, wrong = frames[:3]
    assert right.get_edgecolor() == to_rgba(RIGHT) and right.get_linestyle() == "-"
    assert wrong.get_edgecolor() == to_rgba(WRONG) and wrong.get_linestyle() != "-"
    assert query.get_x() < right.get_x() < wrong.get_x() == frames[4].get_x() + 1.1
    words = texts(figure)
    assert "✓ 0.90" in words and "✗ 0.80" in words and "cosine" in words
    # Pictures keep their shape: 30 x 10 pixels in a square of side 1.
    left, end, bottom, top = figure.axes[0].images[1].get_extent()
    assert end - left == pytest.approx(1) and bottom - top == pytest.approx(1 / 3)


def test_hits_that_nobody_judged_have_neither_tick_nor_cross() -> None:
    words = texts(retrieval_figure([ranking(None, None)]))
    assert "0.90" in words and not {"✓", "✗"} & set(words)


def mask(truth: bool) -> Mask:
    found, true = np.zeros((10, 20), bool), np.zeros((10, 20), bool)
    found[:, :8], true[:, 4:12] = True, True
    photo = picture("p.png", 20, 10)
    if not truth:
        return Mask(picture(), photo, found)
    return Mask(picture(), photo, found, true, 1 / 3)


def test_masks_tell_right_wrong_and_missed_apart() -> None:
    figure = masks_figure([mask(True)])
    panel = figure.subfigs[0].axes[2]
    painted = {
        tuple(np.round(image.get_array()[..., :3].max((0, 1)), 3)): int(
            (image.get_array()[..., 3] > 0).sum()
        )
        for image in panel.images[1:]
    }
    expected = {tuple(np.round(to_rgba(c)[:3], 3)): 40 for c in (RIGHT, WRONG, MISSED)}
    assert painted == expected
    hatches = {h for c in panel.collections for h in c.hatches if h}
    assert hatches == {"////", "...."}
    assert "IoU 33 %" in texts(figure)


def test_a_mask_without_truth_says_how_much_was_found() -> None:
    figure = masks_figure([mask(False)])
    words = texts(figure)
    assert "40% of the photo" in words and "IoU" not in words
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["found"]


def test_an_empty_mask_is_drawn() -> None:
    whole = mask(True)
    nothing = np.zeros_like(whole.found)
    texts(masks_figure([Mask(whole.sketch, whole.photo, nothing, nothing, 1.0)]))


def test_confusion_is_shares_of_the_row() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [1, 1, 2]])
    figure = confusion_figure(counts, ("a$x$", "b", "c"))
    axes = figure.axes[0]
    expected = [[75, 25, 0], [0, 0, 0], [25, 25, 50]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert axes.get_ylabel() == "is" and axes.get_xlabel() == "taken for"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a$x$", "b", "c"]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "1", "1", "2", "3"]
    assert "%" in figure.axes[1].get_ylabel()


def test_many_classes_are_drawn_without_names() -> None:
    names = [f"class {i}" for i in range(120)]
    axes = confusion_figure(np.eye(120, dtype=int), names).axes[0]
    assert not axes.texts and not axes.get_xticklabels()


def test_counts_of_other_classes_are_refused() -> None:
    with pytest.raises(PlotError, match="2 classes but a confusion matrix of 3 x 3"):
        confusion_figure(np.eye(3), ("a", "b"))


def test_guesses_mark_the_truth() -> None:
    guess = Guess(picture(), (("cat", 0.6), ("d$o$g", 0.3)), "cat")
    figure = guesses_figure([guess, Guess(picture(), (("cat", 0.6),))])
    words = texts(figure)
    assert "✓ cat 60 %" in words and "✗ d$o$g 30 %" in words and "\ncat 60 %" in words


def test_mixing_weights_are_bars_in_hundredths() -> None:
    figure = mixing_figure({"sd/t195/s3": 0.75, "clip/tokens": 0.25})
    axes = figure.axes[0]
    widths = [patch.get_width() for patch in axes.patches]
    assert widths == [75, 25]
    assert axes.lines[0].get_xdata()[0] == 50
    assert "%" in axes.get_xlabel() and "75.0" in texts(figure)


def curve(*validations: dict[str, float]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 1, "epoch": 0, "loss": 2.0, "rate": 1e-3}]
    for epoch, metrics in enumerate(validations, 1):
        lines.append({"step": 10 * epoch, "epoch": epoch - 1, "loss": 1 / epoch, "rate": 1e-3})
        lines.append({"step": 10 * epoch, "epoch": epoch, "validation": metrics})
    return lines


def drawn(figure: Figure) -> list[dict[str, tuple[list[float], list[float]]]]:
    return [
        {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
        for axes in figure.axes
    ]


def test_the_curve_of_one_run_shows_all_its_metrics() -> None:
    figure = curves_figure({"run": curve({"a": 0.25, "b": 0.5}, {"a": 0.5, "b": 0.75})})
    left, right = drawn(figure)
    assert left == {"run": ([1, 10, 20], [2.0, 1.0, 0.5])}
    assert right == {"a": ([10, 20], [25, 50]), "b": ([10, 20], [50, 75])}
    assert all("steps" in axes.get_xlabel() for axes in figure.axes)


def test_curves_of_several_runs_show_what_they_share() -> None:
    runs = {"x": curve({"a": 0.1, "b": 0.2}), "y": curve({"b": 0.4}), "z": curve()}
    figure = curves_figure(runs)
    left, right = drawn(figure)
    assert list(left) == ["x", "y", "z"]
    assert right == {"x": ([10], [20]), "y": ([10], [40])}
    assert "validation b" in figure.axes[1].get_ylabel()


def test_curves_of_different_tasks_name_their_metric() -> None:
    _, right = drawn(curves_figure({"x": curve({"a": 0.1}), "y": curve({"b": 0.4})}))
    assert list(right) == ["x: a", "y: b"]


def test_a_metric_that_nobody_has_is_refused_and_the_known_ones_named() -> None:
    for runs in ({"x": curve({"a": 0.1})}, {"x": curve({"a": 0.1}), "y": curve({"b": 0.4})}):
        with pytest.raises(PlotError, match="no validation metric c; there are a"):
            curves_figure(runs, "c")


def test_one_metric_of_one_run() -> None:
    _, right = drawn(curves_figure({"x": curve({"a": 0.1, "b": 0.2})}, "b"))
    assert list(right.values()) == [([10], [20.0])]


def test_a_hairs_breadth_does_not_look_like_a_leap() -> None:
    low, high = curves_figure({"x": curve({"a": 0.5}, {"a": 0.5001})}).axes[1].get_ylim()
    assert low < 50 < high and high - low == pytest.approx(5)


def test_a_run_without_validation_says_so() -> None:
    assert "no validation" in texts(curves_figure({"x": curve()}))


def group(n: int, with_pictures: bool) -> MappedImages:
    rng = np.random.default_rng(0)
    maps = {
        name: ColourMaps(
            tuple(rng.integers(0, 255, (size, size, 3), dtype=np.uint8) for _ in range(n)),
            np.array([0.4, 0.2, 0.1]),
        )
        for name, size in (("sd/t195/s3", 6), ("clip/tokens", 4))
    }
    names = tuple(f"image/{i}.png" for i in range(n))
    return MappedImages(names, maps, tuple(map(picture, names)) if with_pictures else ())


def test_maps_stand_in_rows_of_images_and_columns_of_arrays() -> None:
    pair = group(2, True)
    figure = maps_figure([pair, group(2, True)])
    panels = figure.subfigs[0].axes
    assert len(panels) == 6
    np.testing.assert_array_equal(panels[4].images[0].get_array(), pair.maps["sd/t195/s3"].maps[1])
    words = texts(figure)
    assert "sd/t195/s3\n6 x 6 cells\n70% of variance" in words and "image/0.png" in words
    assert len(maps_figure([group(3, False)]).subfigs[0].axes) == 6


@pytest.mark.parametrize(
    "draw",
    [
        matches_figure,
        retrieval_figure,
        masks_figure,
        guesses_figure,
        maps_figure,
        mixing_figure,
        curves_figure,
        lambda nothing: confusion_figure(np.empty((0, 0)), nothing),
    ],
)
def test_nothing_to_draw_is_an_error(draw: Any) -> None:
    with pytest.raises(PlotError, match="to draw"):
        draw({} if draw in (mixing_figure, curves_figure) else [])
