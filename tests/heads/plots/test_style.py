"""Saving figures, and names in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib._pylab_helpers import Gcf
from PIL import Image

from heads.plots import PlotError, mixing_figure, save
from heads.plots.style import new_figure, rendered, shown

WEIGHTS = {"sd/t195/s3": 0.7, "clip/tokens": 0.3}


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_a_figure_is_saved_by_its_suffix(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / "new" / f"figure{suffix}"
    save(mixing_figure(WEIGHTS), path)
    assert path.read_bytes().startswith(start)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["figure.gif", "figure", "figure.png.txt"])
def test_another_suffix_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlotError, match=r"saved as \.png, \.svg, \.pdf") as caught:
        save(mixing_figure(WEIGHTS), tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_figure_that_cannot_be_drawn_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = mixing_figure(WEIGHTS)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="No space"):
        save(figure, path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_equal_figures_are_equal_files(suffix: str) -> None:
    assert rendered(mixing_figure(WEIGHTS), suffix) == rendered(mixing_figure(WEIGHTS), suffix)


def test_figures_are_white_whatever_the_machine_is_set_to(tmp_path: Path) -> None:
    save(new_figure(1, 1), tmp_path / "white.png")
    with Image.open(tmp_path / "white.png") as image:
        assert image.convert("RGB").getcolors() == [(image.width * image.height, (255, 255, 255))]


def test_nothing_is_kept_by_pyplot(tmp_path: Path) -> None:
    save(mixing_figure(WEIGHTS), tmp_path / "figure.svg")
    assert not Gcf.figs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat.png", "cat.png"),
        ("sketch/cat/000138-1.png", "cat/000138-1.png"),
        ("a-name-that-is-far-too-long.png", "…is-far-too-long.png"),
        ("line\nbreak", "line\\nbreak"),
    ],
)
def test_names_are_shortened_from_the_left(name: str, expected: str) -> None:
    assert shown(name, 20) == expected
