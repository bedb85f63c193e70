"""Search in a gallery: exact, kept, never stale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache import FeatureStore
from heads.evaluation.evaluate import reopen
from heads.training.run import open_run
from heads.use import UseError, load_picture, open_gallery, open_trained
from heads.use.gallery import is_photo
from tests.heads.use.conftest import Open
from tests.heads.worlds import World, complaint, ok


@pytest.fixture
def run(runs: Open, tmp_path: Path) -> Path:
    """A run of retrieval without a kept gallery."""
    others = shutil.ignore_patterns("galleries")  # Of tests that were here before.
    return Path(shutil.copytree(runs("retrieval"), tmp_path / "run", ignore=others))


def photos_in(world: World) -> list[str]:
    return sorted(i for i in FeatureStore.open(world.store).ids if i.startswith("photo/"))


@pytest.mark.parametrize("from_store", [True, False])
def test_hits_are_those_of_brute_force_over_evaluated_descriptors(
    world: World, run: Path, pictures: Path, from_store: bool
) -> None:
    trained = open_trained(run)
    gallery = open_gallery(trained, world.store if from_store else pictures)
    ids = photos_in(world)
    assert list(gallery.ids) == ids
    describe = reopen(open_run(run), lambda line: None).learner.describe
    sketch = next(i for i in FeatureStore.open(world.store).ids if i.startswith("sketch/"))
    query = describe([sketch]).pooled
    pooled = torch.cat([describe([image_id]).pooled for image_id in ids])
    expected = {i: float(c) for i, c in zip(ids, (pooled @ query[0]).tolist(), strict=True)}
    found = gallery.search(pictures / sketch, k=len(ids))
    assert {hit.id: hit.similarity for hit in found} == pytest.approx(expected, abs=2e-5)
    cosines = [hit.similarity for hit in found]
    assert cosines == sorted(cosines, reverse=True)
    assert gallery.search(pictures / sketch, k=5) == found[:5]


def test_a_photo_finds_itself(run: Path, pictures: Path) -> None:
    gallery = open_gallery(open_trained(run), pictures)
    for image_id in gallery.ids[::20]:
        best = gallery.search(pictures / image_id, k=1)[0]
        assert best.id == image_id and best.similarity == pytest.approx(1, abs=1e-6)


def test_a_gallery_is_described_once_and_never_stale(
    world: World, run: Path, runs: Open, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    some = [pictures / image_id for image_id in photos_in(world)[:6]]
    folder.mkdir()
    for number, path in enumerate(some[:4]):
        shutil.copy(path, folder / f"{number}.png")
    trained, told = open_trained(run), []

    def described() -> list[int]:
        """How many photos are described when the gallery is opened."""
        told.clear()
        open_gallery(trained, folder, listener=lambda done, total: told.append(total))
        return told[:1]

    assert described() == [4] and described() == []
    assert len(list((run / "galleries").glob("*.safetensors"))) == 1
    # A new photo, a changed one, a renamed one, one that is gone.
    shutil.copy(some[4], folder / "new.png")
    shutil.copy(some[5], folder / "0.png")
    (folder / "1.png").rename(folder / "renamed.png")
    (folder / "2.png").unlink()
    assert described() == [2]
    fresh = open_gallery(open_trained(shutil.copytree(runs("retrieval"), tmp_path / "b")), folder)
    kept = open_gallery(trained, folder)
    assert kept.ids == fresh.ids
    torch.testing.assert_close(kept.descriptors, fresh.descriptors, atol=1e-5, rtol=0)
    # Other weights.
    shutil.copy(runs("segmentation") / "best.safetensors", run / "best.safetensors")
    other = runs("correspondence")
    shutil.copytree(run / "galleries", tmp_path / "c" / "galleries")
    shutil.copytree(other, tmp_path / "c", dirs_exist_ok=True)
    trained = open_trained(tmp_path / "c")
    assert described() == [4] and described() == []
    # A damaged file, and a run that cannot be written to.
    (file,) = (tmp_path / "c" / "galleries").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-7])
    assert described() == [4] and described() == []
    shutil.rmtree(file.parent)
    file.parent.write_text("in the way")
    notes: list[str] = []
    open_gallery(trained, folder, notes.append)
    assert any("computed anew" in line for line in notes)


def test_a_store_that_grew_has_only_its_new_photos_described(
    world: World, run: Path, tmp_path: Path
) -> None:
    store = world.precompute(tmp_path / "store", "dataset.size=48")
    trained, told = open_trained(run), []
    first = open_gallery(trained, store, listener=lambda done, total: told.append(total))
    world.precompute(store, "dataset.size=96")
    again = open_gallery(trained, store, listener=lambda done, total: told.append(total))
    assert set(told) == {len(first), len(again) - len(first)} and len(again) > len(first)


def test_what_is_a_photo() -> None:
    assert is_photo("photo/cat/1.png") and is_photo("1.png") and is_photo("cat/1.png")
    assert is_photo("256x256/photo/tx_000000000000/cat/1.jpg")
    assert is_photo("photos/sketch/1.png")
    assert not is_photo("sketch/cat/1.png") and not is_photo("a/Sketches/cat/1.png")


def test_the_command_prints_the_best_and_draws_them(
    world: World, run: Path, pictures: Path, tmp_path: Path
) -> None:
    sketch = next(pictures.rglob("sketch/*/*.png"))
    out = tmp_path / "grid.png"
    # Of the run's own store; the pictures are the run's dataset's.
    result = ok("retrieve", run, sketch, "--top", "3", "--out", out, "--json")
    printed = json.loads(result.stdout)
    assert printed["n_gallery"] == len(photos_in(world))
    hits = printed["results"][0]["hits"]
    found = open_gallery(open_trained(run), world.store).search(sketch, 3)
    assert [(hit["id"], hit["similarity"]) for hit in hits] == [(f.id, f.similarity) for f in found]
    assert Image.open(out).width > Image.open(out).height
    lines = ok("retrieve", run, sketch, "--gallery", world.store, "--top", "2").stdout.splitlines()
    assert len(lines) == 3 and lines[1].split()[2] == found[0].id
    # A folder of sketches; pictures of a store below a root of one's own.
    folder = sketch.parent
    own = ("dataset.name=folder", f"dataset.root={pictures}", "dataset.size=null",
           "dataset.pixels=null", "dataset.limit=40")  # fmt: skip
    store = world.precompute(tmp_path / "own", *own)
    ok("retrieve", run, folder, "--gallery", store, "--root", pictures, "--out", out)
    names = [path.name for path in folder.iterdir()]
    text = ok("retrieve", run, folder, "--gallery", pictures, "--top", "1").stdout
    assert all(name in text for name in names)


def test_hits_come_with_their_pictures_or_an_honest_line(
    world: World, run: Path, pictures: Path, tmp_path: Path
) -> None:
    trained = open_trained(run)
    sketch = load_picture(next(pictures.rglob("sketch/*/*.png")))
    root = tmp_path / "photos"
    shutil.copytree(next(pictures.glob("photo")), root)
    for gallery in (open_gallery(trained, world.store), open_gallery(trained, root)):
        found = gallery.search(sketch, 2)
        (ranking,) = gallery.rankings([(sketch, found)])
        for hit, known in zip(ranking.hits, found, strict=True):
            assert (hit.photo.name, hit.score, hit.relevant) == (known.id, known.similarity, None)
            file = pictures / known.id if known.id.startswith("photo/") else root / known.id
            assert np.array_equal(np.asarray(hit.photo.image), np.asarray(Image.open(file)))
    Image.new("RGB", (9, 9)).save(root / found[1].id)
    gone = r"has changed or is gone from .*photos; open the gallery again"
    with pytest.raises(UseError, match=gone):
        gallery.rankings([(sketch, found)])
    (root / found[1].id).unlink()
    with pytest.raises(UseError, match=gone):
        gallery.rankings([(sketch, found)])


def test_bad_galleries_are_one_line(
    world: World, run: Path, pictures: Path, tmp_path: Path
) -> None:
    sketch = next(pictures.rglob("sketch/*/*.png"))
    other = world.precompute(tmp_path / "other", "dataset.size=6", "extraction.seed=5")
    line = complaint("retrieve", run, sketch, "--gallery", other)
    assert "seed: store has 5, requested 0" in line
    assert "nowhere" in complaint("retrieve", run, sketch, "--gallery", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no images" in complaint("retrieve", run, sketch, "--gallery", tmp_path / "empty")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "text.png").write_text("none")
    assert "text.png" in complaint("retrieve", run, sketch, "--gallery", bad)
    shutil.copy(sketch, bad / "good.png")
    assert "left out text.png" in ok("retrieve", run, sketch, "--gallery", bad).stderr
    only = tmp_path / "only" / "sketch"
    only.mkdir(parents=True)
    shutil.copy(sketch, only / "a.png")
    assert "no photo" in complaint("retrieve", run, sketch, "--gallery", only.parent)
    assert "grid.gif" in complaint("retrieve", run, sketch, "--out", tmp_path / "grid.gif")
    narrow = world.precompute(tmp_path / "narrow", "dataset.size=6", "extraction.layers=[s5]")
    assert "sd/t195/s3" in complaint("retrieve", run, sketch, "--gallery", narrow)
