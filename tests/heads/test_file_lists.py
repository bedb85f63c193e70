"""Retrieval on another project's file lists: reading them, finding the files, how they are counted.

The lists here are made up in the form of SAKE's `zeroshot1`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from heads.protocols import ProtocolError, find_protocol
from heads.protocols.path_matching import match_paths
from pipeline.datasets.base import Annotations, Label

PHOTO, SKETCH = "256x256/photo/tx_000000000000_ready", "256x256/sketch/tx_000000000000_ready"
EXTENDED = "EXTEND_image_sketchy_ready"
NAMES = {
    "sketch": "sketch_tx_000000000000_ready_filelist",
    "photo": "all_photo_filelist",
}
SEEN, UNSEEN = ("pig", "wine bottle", "owl"), ("cup", "tea pot")


def small_lists() -> dict[str, list[str]]:
    """Three seen and two unseen categories: lines by file name."""
    lists: dict[str, list[str]] = {
        "cname_cid.txt": [f"{name} {label}" for label, name in enumerate(SEEN)],
        "cname_cid_zero.txt": [f"{name} {label}" for label, name in enumerate(UNSEEN)],
    }
    for part, categories in (("train", SEEN), ("zero", UNSEEN)):
        photos, sketches = [], []
        for label, name in enumerate(categories):
            photos += [f"{PHOTO}/{name}/n{i}.jpg {label}" for i in range(4)]
            photos += [f"{EXTENDED}/{name}/{i}.jpg {label}" for i in ("n0", "ext_1")]
            sketches += [f"{SKETCH}/{name}/n{i}-1.png {label}" for i in range(4)]
        lists[f"{NAMES['photo']}_{part}.txt"] = photos
        lists[f"{NAMES['sketch']}_{part}.txt"] = sketches
    return lists


def write_lists(folder: Path, lists: Mapping[str, Sequence[str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, lines in lists.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def listed_ids(lists: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        line.rsplit(" ", 1)[0]
        for name, lines in lists.items()
        for line in lines
        if "filelist" in name
    ]


def annotated(ids: Sequence[str]) -> Annotations:
    """Sketches tied to the base photo they are named after."""
    labels = {}
    for image_id in ids:
        source = re.sub(r"-\d+\.png$", ".jpg", image_id.replace("/sketch/", "/photo/"))
        labels[image_id] = Label("nothing of the lists", "sketch", source)
    return Annotations(labels)


def applied(folder: Path, ids: Sequence[str], **options: str):
    protocol = find_protocol("retrieval", "file-lists", lists=str(folder), **options)
    return protocol, protocol.apply(annotated(ids), dict.fromkeys(ids, (8, 8)))


@pytest.fixture
def lists() -> dict[str, list[str]]:
    return small_lists()


# Which images


def test_gallery_and_queries_are_the_lists_line_by_line(tmp_path, lists):
    photos, sketches = (f"{NAMES[domain]}_zero.txt" for domain in ("photo", "sketch"))
    lists[photos] = lists[photos][::-1]
    lists[photos].append(lists[photos][0])
    ids = sorted(listed_ids(lists))
    parts = applied(write_lists(tmp_path / "zeroshot1", lists), ids)[1]
    assert [f"{a} {UNSEEN.index(b)}" for a, b in zip(
        parts.test.gallery, parts.test.gallery_categories, strict=True
    )] == lists[photos]  # fmt: skip
    assert [f"{a} {UNSEEN.index(b)}" for a, b in zip(
        parts.test.queries, parts.test.query_categories, strict=True
    )] == lists[sketches]  # fmt: skip
    assert parts.complete and parts.notes == ()
    assert len(parts.test.ids) == len(set(parts.test.ids)) == 2 * 10
    trained = {line.rsplit(" ", 1)[0] for name in lists for line in lists[name] if "train" in name}
    assert set(parts.train.ids) | set(parts.val.ids) == trained
    assert not set(parts.train.ids) & set(parts.val.ids)
    assert set(parts.val.query_categories) == set(SEEN)
    assert set(parts.val.sources) <= set(parts.val.gallery)  # a sketch goes with its photo


def test_the_result_names_the_lists_by_what_they_say(tmp_path, lists):
    ids = listed_ids(lists)
    here, elsewhere = (write_lists(tmp_path / name, lists) for name in ("zeroshot1", "other"))
    first, second = (applied(folder, ids)[0].variants["lists"] for folder in (here, elsewhere))
    assert re.fullmatch("zeroshot1 [0-9a-f]{12}", first)
    assert first.split()[1] == second.split()[1]
    name = f"{NAMES['photo']}_zero.txt"
    write_lists(elsewhere, {name: lists[name][::-1]})
    assert applied(elsewhere, ids)[0].variants["lists"].split()[1] != first.split()[1]
    variants = applied(here, ids, ap="ap-voc", empty="drop")[0].variants
    assert variants == {"lists": first, "ap": "ap-voc", "precision": "p-k", "empty": "drop"}


def test_a_partial_match_is_counted_and_never_complete(tmp_path, lists):
    folder = write_lists(tmp_path / "zeroshot1", lists)
    copies = f"{EXTENDED}/cup/n0.jpg", f"{EXTENDED}/tea pot/n0.jpg"
    parts = applied(folder, [one for one in listed_ids(lists) if one not in copies])[1]
    (note,) = parts.notes
    assert "only 10 of the 12 photos listed in all_photo_filelist_zero.txt are here" in note
    assert "not the lists' own" in note and copies[0] in note and "dataset.extended=all" in note
    assert not parts.complete and len(parts.test.gallery) == 10
    with pytest.raises(ProtocolError, match="none of the 8 sketches listed in sketch_tx") as caught:
        applied(folder, [one for one in listed_ids(lists) if "/sketch/" not in one])
    assert "dataset.root" in str(caught.value) and "\n" not in str(caught.value)


def test_training_lists_that_are_not_here_are_counted_too(tmp_path, lists):
    folder = write_lists(tmp_path / "zeroshot1", lists)
    ids = [one for one in listed_ids(lists) if "/cup/" in one or "/tea pot/" in one]
    parts = applied(folder, ids)[1]
    assert len(parts.notes) == 2 and not parts.complete
    assert len(parts.train) == len(parts.val) == 0 and len(parts.test) == 8


@pytest.mark.parametrize(("empty", "n"), [("zero", 9), ("drop", 8)])
def test_a_query_without_a_relevant_photo_counts_as_0_or_not_at_all(tmp_path, lists, empty, n):
    lists["cname_cid_zero.txt"].append("harp 2")
    lists[f"{NAMES['sketch']}_zero.txt"].insert(3, f"{SKETCH}/harp/n1-1.png 2")
    folder = write_lists(tmp_path / "zeroshot1", lists)
    parts = applied(folder, listed_ids(lists), empty=empty)[1]
    assert len(parts.test) == n and parts.complete
    assert ("harp" in parts.test.query_categories) == (empty == "zero")
    assert parts.notes == ("queries left out for want of a relevant photo: 1",) * (n == 8)


def test_what_is_trained_on_and_tested_is_said(tmp_path, lists):
    name = f"{NAMES['photo']}_train.txt"
    lists[name].append(f"{PHOTO}/cup/n0.jpg 0")
    parts = applied(write_lists(tmp_path / "zeroshot1", lists), listed_ids(lists))[1]
    assert "images listed both for training and for testing: 1" in parts.notes


# What is counted


def peers_scores(
    folder: Path, descriptors: Mapping[str, np.ndarray], drop: bool
) -> dict[str, list[float]]:
    """Each query's scores by the peers' equations, from the lists alone.

    The precision at a recall is the highest at any recall that is not lower, and AP is the area
    below; recall counts at most K relevant photos. Precision divides by K, or (`p-min`) by the
    relevant photos if they are fewer, and looks no further. Of no relevant photo all is nan.
    """

    def rows(name: str) -> list[tuple[str, int]]:
        lines = (folder / name).read_text().splitlines()
        return [(" ".join(line.split()[:-1]), int(line.split()[-1])) for line in lines]

    gallery, queries = (rows(f"{NAMES[domain]}_zero.txt") for domain in ("photo", "sketch"))
    photos = np.stack([descriptors[path] for path, _ in gallery])
    scores = defaultdict(list)
    for path, label in queries:
        distances = np.linalg.norm(photos - descriptors[path], axis=1)
        ranked = np.array([gallery[row][1] == label for row in np.argsort(distances)])
        total = ranked.sum()
        if not total and drop:
            continue
        for name, k in (("map@all", len(ranked)), ("map@200", 200)):
            area, reached = 0.0, 0.0
            precision = ranked[:k].cumsum() / np.arange(1, len(ranked[:k]) + 1)
            for place in range(len(precision)):
                recall = ranked[: place + 1].sum() / max(min(k, total), 1)
                area += (recall - reached) * precision[place:].max()
                reached = recall
            scores[name].append(area)
        for k in (100, 200):
            scores[f"p@{k}"].append(ranked[:k].sum() / k)
        scores["p-min@100"].append(ranked[: min(100, total)].mean() if total else 0.0)
    return scores


@pytest.mark.parametrize("empty", ["zero", "drop"])
def test_the_score_is_the_peers_from_the_files_alone(tmp_path, lists, empty):
    """260 photos, so that 200 is a cut; one label has none, and one photo is listed twice."""
    lists["cname_cid_zero.txt"].append("harp 2")
    queries, gallery = (lists[f"{NAMES[domain]}_zero.txt"] for domain in ("sketch", "photo"))
    queries.insert(2, f"{SKETCH}/harp/n1-1.png 2")
    for label, name in enumerate(UNSEEN):
        gallery += [f"{EXTENDED}/{name}/ext_{i}.jpg {label}" for i in range(2, 120 + 10 * label)]
    gallery.append(gallery[5])
    folder = write_lists(tmp_path / "zeroshot1", lists)
    ids = list(dict.fromkeys(listed_ids(lists)))
    random = np.random.default_rng(0).normal(size=(len(ids), 4))
    directions = random / np.linalg.norm(random, axis=1, keepdims=True)
    descriptors = dict(zip(ids, directions, strict=True))
    expected = {
        name: np.mean(values)
        for name, values in peers_scores(folder, descriptors, empty == "drop").items()
    }
    for precision in ("p-k", "p-min"):
        protocol, parts = applied(folder, ids, ap="ap-voc", precision=precision, empty=empty)
        described = [
            torch.from_numpy(np.stack([descriptors[name] for name in names]))
            for names in (parts.test.queries, parts.test.gallery)
        ]
        score = protocol.score(parts.test, *described)
        assert score.n == len(queries) - (empty == "drop")
        names = ("map@all", "map@200", "p@100", "p@200") if precision == "p-k" else ()
        for name in names:
            assert score.metrics[name] == pytest.approx(expected[name], abs=1e-12)
        if precision == "p-min":
            assert score.metrics["p@100"] == pytest.approx(expected["p-min@100"], abs=1e-12)
        lost = "1 queries without a relevant photo count as 0" in score.notes
        assert lost == (empty == "zero")
        assert all(np.isfinite(value) for value in protocol.chance(parts.test).values())


# Finding the files


@pytest.mark.parametrize(
    ("image_id", "resized"),
    [
        ("256x256/photo/tx_000000000000_ready/tea pot/n1.jpg", False),
        ("dataset/Sketchy/256x256/photo/tx_000000000000_ready/tea pot/n1.jpg", False),
        ("photo/tx_000000000000_ready/tea pot/n1.jpg", False),
        ("256x256/photo/tx_000000000000/tea pot/n1.jpg", True),
    ],
)
def test_a_file_is_found_below_a_root_at_another_level(image_id, resized):
    path = "256x256/photo/tx_000000000000_ready/tea pot/n1.jpg"
    others = ["EXTEND_image_sketchy_ready/tea pot/n1.jpg", "photo/tea pot/n1.jpg", "n1.jpg"]
    found = match_paths([path], [*others, image_id])
    assert found.id_of == {path: image_id}
    assert found.resized == ({path} if resized else set())


@pytest.mark.parametrize(
    "image_id",
    [
        "EXTEND_image_sketchy_ready/cup/n1.jpg",
        "256x256/photo/tx_000100000000/cup/n1.jpg",
        "photo/cup/n1.jpg",
        "256x256/photo/tx_000000000000_ready/Cup/n1.jpg",
        "256x256/photo/tx_000000000000_ready/cup/n1.JPEG",
        "256x256/photo/tx_000000000000_ready/cup/xn1.jpg",
        "n1.jpg",
    ],
)
def test_another_file_is_not_taken_for_a_listed_one(image_id):
    assert match_paths(["256x256/photo/tx_000000000000_ready/cup/n1.jpg"], [image_id]).id_of == {}


def test_the_resized_folder_is_taken_before_its_original():
    ids = [f"256x256/photo/tx_000000000000{end}/cup/n1.jpg" for end in ("", "_ready")]
    for path, image_id in zip(ids, ids, strict=True):
        assert match_paths([path], ids).id_of == {path: image_id}
        assert not match_paths([path], ids).resized


@pytest.mark.parametrize(
    ("listed", "ids"),
    [
        (["photo/cup/n1.jpg"], ["a/photo/cup/n1.jpg", "b/photo/cup/n1.jpg"]),
        (["a/photo/cup/n1.jpg", "b/photo/cup/n1.jpg"], ["photo/cup/n1.jpg"]),
        (["p_ready/cup/n1.jpg"], ["a/p/cup/n1.jpg", "b/p/cup/n1.jpg"]),
    ],
)
def test_what_may_be_either_of_two_names_both(listed, ids):
    with pytest.raises(ProtocolError) as caught:
        match_paths(listed, ids)
    assert all(path in str(caught.value) for path in (*listed, *ids))
    assert "\n" not in str(caught.value)


# Reading


@pytest.mark.parametrize("names", [("ImageResized_ready_filelist", "png_ready_filelist")])
def test_lists_of_tuberlin_have_other_names(tmp_path, lists, names):
    for ending in ("train", "zero"):
        for domain, name in zip(("photo", "sketch"), names, strict=True):
            lists[f"{name}_{ending}.txt"] = lists.pop(f"{NAMES[domain]}_{ending}.txt")
    ids = listed_ids(lists)
    assert len(applied(write_lists(tmp_path / "zeroshot", lists), ids)[1].test) == 8


def test_base_photos_alone_do_not_stand_in_for_all(tmp_path, lists):
    """SAKE's folder has lists of base photos too."""
    lists["photo_tx_000000000000_ready_filelist_zero.txt"] = [f"{PHOTO}/cup/n0.jpg 0"]
    lists["sketch_tx_000000000000_ready_filelist_test.txt"] = [f"{SKETCH}/pig/n9-1.png 0"]
    parts = applied(write_lists(tmp_path / "zeroshot1", lists), listed_ids(lists))[1]
    assert len(parts.test.gallery) == 12


