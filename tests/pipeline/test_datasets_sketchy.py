"""Sketchy in its official, extended and plain layouts, its pairs and masks; TU-Berlin."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import open_dataset
from pipeline.datasets.base import DatasetError, Label
from pipeline.datasets.sketchy import SketchyDataset
from pipeline.datasets.tuberlin import TUBerlinDataset
from pipeline.pictures.strokes import RENDER_SIDE
from tests.pipeline.trees import write_images, write_text

PLAIN = [
    "photo/airplane/n02691156_1.jpg",
    "photo/airplane/n02691156_2.jpg",
    "photo/wine_bottle/n1_7.jpg",
    "sketch/airplane/n02691156_1-1.png",
    "sketch/airplane/n02691156_1-12.png",
    "sketch/airplane/n02691156_9-1.png",
    "sketch/wine_bottle/n1_7-3.png",
]


def by_domain(dataset) -> dict[str, set[str]]:
    labels = dataset.annotations.labels
    return {
        domain: {image_id for image_id, label in labels.items() if label.domain == domain}
        for domain in ("photo", "sketch")
    }


def test_plain_class_folders(tmp_path):
    write_images(tmp_path, PLAIN)
    write_text(tmp_path, "pairs.csv", "class,sketch,photo\n")
    dataset = SketchyDataset(tmp_path)
    assert dataset.ids == tuple(PLAIN)
    first = "photo/airplane/n02691156_1.jpg"
    assert dataset.annotations.labels == {
        PLAIN[0]: Label("airplane", "photo"),
        PLAIN[1]: Label("airplane", "photo"),
        PLAIN[2]: Label("wine bottle", "photo"),
        PLAIN[3]: Label("airplane", "sketch", first),
        PLAIN[4]: Label("airplane", "sketch", first),
        PLAIN[5]: Label("airplane", "sketch"),
        PLAIN[6]: Label("wine bottle", "sketch", "photo/wine_bottle/n1_7.jpg"),
    }
    pairs = {(pair.sketch, pair.photo, pair.category) for pair in dataset.annotations.pairs}
    assert pairs == {
        (PLAIN[3], first, "airplane"),
        (PLAIN[4], first, "airplane"),
        (PLAIN[6], PLAIN[2], "wine bottle"),
    }
    assert [entry.path for entry in dataset.skipped] == ["pairs.csv"]


OFFICIAL = [
    f"256x256/{domain}/{rendering}/bat/n2_5{end}"
    for domain, end in [("photo", ".jpg"), ("sketch", "-1.png"), ("sketch", "-2.png")]
    for rendering in ("tx_000000000000", "tx_000100000000")
]


def test_the_official_tree_counts_every_image_once(tmp_path):
    write_images(tmp_path, OFFICIAL)
    dataset = SketchyDataset(tmp_path)
    photo = "256x256/photo/tx_000000000000/bat/n2_5.jpg"
    sketches = [f"256x256/sketch/tx_000000000000/bat/n2_5-{n}.png" for n in (1, 2)]
    assert dataset.ids == (photo, *sketches)
    assert [pair.photo for pair in dataset.annotations.pairs] == [photo, photo]
    assert [(entry.path, entry.reason) for entry in dataset.skipped] == [
        (f"256x256/{domain}/tx_000100000000", "other rendering of the images in tx_000000000000")
        for domain in ("photo", "sketch")
    ]


@pytest.mark.parametrize(
    ("below", "domains"),
    [
        ("256x256", {"photo", "sketch"}),
        ("256x256/photo", {"photo"}),
        ("256x256/sketch", {"sketch"}),
        ("256x256/sketch/tx_000100000000", {"sketch"}),
        ("256x256/photo/tx_000000000000", {"photo"}),
    ],
)
def test_the_root_may_be_given_at_any_level(tmp_path, below, domains):
    write_images(tmp_path, OFFICIAL)
    found = by_domain(SketchyDataset(tmp_path / below))
    assert {domain for domain, ids in found.items() if ids} == domains
    assert len(found["photo"]) == ("photo" in domains)
    assert len(found["sketch"]) == 2 * ("sketch" in domains)


def test_a_tree_with_only_another_rendering(tmp_path):
    write_images(tmp_path, [path for path in OFFICIAL if "tx_0001" in path])
    assert len(SketchyDataset(tmp_path).annotations.pairs) == 2


@pytest.mark.parametrize("extended", ["EXTEND_image_sketchy", "extended_photo"])
def test_the_extended_tree_adds_photos_without_repeating_any(tmp_path, extended):
    photo = "256x256/photo/tx_000000000000/bat/n2_5.jpg"
    write_images(
        tmp_path,
        [
            *OFFICIAL,
            f"{extended}/bat/n2_5.jpg",  # also in the 256 px tree
            f"{extended}/bat/n2_6.jpg",
            f"{extended}/bat/ext_1.jpg",
            f"{extended}/cow/n2_5.jpg",
        ],
    )
    dataset = SketchyDataset(tmp_path)
    assert by_domain(dataset)["photo"] == {
        photo,
        f"{extended}/bat/n2_6.jpg",
        f"{extended}/bat/ext_1.jpg",
        f"{extended}/cow/n2_5.jpg",
    }
    assert {pair.photo for pair in dataset.annotations.pairs} == {photo}
    assert (f"{extended}/bat/n2_5.jpg", "extended photo that is also under photo/") in [
        (entry.path, entry.reason) for entry in dataset.skipped
    ]


def test_extended_copies_are_kept_where_lists_name_them(tmp_path):
    photo = "256x256/photo/tx_000000000000/bat/n2_5.jpg"
    extended = [f"EXTEND_image_sketchy/bat/{name}.jpg" for name in ("ext_1", "n2_5")]
    write_images(tmp_path, [*OFFICIAL, *extended])
    dataset = open_dataset("sketchy", tmp_path, extended="all")
    assert by_domain(dataset)["photo"] == {photo, *extended}
    assert {pair.photo for pair in dataset.annotations.pairs} == {photo}
    assert not any(entry.path in extended for entry in dataset.skipped)
    assert by_domain(open_dataset("sketchy", tmp_path, extended="distinct")) == by_domain(
        SketchyDataset(tmp_path)
    )


def test_sketches_are_tied_to_extended_photos_where_there_are_no_others(tmp_path):
    write_images(tmp_path, ["EXTEND_image_sketchy/bat/n2_5.jpg", "sketch/bat/n2_5-1.png"])
    (pair,) = SketchyDataset(tmp_path).annotations.pairs
    assert pair.photo == "EXTEND_image_sketchy/bat/n2_5.jpg"


def test_folders_without_a_domain_go_by_file_name(tmp_path):
    write_images(tmp_path, ["bat/n2_5-1.png", "bat/n2_5.jpg", "cow/ext_3.jpg"])
    assert by_domain(SketchyDataset(tmp_path)) == {
        "photo": {"bat/n2_5.jpg", "cow/ext_3.jpg"},
        "sketch": {"bat/n2_5-1.png"},
    }


def test_strays_are_skipped(tmp_path):
    write_images(tmp_path, ["photo/bat/n2_5.jpg", "photo/loose.jpg", "logo.png", "other/bat/1.png"])
    dataset = SketchyDataset(tmp_path)
    assert dataset.ids == ("photo/bat/n2_5.jpg",)
    assert {entry.path: entry.reason for entry in dataset.skipped} == {
        "photo/loose.jpg": "not in a class folder",
        "logo.png": "not in a class folder",
        "other/bat/1.png": "under neither a photo nor a sketch folder",
    }


def test_a_limit_keeps_pairs_and_drops_lost_sources(tmp_path):
    write_images(tmp_path, PLAIN)
    dataset = SketchyDataset(tmp_path, limit=4)
    assert dataset.ids == (PLAIN[0], PLAIN[2], PLAIN[3], PLAIN[6])
    assert len(dataset.annotations.pairs) == 2
    one = SketchyDataset(tmp_path / "sketch", limit=1)
    assert one.annotations.labels == {"airplane/n02691156_1-1.png": Label("airplane", "sketch")}


def test_an_empty_tree_names_what_was_looked_for(tmp_path):
    with pytest.raises(DatasetError, match=r"photo/<class>.*sketch/<class>"):
        SketchyDataset(tmp_path)


# --- masks ----------------------------------------------------------------------------------


def write_mask(path, foreground: np.ndarray, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(foreground.astype(np.uint8) * 255).convert(mode).save(path)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA"])
def test_masks_of_photos(tmp_path, mode):
    root, masks = tmp_path / "sketchy", tmp_path / "masks"
    write_images(root, PLAIN, size=(8, 6))
    foreground = np.zeros((6, 8), bool)
    foreground[1:3, 2:7] = True
    write_mask(masks / "airplane" / "n02691156_1.png", foreground, mode)
    write_mask(masks / "airplane" / "n02691156_404.png", foreground)
    dataset = open_dataset("sketchy", root, None, masks=masks)
    found = pickle.loads(pickle.dumps(dataset)).annotations.masks
    assert list(found) == [PLAIN[0]]
    np.testing.assert_array_equal(found[PLAIN[0]](), foreground)
    assert [(entry.path, entry.reason) for entry in dataset.skipped] == [
        (f"{masks}/airplane/n02691156_404.png", "mask of no photo")
    ]


def test_masks_of_ones_are_foreground(tmp_path):
    write_images(tmp_path, ["photo/bat/n2_5.jpg"])
    (tmp_path / "masks" / "bat").mkdir(parents=True)
    values = np.zeros((6, 8), np.uint8)
    values[2, 3] = 1
    Image.fromarray(values).save(tmp_path / "masks" / "bat" / "n2_5.png")
    dataset = SketchyDataset(tmp_path, masks=tmp_path / "masks")
    assert dataset.ids == ("photo/bat/n2_5.jpg",)  # masks inside the root are no images
    np.testing.assert_array_equal(dataset.annotations.masks["photo/bat/n2_5.jpg"](), values == 1)


def test_a_mask_of_the_wrong_size_or_kind_is_refused(tmp_path):
    write_images(tmp_path, ["photo/bat/n2_5.jpg", "photo/bat/n2_6.jpg"])
    masks = tmp_path / "masks"
    write_mask(masks / "bat" / "n2_5.png", np.ones((3, 3)))
    write_text(masks, "bat/n2_6.png", "not a mask")
    found = SketchyDataset(tmp_path, masks=masks).annotations.masks
    with pytest.raises(DatasetError, match="has 3 x 3 pixels, its photo 8 x 6"):
        found["photo/bat/n2_5.jpg"]()
    with pytest.raises(DatasetError, match="not an image in a known format"):
        found["photo/bat/n2_6.jpg"]()
    with pytest.raises(DatasetError, match=r"masks .* does not exist"):
        SketchyDataset(tmp_path, masks=tmp_path / "nowhere")


# --- TU-Berlin ------------------------------------------------------------------------------


SVG = (
    '<?xml version="1.0"?><svg viewBox="0 0 800 800" xmlns="http://www.w3.org/2000/svg">'
    '<g fill="none" stroke="black"><path d="M100 100 C200 200 300 300 400 500"/></g></svg>'
)


@pytest.mark.parametrize("above", ["", "png/", "sketches_png/png/", "png150/"])
def test_tuberlin_sketches(tmp_path, above):
    write_images(tmp_path, [f"{above}hot air balloon/8001.png", f"{above}wine-bottle/2.png"])
    assert TUBerlinDataset(tmp_path).annotations.labels == {
        f"{above}hot air balloon/8001.png": Label("hot air balloon", "sketch"),
        f"{above}wine-bottle/2.png": Label("wine bottle", "sketch"),
    }


def test_tuberlin_png_and_svg(tmp_path):
    write_images(tmp_path, ["png/ant/1.png", "loose.png", "filelist.txt"])
    write_text(tmp_path, "svg/ant/2.svg", SVG)
    dataset = TUBerlinDataset(tmp_path)
    assert dataset.ids == ("png/ant/1.png", "svg/ant/2.svg")
    assert {entry.path for entry in dataset.skipped} == {"loose.png", "filelist.txt"}
    image_id = "svg/ant/2.svg"
    image = dataset.decode(image_id, dataset.read(image_id))
    assert image.size == (RENDER_SIDE, RENDER_SIDE) == dataset.size(image_id, SVG.encode())
    assert 0 < np.asarray(image).mean() < 255


def test_tuberlin_photos_of_the_extended_dataset(tmp_path):
    write_images(tmp_path, ["png/ant/1.png", "ImageResized/ant/n1_2.jpg"])
    assert TUBerlinDataset(tmp_path).annotations.labels == {
        "ImageResized/ant/n1_2.jpg": Label("ant", "photo"),
        "png/ant/1.png": Label("ant", "sketch"),
    }
