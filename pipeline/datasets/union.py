"""Several datasets as one: their images side by side, their annotations together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations

from PIL import Image

from pipeline.datasets.base import Annotations, Dataset, DatasetError, Skipped
from pipeline.datasets.renderings import are_alike


class UnionDataset(Dataset):
    """The images of all parts, in their order. Called as the first one, whose protocols it has.

    Raises `DatasetError` if two parts call different images by one id, or hold the same.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.name = parts[0].name
        self.root = parts[0].root
        self._parts = tuple(parts)
        self._home: dict[str, Dataset] = {}
        for part in parts:
            for image_id in part.ids:
                if self._home.setdefault(image_id, part) is not part:
                    raise DatasetError(
                        f"dataset.also: {image_id} is in {self._home[image_id].root} and in "
                        f"{part.root}; take roots that lie higher, or rename a folder"
                    )
        for part, other in combinations(parts, 2):
            _check_apart(part, other)

    @property
    def benchmark(self) -> str:
        return self._parts[0].benchmark

    @property
    def ids(self) -> Sequence[str]:
        return list(self._home)

    @property
    def skipped(self) -> Sequence[Skipped]:
        return [skipped for part in self._parts for skipped in part.skipped]

    @property
    def notes(self) -> Sequence[str]:
        return [note for part in self._parts for note in part.notes]

    def read(self, image_id: str) -> bytes:
        return self._home[image_id].read(image_id)

    def signature(self, image_id: str) -> str | None:
        return self._home[image_id].signature(image_id)

    def expect(self, image_id: str) -> None:
        self._home[image_id].expect(image_id)

    def decode(self, image_id: str, data: bytes) -> Image.Image:
        return self._home[image_id].decode(image_id, data)

    def size(self, image_id: str, data: bytes) -> tuple[int, int]:
        return self._home[image_id].size(image_id, data)

    @cached_property
    def annotations(self) -> Annotations:
        found = [part.annotations for part in self._parts]
        return Annotations(
            labels={name: label for each in found for name, label in each.labels.items()},
            pairs=[pair for each in found for pair in each.pairs],
            masks={name: mask for each in found for name, mask in each.masks.items()},
        )


def _check_apart(part: Dataset, other: Dataset) -> None:
    """Raise DatasetError if two parts hold the same files, or of one kind, copies of them."""
    pairs = _same_files(part, other) or _same_files(other, part)
    if not pairs:
        if part.name != other.name:
            return  # PSC6K's images are Sketchy's, with points of their own.
        pairs = _same_names(part, other)
        pictures = {a: part for a, _ in pairs} | {b: other for _, b in pairs}
        if not are_alike(pairs, lambda image_id: pictures[image_id].picture(image_id)):
            return
    raise DatasetError(
        f"dataset.also: {part.root} and {other.root} have {len(pairs):,} images in common, such as "
        f"{pairs[0][0]}; leave one of the two out, or take folders that do not overlap"
    )


def _same_files(outer: Dataset, inner: Dataset) -> list[tuple[str, str]]:
    """The ids of files that both list, if the root of `inner` lies in that of `outer`."""
    if outer.root is None or inner.root is None:
        return []
    above, below = outer.root.resolve(), inner.root.resolve()
    if above == below or not below.is_relative_to(above):
        return []
    prefix = below.relative_to(above).as_posix() + "/"
    within = set(inner.ids)
    ids = [(name, name.removeprefix(prefix)) for name in outer.ids if name.startswith(prefix)]
    return [(name, rest) for name, rest in ids if rest in within]


def _same_names(part: Dataset, other: Dataset) -> list[tuple[str, str]]:
    """The ids of images that are called the same in a folder that is called the same."""
    names, others = (
        {tuple(image_id.rpartition(".")[0].split("/")[-2:]): image_id for image_id in each.ids}
        for each in (part, other)
    )
    return sorted((names[name], others[name]) for name in names.keys() & others.keys())