def test_without_names_the_labels_are_the_categories(tmp_path, lists):
    kept = {name: lines for name, lines in lists.items() if "cname" not in name}
    parts = applied(write_lists(tmp_path / "zeroshot1", kept), listed_ids(lists))[1]
    assert parts.test.categories == ("label 0", "label 1")
    assert parts.test.query_categories == ("label 0",) * 4 + ("label 1",) * 4


def test_windows_line_ends_and_empty_lines_are_no_entries(tmp_path, lists):
    folder = write_lists(tmp_path / "zeroshot1", lists)
    name = folder / f"{NAMES['photo']}_zero.txt"
    name.write_bytes(b"\xef\xbb\xbf" + name.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert len(applied(folder, listed_ids(lists))[1].test.gallery) == 12


ZERO = f"{NAMES['photo']}_zero.txt"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (ZERO, b"a/b.jpg 0\na/c.jpg\n", f"{ZERO}, line 2: 'a/c.jpg' is not a path, a space"),
        (ZERO, b"a/b.jpg 0\n\na/c.jpg x1\n", f"{ZERO}, line 3: 'a/c.jpg x1' is not"),
        (ZERO, b"a/b.jpg -1\n", "line 1: 'a/b.jpg -1' is not"),
        (ZERO, "a/b.jpg ١\n".encode(), "line 1: .* is not"),
        (ZERO, b"a/b.jpg 1_0\n", "line 1: .* is not"),
        (ZERO, b"a/b.jpg " + b"9" * 5000, "line 1: .* is not"),
        (ZERO, b"a/b.jpg 0\n\xff\xfe.jpg 0\n", f"{ZERO}, line 2: is not UTF-8"),
        (ZERO, b"", "is empty"),
        (ZERO, b" \n\n", "is empty"),
        (ZERO, b"a/b.jpg 7\n", "line 1: label 7 has no name"),
        ("cname_cid_zero.txt", b"cup 0\nbowl 0\n", "cname_cid_zero.txt, line 2: label 0 is there"),
        ("cname_cid_zero.txt", b"tea-pot 0\ntea_pot 1\n", "line 2: category 'tea_pot' is there"),
        ("cname_cid_zero.txt", b"cup\n", "cname_cid_zero.txt, line 1"),
        ("photo_zero.txt", b"a/b.jpg 0\n", None),
        (
            "all_image_zero.txt",
            b"a/b.jpg 0\n",
            "all_image_zero.txt and all_photo_filelist_zero.txt",
        ),
    ],
)
def test_a_malformed_list_is_one_line_with_file_and_line(tmp_path, lists, name, content, message):
    folder = write_lists(tmp_path / "zeroshot1", lists)
    (folder / name).write_bytes(content)
    if message is None:
        assert find_protocol("retrieval", "file-lists", lists=folder)
        return
    with pytest.raises(ProtocolError, match=message) as caught:
        find_protocol("retrieval", "file-lists", lists=folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", [f"{NAMES[d]}_{e}.txt" for d in NAMES for e in ("train", "zero")])
def test_each_of_the_four_lists_is_needed(tmp_path, lists, name):
    del lists[name]
    what = "sketches" if "sketch" in name else "photos"
    ending = name.rpartition("_")[2]
    with pytest.raises(ProtocolError, match=rf"no list of {what} called \*_{ending}"):
        find_protocol("retrieval", "file-lists", lists=write_lists(tmp_path / "z", lists))


@pytest.mark.parametrize("options", [{}, {"lists": ""}, {"lists": 3}, {"lists": None}])
def test_lists_must_be_named(options):
    with pytest.raises(ProtocolError, match=r"set train\.variants\.lists to the folder"):
        find_protocol("retrieval", "file-lists", **options)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ProtocolError, match="elsewhere: cannot be read"):
        find_protocol("retrieval", "file-lists", lists=tmp_path / "elsewhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ProtocolError, match="file: cannot be read"):
        find_protocol("retrieval", "file-lists", lists=tmp_path / "file")


def test_lists_are_for_retrieval_alone(tmp_path, lists):
    folder = write_lists(tmp_path / "zeroshot1", lists)
    with pytest.raises(ProtocolError, match="no protocol 'file-lists'"):
        find_protocol("fine_grained", "file-lists", lists=folder)
    with pytest.raises(ProtocolError, match="no option 'lists'"):
        find_protocol("retrieval", "sketchy-104-21", lists=folder)
    with pytest.raises(ProtocolError, match="did you mean 'file-lists'"):
        find_protocol("retrieval", "file-list", lists=folder)
