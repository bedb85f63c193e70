"""Finding listed files among a dataset's ids when both are relative to different folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cache.units import printable
from heads.protocols.base import ProtocolError

_Parts = tuple[str, ...]

_RESIZED = "_ready"
"""SAKE's resized copy of a folder is called after it: `tx_000000000000_ready`."""


@dataclass(frozen=True)
class PathMatches:
    """Which image each listed path means."""

    id_of: Mapping[str, str]
    """Listed path to id; a path without an image is missing."""
    resized: frozenset[str]
    """Listed paths found in a folder that differs by `_ready`: the same pictures at another size,
    as far as the folders' names tell."""


def match_paths(listed: Iterable[str], ids: Iterable[str]) -> PathMatches:
    """Match listed paths with image ids, folder by folder from the file name upwards.

    An image is a listed path's if their paths are equal, or else if the shorter of the two, at
    least a folder and a file name, is the end of the longer: the lists and the dataset may be
    rooted at different levels. Only if there is no such image, `_ready` at the end of a folder's
    name is ignored. Case and extensions count.

    Raises `ProtocolError` naming both if two images fit one path, or two paths one image.
    """
    known = dict.fromkeys(ids)
    exact = _Index({image_id: _parts(image_id) for image_id in known})
    relaxed: _Index | None = None
    id_of: dict[str, str] = {}
    resized: set[str] = set()
    path_of: dict[str, str] = {}
    for path in dict.fromkeys(listed):
        image_id = path if path in known else exact.find(path, _parts(path))
        if image_id is None:
            relaxed = relaxed or _Index({image_id: _original(image_id) for image_id in known})
            image_id = relaxed.find(path, _original(path))
            if image_id is None:
                continue
            resized.add(path)
        other = path_of.setdefault(image_id, path)
        if other != path:
            raise ProtocolError(
                f"lists: {printable(other)} and {printable(path)} both fit the image"
                f" {printable(image_id)}; set dataset.root to a folder further up"
            )
        id_of[path] = image_id
    return PathMatches(id_of, frozenset(resized))


class _Index:
    """Images by the last two parts of their paths: the class folder and the file's name."""

    def __init__(self, parts_of: Mapping[str, _Parts]) -> None:
        self._by_end: dict[_Parts, list[tuple[str, _Parts]]] = defaultdict(list)
        for image_id, parts in parts_of.items():
            self._by_end[parts[-2:]].append((image_id, parts))

    def find(self, path: str, parts: _Parts) -> str | None:
        """The image that fits, None if there is none. Raises `ProtocolError` if there are two."""
        candidates = self._by_end.get(parts[-2:], ()) if len(parts) > 1 else ()
        found = [image_id for image_id, other in candidates if _same_end(parts, other)]
        if len(found) > 1:
            raise ProtocolError(
                f"lists: {printable(path)} may be {printable(found[0])} or {printable(found[1])};"
                " set dataset.root to a folder that holds one of them"
            )
        return found[0] if found else None


def _same_end(a: _Parts, b: _Parts) -> bool:
    n = min(len(a), len(b))
    return a[-n:] == b[-n:]


def _parts(path: str) -> _Parts:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _original(path: str) -> _Parts:
    """The path's parts, folders without `_ready`."""
    *folders, name = _parts(path) or ("",)
    return (*(folder.removesuffix(_RESIZED) for folder in folders), name)
