"""What is said beside published numbers: how others' lists and code count differently.

The counts are those of the lists in the repositories of SAKE and ZSE-SBIR.
"""

from __future__ import annotations

import pytest

from heads.protocols import RecognitionPart, SearchPart, find_protocol, protocol_names
from heads.protocols.paper import paper_numbers

TASKS = ("correspondence", "retrieval", "fine_grained", "recognition", "segmentation")


def part_of(n_photos, n_sketches):
    """A test part of two categories with so many photos and sketches."""
    gallery = tuple(f"photo/{row % 2}/{row}.jpg" for row in range(n_photos))
    queries = tuple(f"sketch/{row % 2}/{row}.png" for row in range(n_sketches))
    categories = [tuple("ab"[row % 2] for row in range(n)) for n in (n_sketches, n_photos)]
    return SearchPart(queries, categories[0], (None,) * n_sketches, gallery, categories[1])


@pytest.mark.parametrize(
    ("name", "listed", "base", "extended"),
    [
        # Listed photos and sketches; base photos; extended photos that are not copies of them.
        ("sketchy-104-21", (12553, 12694), 21 * 100, 8353),
        ("sketchy-100-25", (17101, 15229), 25 * 100, 12102),
    ],
)
def test_extended_copies_of_base_photos_are_in_the_lists_and_not_here(name, listed, base, extended):
    protocol = find_protocol("retrieval", name)
    ours = base + extended
    line, *_ = protocol.differences(part_of(ours, listed[1]))
    assert f"{listed[0]:,} photos and {listed[1]:,} sketches are listed" in line
    assert f"{ours:,} and {listed[1]:,} are here" in line
    assert f"{listed[0] - ours:,} of those listed are extended copies of base photos" in line
    assert "dataset.extended=all" in line
    # With the copies there is nothing to say of the images.
    lines = protocol.differences(part_of(*listed))
    assert not any("are listed" in line for line in lines)
    # Of a part of the photos the copies are not the only ones that are missing.
    line, *_ = protocol.differences(part_of(ours + 1, 10))
    assert "copies" not in line and f"{ours + 1:,} and 10 are here" in line


@pytest.mark.parametrize(
    ("name", "photos", "sketches"),
    [("tuberlin-220-30", "27,989", "2,400"), ("quickdraw-80-30", "54,151", "92,291")],
)
def test_galleries_of_other_sizes_than_the_lists_are_said(name, photos, sketches):
    line, *_ = find_protocol("retrieval", name).differences(part_of(10, 8))
    assert f"{photos} photos and {sketches} sketches are listed, 10 and 8 are here" in line
    assert "copies" not in line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["AP is ap-voc, here ap-hits", "ZSE-SBIR: P@K is p-min, here p-k"]),
        ({"ap": "ap-voc"}, ["ZSE-SBIR: P@K is p-min, here p-k"]),
        ({"ap": "ap-voc", "precision": "p-min"}, ["SAKE: P@K is p-k, here p-min"]),
    ],
)
def test_what_peers_count_otherwise_depends_on_the_variants(options, expected):
    protocol = find_protocol("retrieval", "quickdraw-80-30", **options)
    *lines, last = protocol.differences(part_of(54151, 92291))
    assert len(lines) == len(expected)
    assert all(line.endswith(end) for line, end in zip(lines, expected, strict=True))
    assert last == "ZSE-SBIR: queries without a relevant photo are dropped (none here)"


@pytest.mark.parametrize(
    ("name", "n"),
    [
        # Sketches of seen categories in the whole dataset, less those listed for training.
        ("sketchy-104-21", 75481 - 12694 - 57587),
        ("sketchy-100-25", 75481 - 15229 - 55252),
        ("tuberlin-220-30", 220 * 80 - 15400),
    ],
)
def test_sketches_that_the_lists_keep_from_training_are_said(name, n):
    lines = find_protocol("retrieval", name).differences(part_of(10, 8))
    (line,) = [line for line in lines if "training" in line]
    assert f"{n:,} sketches of seen categories are not in the lists for training" in line


def test_worlds_of_ones_own_are_compared_with_nobody():
    for task in TASKS:
        for name in ("shapes-24-8", "held-out-3", "stratified", "shapes"):
            if name.replace("3", "<n>") in protocol_names(task):
                assert not find_protocol(task, name).differences(part_of(4, 4))


def test_a_fold_is_not_the_mean_of_three():
    protocol = find_protocol("recognition", "tuberlin-3-fold", fold=2)
    (line,) = protocol.differences(RecognitionPart(("a",), ("cat",), ("cat",)))
    assert "means over folds; this is 2" in line


@pytest.mark.parametrize("task", TASKS)
def test_whatever_is_published_says_what_is_known_of_its_counting(task):
    published = [paper_numbers(task, name) for name in protocol_names(task)]
    assert all(numbers.note for numbers in published if numbers is not None)
