"""A run on a peer's file lists, from the configuration to the table; what stands beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch.nn.functional as F
import yaml
from PIL import Image

from heads.evaluation.evaluate import reopen
from heads.protocols.peers import PEER_LISTS, PeerLists
from heads.training.run import Run
from tests.heads.test_file_lists import EXTENDED, NAMES, peers_scores, small_lists, write_lists
from tests.heads.worlds import World, complaint, ok, sets, write_config

DUPLICATE = f"{EXTENDED}/cup/n0.jpg"
"""An extended copy of a base photo, which the lists hold as SAKE's do."""


@pytest.fixture(scope="module")
def sketchy(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with its lists, a configuration that names both, and a store of all its images."""
    root = tmp_path_factory.mktemp("peer")
    lists = small_lists()
    lists["cname_cid_zero.txt"].append("harp 2")
    lists[f"{NAMES['sketch']}_zero.txt"].append(
        "256x256/sketch/tx_000000000000_ready/harp/n1-1.png 2"
    )
    lists[f"{NAMES['photo']}_zero.txt"].append(f"{DUPLICATE} 0")
    write_lists(root / "zeroshot1", lists)
    rng = np.random.default_rng(0)
    for name, lines in lists.items():
        for line in lines if "filelist" in name else ():
            path = root / "Sketchy" / line.rsplit(" ", 1)[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    dataset = {"name": "sketchy", "root": "Sketchy", "extended": "all"}
    variants = {"lists": "zeroshot1", "ap": "ap-voc", "empty": "drop"}
    config = write_config(
        root / "c.yaml", world.root, dataset, protocol="file-lists", variants=variants, epochs=1
    )
    document = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**document, "task": "retrieval"}))
    ok("precompute", config, "--out", root / "store")
    return root


def test_a_run_on_the_lists_is_counted_as_its_peers_count(
    sketchy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the lists are found beside the configuration
    command = ["train", sketchy / "c.yaml", "--cache", sketchy / "store", "--out", "run"]
    assert "by file-lists: 9 to train on, 3 to validate, 8 to test" in ok(*command).stderr
    monkeypatch.chdir(sketchy)
    found = json.loads(ok("evaluate", tmp_path / "run", "--no-floors", "--json").stdout)
    opened = reopen(Run(tmp_path / "run"), lambda line: None)
    ids = opened.task.parts.test.ids
    pooled = F.normalize(opened.learner.describe(ids).pooled.double()).numpy()
    descriptors = dict(zip(ids, pooled, strict=True))
    # What no photo is relevant to needs no descriptor: it is dropped.
    descriptors["256x256/sketch/tx_000000000000_ready/harp/n1-1.png"] = pooled[0]
    expected = peers_scores(sketchy / "zeroshot1", descriptors, drop=True)
    assert found["n"] == len(expected["map@all"]) == 8
    for name in ("map@all", "map@200", "p@100", "p@200"):
        assert found["metrics"][name] == pytest.approx(np.mean(expected[name]), abs=1e-9)
    assert (found["protocol"], found["paper"]) == ("file-lists", {})
    assert found["variants"]["lists"].startswith("zeroshot1 ")
    assert found["variants"]["empty"] == "drop"
    assert "queries left out for want of a relevant photo: 1" in found["notes"]
    assert "ZSE-SBIR: P@K is p-min, here p-k" in found["notes"]
    assert not any("SAKE" in note for note in found["notes"])
    assert not any("lists' own" in note for note in found["notes"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "ZSE-SBIR: P@K is p-min, here p-k" in page and "file-lists" in page


def test_without_the_copies_the_number_is_not_the_lists_own(sketchy: Path, tmp_path: Path) -> None:
    output = ok(
        "train", sketchy / "c.yaml", "--cache", sketchy / "store", "--out", tmp_path / "run",
        *sets("dataset.extended=distinct"),
    ).stderr  # fmt: skip
    printed = ok("evaluate", tmp_path / "run", "--no-floors").stdout
    for text in (output, printed):
        assert "only 10 of the 13 photos listed in all_photo_filelist_zero.txt are here" in text
        assert "dataset.extended=all" in text
    assert "ZSE-SBIR" not in printed


def test_bad_lists_are_one_line(sketchy: Path, tmp_path: Path) -> None:
    write_lists(tmp_path / "z", {**small_lists(), f"{NAMES['photo']}_zero.txt": ["a.jpg 0", "b"]})
    command = ["train", sketchy / "c.yaml", "--cache", sketchy / "store", "--out", tmp_path / "run"]
    line = complaint(*command, *sets(f"train.variants.lists={tmp_path / 'z'}"))
    assert f"{NAMES['photo']}_zero.txt, line 2: 'b'" in line
    assert "cannot be read" in complaint(*command, *sets("train.variants.lists=/nowhere"))
    assert "set train.variants.lists" in complaint(*command, *sets("train.variants={}"))
    assert not (tmp_path / "run").exists()


def test_the_table_says_where_peers_count_otherwise(
    runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs("retrieval"), tmp_path / "run")
    lists = PeerLists("SAKE (zeroshot1)", 1234, 567, n_copies=7)
    monkeypatch.setitem(cast(dict[str, PeerLists], PEER_LISTS), "shapes-24-8", lists)
    printed = ok("evaluate", tmp_path / "run", "--no-floors").stdout
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    page = (tmp_path / "run" / "report.html").read_text()
    assert found["notes"][-4:] == [
        *(note for note in found["notes"] if note.startswith("SAKE (zeroshot1): 1,234 photos")),
        "SAKE and ZSE-SBIR: AP is ap-voc, here ap-hits",
        "ZSE-SBIR: P@K is p-min, here p-k",
        "ZSE-SBIR: queries without a relevant photo are dropped (none here)",
    ]
    for note in found["notes"]:
        assert note in printed and note in page
