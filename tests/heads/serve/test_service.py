"""Runs together answer as each does alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heads.serve import Service, open_service
from heads.use import (
    UseError,
    classify,
    load_picture,
    match,
    open_gallery,
    open_several,
    open_trained,
    segment,
)
from heads.use.shared import N_SHARED, SharedExtractor
from tests.heads.serve.conftest import TASKS
from tests.heads.worlds import World, complaint


def test_a_look_is_a_search_and_a_guess(
    world: World, service: Service, runs: Callable[[str], Path], sketch: bytes
) -> None:
    found = service.look(sketch, 7)
    alone = open_gallery(open_trained(runs("retrieval")), world.store)
    hits = alone.search(sketch, 7)
    assert [hit.id for hit in found.hits] == [hit.id for hit in hits]
    similarities = [hit.similarity for hit in hits]
    assert [hit.similarity for hit in found.hits] == pytest.approx(similarities, abs=1e-5)
    expected = classify(open_trained(runs("recognition")), sketch).classes
    assert found.classes is not None and dict(found.classes) == pytest.approx(
        dict(expected), abs=1e-4
    )


def test_masks_and_points_are_those_of_their_runs(
    service: Service, runs: Callable[[str], Path], pictures: Path, sketch: bytes
) -> None:
    image_id = service.gallery.ids[3]
    sha256 = service.gallery.sha256(image_id)
    expected = segment(open_trained(runs("segmentation")), sketch, pictures / image_id)
    assert (service.mask(sketch, sha256) != expected.found).mean() < 0.01
    points = [(20.0, 31.5), (40.0, 10.0)]
    found = service.match(sketch, sha256, points)
    theirs = match(open_trained(runs("correspondence")), sketch, pictures / image_id, points)
    np.testing.assert_allclose(found.found, theirs.found, atol=1e-2)
    assert len(service.match(sketch, sha256, grid=3).found) > 2


def test_equal_networks_are_loaded_once_and_a_picture_is_computed_once(
    runs: Callable[[str], Path], pictures: Path
) -> None:
    lines: list[str] = []
    opened = open_several([runs(task) for task in TASKS], lines.append)
    assert len(lines) == 1 and lines[0].startswith("loading backbone")
    assert len({id(run.extractor) for run in opened}) == 1
    shared = opened[0].extractor
    assert isinstance(shared, SharedExtractor)
    compute, calls = shared._extractor, []

    def counted(squares: np.ndarray, *rest: Any) -> dict[str, np.ndarray]:
        calls.append(len(squares))
        return compute(squares, *rest)

    shared._extractor = counted  # type: ignore[assignment]
    files = sorted(pictures.rglob("*.png"))[: N_SHARED + 1]
    for file in files:
        for run in opened:
            run.describe([load_picture(file)])
    assert calls == [1] * len(files)


def test_a_store_of_the_gallery_spares_the_networks(
    world: World, service: Service, pictures: Path, sketch: bytes
) -> None:
    """Photos are read, not computed: their pictures could be anything."""
    assert service.segmenter is not None
    calls: list[str] = []
    extractor = service.segmenter.extractor
    original = type(extractor).__call__

    def counted(self: object, squares: object, sha256s: list[str], arrays: object) -> object:
        calls.extend(sha256s)
        return original(self, squares, sha256s, arrays)  # type: ignore[arg-type]

    type(extractor).__call__ = counted  # type: ignore[method-assign]
    try:
        service.mask(sketch, service.gallery.sha256(service.gallery.ids[-1]))
    finally:
        type(extractor).__call__ = original  # type: ignore[method-assign]
    assert service.gallery.sha256(service.gallery.ids[-1]) not in calls


def test_one_run_alone_searches_and_finds_points(
    world: World, runs: Callable[[str], Path], sketch: bytes
) -> None:
    alone = open_service([runs("recognition")], None, None)
    found = alone.look(sketch, 3)
    assert len(found.hits) == 3 and found.classes is not None
    assert alone.matcher is not None and alone.segmenter is None
    with pytest.raises(UseError, match="no run here segments"):
        alone.mask(sketch, alone.gallery.sha256(found.hits[0].id))


def test_photos_are_reached_by_their_contents_only(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heads.serve.service.PIXELS_KEPT", 16 * 64 * 64)
    for name in ("../secrets", "0" * 64, service.gallery.ids[0]):
        with pytest.raises(UseError, match="no photo of the gallery"):
            service.photo(name)
    for image_id in service.gallery.ids:  # More than are kept.
        assert service.photo(service.gallery.sha256(image_id)).name == image_id
    assert len(service._decoded) == 16 < len(service.gallery)


def test_what_cannot_be_served_is_one_line(
    world: World, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run = runs("retrieval")
    assert "not a run" in complaint("serve", empty, "--port", "0")
    assert "no images" in complaint("serve", run, "--gallery", empty, "--port", "0")
    root = ["--gallery", world.store, "--root", tmp_path, "--port", "0"]
    assert "takes no root" in complaint("serve", run, *root)
    assert "choose another --host or --port" in complaint("serve", run, "--host", "203.0.113.7")
    assert "cannot be listened to" in complaint("serve", run, "--host", "no..name")
    pictures = ["--gallery", tmp_path, "--root", tmp_path, "--port", "0"]
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    assert "--root" in (line := complaint("serve", run, *pictures)) and "leave it out" in line
    bare = tmp_path / "bare"
    shutil.copytree(runs("recognition"), bare)
    (bare / "fitted.json").unlink()
    assert "sketchfusion evaluate" in complaint("serve", run, bare, "--port", "0")


def test_what_each_run_does_is_said(service: Service, runs: Callable[[str], Path]) -> None:
    said = service.roles()
    assert [line.partition(":")[0] for line in said] == ["photos", "points", "classes", "masks"]
    assert not any("expect less" in line for line in said)
    alone = open_service([runs("recognition"), runs("fine_grained")], None, None).roles()
    assert "expect less" in alone[1] and alone[0] == f"photos: {runs('fine_grained')}"


def test_a_photo_that_went_is_named(runs: Callable[[str], Path], tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    served = open_service([runs("retrieval")], tmp_path, None)
    (tmp_path / "1.png").unlink()
    with pytest.raises(UseError, match=r"1\.png: has changed or is gone from .*open the gallery"):
        served.photo(served.gallery.sha256("1.png"))
    served.photo(served.gallery.sha256("2.png"))
