"""Several datasets as one: their images side by side, their annotations together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from PIL import Image

from pipeline.datasets.base import Annotations, Dataset, DatasetError, Skipped


class UnionDataset(Dataset):
    """The images of all parts, in their order. Called as the first one, whose protocols it has.

    Raises `DatasetError` where two parts call different images by one id.
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

    @property
    def ids(self) -> Sequence[str]:
        return list(self._home)

    @property
    def skipped(self) -> Sequence[Skipped]:
        return [skipped for part in self._parts for skipped in part.skipped]

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
