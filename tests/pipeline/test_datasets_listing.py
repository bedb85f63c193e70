"""Walking a root: everything inside it, nothing outside, in one order."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.base import Label, Skipped
from pipeline.datasets.listing import list_files, summarise
from pipeline.datasets.subset import balanced_subset
from tests.pipeline.trees import write_images


def reasons(listing) -> dict[str, str]:
    return {entry.path: entry.reason for entry in listing.skipped}


def test_files_are_sorted_by_code_point_over_the_whole_path(tmp_path):
    paths = ["b/1.png", "a/2.png", "a/10.png", "a.png", "Z.PNG", "é/1.png", "a b/1.jpeg", "😀.gif"]
    write_images(tmp_path, paths)
    assert list_files(tmp_path).files == sorted(paths)


def test_names_keep_their_unicode_form(tmp_path):
    paths = ["caf\u00e9.png", "cafe\u0301.png"]  # composed and decomposed
    write_images(tmp_path, paths)
    assert list_files(tmp_path).files == sorted(paths)


def test_what_is_no_image_is_skipped_with_a_reason(tmp_path):
    write_images(
        tmp_path,
        ["a/1.png", "a/Thumbs.db", "a/notes.TXT", "a/none", ".DS_Store", ".git/x.png", "a/._1.png"],
    )
    os.mkfifo(tmp_path / "pipe.png")
    listing = list_files(tmp_path)
    assert listing.files == ["a/1.png"]
    assert reasons(listing) == {
        "a/Thumbs.db": "other extension (.db)",
        "a/notes.TXT": "other extension (.TXT)",
        "a/none": "other extension (none)",
        ".DS_Store": "hidden",
        ".git": "hidden",
        "a/._1.png": "hidden",
        "pipe.png": "not a regular file",
    }
    assert listing.skipped == sorted(listing.skipped, key=lambda entry: entry.path)


def test_a_name_that_is_not_utf8_is_skipped(tmp_path):
    folder = os.fsencode(tmp_path)
    try:
        for name in (b"caf\xe9.png", b"caf\xe9"):
            os.mkdir(os.path.join(folder, name))
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    listing = list_files(tmp_path)
    assert listing.files == []
    assert reasons(listing) == {
        "caf\\xe9.png": "name not UTF-8",
        "caf\\xe9": "name not UTF-8",
    }


ALREADY = "link to a folder that is listed already"


def test_links_inside_the_root_are_followed(tmp_path):
    root = tmp_path / "root"
    write_images(root, [".store/1.png", "real/2.png"])
    (root / "alias").symlink_to(".store")
    (root / "copy.png").symlink_to(root / "real" / "2.png")
    listing = list_files(root)
    assert listing.files == ["alias/1.png", "copy.png", "real/2.png"]
    assert reasons(listing) == {".store": "hidden"}


def test_a_folder_is_listed_under_its_own_name_before_that_of_a_link(tmp_path):
    write_images(tmp_path, ["real/deep/1.png"])
    (tmp_path / "alias").symlink_to("real")
    (tmp_path / "brief").symlink_to("real/deep")
    listing = list_files(tmp_path)
    assert listing.files == ["real/deep/1.png"]
    assert reasons(listing) == {"alias": ALREADY, "brief": ALREADY}


def test_of_several_links_to_a_folder_the_first_is_followed(tmp_path):
    write_images(tmp_path, [".store/1.png", ".store/deep/2.png"])
    (tmp_path / "c").symlink_to(".store")
    (tmp_path / "b").symlink_to(".store")
    (tmp_path / "a").symlink_to(".store/deep")
    listing = list_files(tmp_path)
    assert listing.files == ["a/2.png", "b/1.png"]
    assert reasons(listing) == {".store": "hidden", "b/deep": ALREADY, "c": ALREADY}


def test_links_out_of_the_root_are_not_followed(tmp_path):
    root = tmp_path / "root"
    write_images(tmp_path, ["root/1.png", "root-2/secret.png", "secret.png"])
    (root / "up").symlink_to("..")
    (root / "beside").symlink_to("../root-2")  # begins like the root's own path
    (root / "file.png").symlink_to(tmp_path / "secret.png")
    (root / "inner").mkdir()
    (root / "inner" / "up").symlink_to("../../root-2")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "self.png").symlink_to("self.png")
    listing = list_files(root)
    assert listing.files == ["1.png"]
    assert reasons(listing) == {
        "up": "link out of the root",
        "beside": "link out of the root",
        "file.png": "link out of the root",
        "inner/up": "link out of the root",
        "gone.png": "broken link",
        "self.png": "broken link",
    }


def test_a_link_cannot_leave_by_way_of_another(tmp_path):
    root = tmp_path / "root"
    write_images(tmp_path, ["root/1.png", "out/secret.png"])
    (root / "door").symlink_to("../out")
    (root / "inside").symlink_to("door")
    (root / "file.png").symlink_to("door/secret.png")
    assert list_files(root).files == ["1.png"]


def test_circles_of_links_end(tmp_path):
    write_images(tmp_path, ["a/1.png", "b/2.png"])
    (tmp_path / "a" / "top").symlink_to("..")
    (tmp_path / "a" / "here").symlink_to(".")
    (tmp_path / "a" / "over").symlink_to("../b")
    (tmp_path / "b" / "back").symlink_to("../a")
    listing = list_files(tmp_path)
    assert listing.files == ["a/1.png", "b/2.png"]
    assert reasons(listing) == dict.fromkeys(["a/top", "a/here", "a/over", "b/back"], ALREADY)


@pytest.mark.parametrize("store", ["", ".store/"])
def test_folders_that_all_link_to_each_other_are_listed_once(tmp_path, store):
    """Without circles alone there would be a path for every order of the folders: over 60,000."""
    write_images(tmp_path, [f"{store}{number}/image.png" for number in range(8)])
    for number in range(8):
        for other in set(range(8)) - {number}:
            (tmp_path / f"{store}{number}" / f"to {other}").symlink_to(f"../{other}")
    (tmp_path / "first").symlink_to(f"{store}0")
    listing = list_files(tmp_path)
    assert len(listing.files) == 8
    assert listing.files[0] == ("first/image.png" if store else "0/image.png")
    links = 8 * 7 + 1
    assert list(reasons(listing).values()).count(ALREADY) == links - (8 if store else 0)


def test_the_root_may_be_a_link(tmp_path):
    write_images(tmp_path, ["real/.a/1.png"])
    (tmp_path / "alias").symlink_to("real")
    (tmp_path / "real" / "b").symlink_to(".a")
    assert list_files(tmp_path / "alias").files == ["b/1.png"]


def test_a_folder_that_cannot_be_listed_is_skipped(tmp_path, monkeypatch):
    write_images(tmp_path, ["open/1.png", "closed/2.png"])
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):  # permissions do not stop a superuser
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_files(tmp_path)
    assert listing.files == ["open/1.png"]
    assert reasons(listing) == {"closed": "cannot be listed (Permission denied)"}


def test_deep_folders(tmp_path):
    folder = tmp_path
    for _ in range(300):
        folder = folder / "d"
    write_images(folder, ["1.png"])
    assert list_files(tmp_path).files == ["d/" * 300 + "1.png"]


def test_listing_is_quick(tmp_path):
    for folder in range(5):
        (tmp_path / f"class {folder}").mkdir()
        for number in range(500):
            os.close(os.open(tmp_path / f"class {folder}" / f"{number}.jpg", os.O_CREAT))
    start = time.process_time()
    assert len(list_files(tmp_path).files) == 2_500
    assert time.process_time() - start < 0.5  # a full Sketchy, 120 times as many, in seconds


def test_summary():
    skipped = [Skipped("a", "hidden"), Skipped("b", "broken link"), Skipped("c", "hidden")]
    assert summarise(skipped) == "3 skipped: 2 hidden, 1 broken link"
    assert summarise([]) == ""


# --- limits ---------------------------------------------------------------------------------


def labels_of(*entries: tuple[str, str, str | None]) -> dict[str, Label]:
    """Labels from (id, category, source); an id says its domain."""
    return {
        image_id: Label(category, "sketch" if "s" in image_id else "photo", source)
        for image_id, category, source in entries
    }


def test_a_subset_deals_one_per_category_in_turn():
    labels = labels_of(
        *((f"{c}/p{n}", c, None) for c in "abc" for n in range(3 if c == "a" else 1))
    )
    assert balanced_subset(labels, 3) == ["a/p0", "b/p0", "c/p0"]
    assert balanced_subset(labels, 4) == ["a/p0", "a/p1", "b/p0", "c/p0"]


def test_a_subset_keeps_pairs_together():
    labels = labels_of(
        ("p/a/0", "a", None),
        ("p/a/1", "a", None),
        ("p/b/0", "b", None),
        ("s/a/1-1", "a", "p/a/1"),
        ("s/a/1-2", "a", "p/a/1"),
        ("s/b/0-1", "b", "p/b/0"),
    )
    assert balanced_subset(labels, 4) == ["p/a/1", "p/b/0", "s/a/1-1", "s/b/0-1"]
    assert balanced_subset(labels, 5) == ["p/a/0", "p/a/1", "p/b/0", "s/a/1-1", "s/b/0-1"]


def test_a_subset_alternates_photos_and_sketches_that_are_no_pairs():
    labels = labels_of(*((f"{d}{n}", "a", None) for d in "ps" for n in range(5)))
    assert balanced_subset(labels, 4) == ["p0", "p1", "s0", "s1"]


images = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["photo", "sketch", None]), st.booleans()),
    max_size=30,
)


@given(images, st.integers(1, 35))
@settings(deadline=None)
def test_subsets_are_nested_ordered_and_of_the_right_size(entries, limit):
    labels: dict[str, Label] = {}
    for n, (category, domain, drawn) in enumerate(entries):
        photos = [i for i in labels if labels[i] == Label(category, "photo")]
        source = photos[-1] if drawn and domain == "sketch" and photos else None
        labels[f"{n:02d}"] = Label(category, domain, source)
    subset = balanced_subset(labels, limit)
    assert len(subset) == min(limit, len(labels))
    assert subset == sorted(set(subset))
    assert set(subset) <= set(balanced_subset(labels, limit + 1))
    counts = [sum(labels[i].category == c for i in subset) for c in "abc"]
    totals = [sum(label.category == c for label in labels.values()) for c in "abc"]
    for count, total in zip(counts, totals, strict=True):
        # A turn is worth one image or two, so the richest has at most twice as many and a pair.
        assert count == total or 2 * count >= max(counts) - 2
