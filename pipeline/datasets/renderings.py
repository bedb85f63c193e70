"""Several folders that hold the same images: which of them is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

import numpy as np
from PIL import Image

from pipeline.datasets.base import DatasetError

RENDERING = re.compile(r"(?:^|/)(tx_\d+(?:_\w+)?)/")
"""Sketchy holds the same images several times, each scaled or centred otherwise (`tx_...`)."""

Contents: TypeAlias = Mapping[str, AbstractSet[Hashable]]
"""For each folder what tells its images apart, the same in every rendering of an image."""

_PREPROCESSED = "_ready"
"""What SAKE, and much work after it, adds to the name of a folder whose images it resized."""
_N_COMPARED = 4
_THUMBNAIL = (16, 16)
_MIN_CORRELATION = 0.9


def choose(
    contents: Contents,
    same: Callable[[str, str], bool],
    preferred: Sequence[str] = (),
    complete: bool = True,
) -> dict[str, str]:
    """Which folders are left out, each with the one that is read instead.

    Of folders with the same images the first by name is read that has every image of the others,
    or the first whose path holds a name in `preferred`. A folder need not have every image of its
    namesakes (see `are_namesakes`).

    Args:
        same: whether two folders hold the same images, all of them or some.
        preferred: names of folders, the most wanted first.
        complete: whether `contents` lists all there is; if not, any folder may be the first.

    Raises DatasetError if every folder lacks an image that another has.
    """

    def rank(folder: str) -> tuple[int, list[str]]:
        parts = folder.split("/")
        named = [preferred.index(part) for part in parts if part in preferred]
        return min(named, default=len(preferred)), parts

    def covers(folder: str, other: str) -> bool:
        return are_namesakes(folder, other) or contents[other] <= contents[folder]

    left_out: dict[str, str] = {}
    for group in _groups(contents, same):
        ordered = sorted(group, key=rank)
        read = ordered[0]
        if complete and rank(read)[0] == len(preferred):
            lacking = [[o for o in ordered if not covers(folder, o)] for folder in ordered]
            if all(lacking):
                other = lacking[0][0]
                shared = len(contents[read] & contents[other])
                raise DatasetError(
                    f"{read or '.'} and {other or '.'} have {shared:,} images in common, and each "
                    "has others; move one of them, or set dataset.rendering to the one to read"
                )
            read = ordered[lacking.index([])]
        left_out |= {folder: read for folder in ordered if folder != read}
    return left_out


def are_namesakes(folder: str, other: str) -> bool:
    """Whether names alone say that two folders hold the same images.

    As of `tx_...` folders, and of `png` and `png_ready`.
    """
    return _without_rendering(folder) == _without_rendering(other)


def _without_rendering(folder: str) -> str:
    return "/".join(
        "tx" if RENDERING.match(part + "/") else part.removesuffix(_PREPROCESSED)
        for part in folder.split("/")
    )


def _groups(folders: Iterable[str], same: Callable[[str, str], bool]) -> list[list[str]]:
    groups: list[list[str]] = []
    for folder in folders:
        for group in groups:
            if any(same(other, folder) for other in group):
                group.append(folder)
                break
        else:
            groups.append([folder])
    return [group for group in groups if len(group) > 1]


def are_alike(
    pairs: Collection[tuple[str, str]], picture: Callable[[str], Image.Image | None]
) -> bool:
    """Whether the two images of every pair show the same but for their size; looks at four pairs.

    Args:
        pairs: ids of two images each.
        picture: the picture of an id; None, which says nothing, if it cannot be decoded.
    """
    step = max(1, -(-len(pairs) // _N_COMPARED))
    seen = False
    for a, b in list(pairs)[::step]:
        first, second = picture(a), picture(b)
        if first is None or second is None:
            continue
        if not _same(first, second):
            return False
        seen = True
    return seen


def _same(first: Image.Image, second: Image.Image) -> bool:
    x, y = (
        np.asarray(image.convert("L").resize(_THUMBNAIL, Image.Resampling.BOX), np.float64)
        for image in (first, second)
    )
    if min(x.std(), y.std()) < 1:  # blank
        return bool(max(x.std(), y.std()) < 1 and abs(x.mean() - y.mean()) < 1)
    return bool(np.corrcoef(x.ravel(), y.ravel())[0, 1] >= _MIN_CORRELATION)
