"""All protocols by task and name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from heads.protocols.base import Protocol, ProtocolError, Task
from heads.protocols.class_splits import ClassSplitProtocol, HeldOut
from heads.protocols.correspondence import OwnPairs, ReleasedPairs
from heads.protocols.file_lists import FileListsProtocol
from heads.protocols.lists import read_file_lists
from heads.protocols.recognition import Fold, OwnParts, Stratified
from heads.protocols.retrieval import FineGrainedProtocol, RetrievalProtocol
from heads.protocols.segmentation import SegmentationProtocol
from pipeline.datasets.splits import ZERO_SHOT_SPLITS, ZeroShotSplit
from pipeline.shapes.categories import SEEN, UNSEEN_SETS

_HELD_OUT = re.compile(r"held-out-([1-9]\d*)")
_HELD_OUT_KEYS = ("seed", "unseen")
_FILE_LISTS = "file-lists"

_FIRST, _SECOND = frozenset(UNSEEN_SETS["first"]), frozenset(UNSEEN_SETS["second"])
_SHAPES = (
    ZeroShotSplit("shapes-24-8", frozenset(SEEN), _FIRST),
    ZeroShotSplit("shapes-24-10", frozenset(SEEN), _SECOND),
)
_SKETCHY = ZERO_SHOT_SPLITS["sketchy-104-21"]

_CLASS_SPLIT_TASKS: Mapping[Task, type[ClassSplitProtocol[Any]]] = {
    "retrieval": RetrievalProtocol,
    "fine_grained": FineGrainedProtocol,
    "segmentation": SegmentationProtocol,
}

_NAMED: Mapping[Task, tuple[Protocol[Any], ...]] = {
    "correspondence": (
        OwnPairs("psc6k-official", n_expected=6250),
        ReleasedPairs("sketchfusion-release"),
        OwnPairs("shapes", excluded=_SECOND),
        OwnPairs("shapes-24-10", excluded=_FIRST),
    ),
    "retrieval": tuple(
        RetrievalProtocol(split.name, split) for split in (*ZERO_SHOT_SPLITS.values(), *_SHAPES)
    ),
    "fine_grained": tuple(FineGrainedProtocol(split.name, split) for split in (_SKETCHY, *_SHAPES)),
    "recognition": (
        Stratified("stratified"),
        Stratified("tuberlin-stratified", n_classes=250),
        Stratified("quickdraw-stratified", n_classes=345),
        Fold("tuberlin-3-fold", n_classes=250),
        OwnParts("shapes"),
    ),
    "segmentation": tuple(
        SegmentationProtocol(split.name, split) for split in (_SKETCHY, *_SHAPES)
    ),
}


def protocol_names(task: Task) -> tuple[str, ...]:
    """The names of a task's protocols; `held-out-<n>` stands for any number."""
    held_out = ("held-out-<n>",) if task in _CLASS_SPLIT_TASKS else ()
    file_lists = (_FILE_LISTS,) if task == "retrieval" else ()
    return tuple(protocol.name for protocol in _NAMED[task]) + file_lists + held_out


def find_protocol(task: Task, name: str, /, **options: Any) -> Protocol[Any]:
    """The protocol of a task by name.

    Options are the variants: `ap` and `precision` of retrieval, `fold` of cross-validation,
    `seed` of whatever is drawn, `unseen` of `held-out-<n>`, a list of its n categories, and of
    `file-lists` the folder `lists` and `empty`. Raises `ProtocolError` for an unknown name or
    option, and for lists that cannot be read.
    """
    protocols: dict[str, Protocol[Any]] = {protocol.name: protocol for protocol in _NAMED[task]}
    match = _HELD_OUT.fullmatch(name)
    if match and task in _CLASS_SPLIT_TASKS:
        given = {key: options.pop(key) for key in _HELD_OUT_KEYS if key in options}
        split = _held_out(name, int(match[1]), **given)
        protocols[name] = _CLASS_SPLIT_TASKS[task](name, split, split.seed)
    if name == _FILE_LISTS and task == "retrieval":
        protocols[name] = _file_lists(options.pop("lists", None))
    if name not in protocols:
        near = get_close_matches(name, protocol_names(task), n=1)
        known = ", ".join(protocol_names(task))
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {known}"
        raise ProtocolError(f"{task} has no protocol {name!r}; {hint}")
    protocol = protocols[name]
    known_options = {field.name for field in fields(protocol)} & _OPTIONS.keys()
    for key, value in options.items():
        if key not in known_options:
            takes = ", ".join(sorted(known_options)) or "none"
            raise ProtocolError(f"{task} by {name} has no option {key!r}; it takes {takes}")
        if not _OPTIONS[key] and (isinstance(value, bool) or not isinstance(value, int)):
            raise ProtocolError(f"{key} is {value!r}; give a whole number")
        if _OPTIONS[key] and value not in _OPTIONS[key]:
            raise ProtocolError(f"{key} is {value!r}; choose from {', '.join(_OPTIONS[key])}")
    return replace(protocol, **options)


_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "ap": ("ap-hits", "ap-voc"),
    "precision": ("p-k", "p-min"),
    "empty": ("zero", "drop"),
    "fold": (),
    "seed": (),
}
"""What may be chosen, and from what; () where any number will do."""


def _file_lists(folder: Any) -> FileListsProtocol:
    if not isinstance(folder, str | Path) or not str(folder):
        raise ProtocolError(
            f"{_FILE_LISTS}: lists is {folder!r}; set train.variants.lists to the folder of the"
            " lists, such as zeroshot1"
        )
    return FileListsProtocol(name=_FILE_LISTS, lists=read_file_lists(Path(folder)))


def _held_out(name: str, n: int, seed: int = 0, unseen: Sequence[str] = ()) -> HeldOut:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ProtocolError(f"seed is {seed!r}; give a whole number")
    if not isinstance(unseen, list | tuple) or not all(isinstance(one, str) for one in unseen):
        raise ProtocolError(f"unseen is {unseen!r}; give a list of {n} categories")
    listed = tuple(unseen)
    if listed and len(set(listed)) != n:
        raise ProtocolError(f"{name} must list {n} categories as unseen, not {len(set(listed))}")
    return HeldOut(n, seed, listed)
