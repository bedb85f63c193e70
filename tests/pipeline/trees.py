"""Folders of small images for the dataset tests."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image


def image_bytes(seed: int = 0, size: tuple[int, int] = (8, 6), format: str = "PNG") -> bytes:
    """A flat picture whose bytes depend on `seed`."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (seed % 256, seed // 256 % 256, 90)).save(buffer, format)
    return buffer.getvalue()


def write_images(root: Path, paths: Iterable[str], size: tuple[int, int] = (8, 6)) -> None:
    """An image at every path; no two have the same bytes."""
    for seed, path in enumerate(paths):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image_bytes(seed, size))


def write_text(root: Path, path: str, text: str) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target
