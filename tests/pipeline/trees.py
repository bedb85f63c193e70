"""Folders of small images for the dataset tests."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def image_bytes(seed: int = 0, size: tuple[int, int] = (8, 6), format: str = "PNG") -> bytes:
    """A flat picture whose bytes depend on `seed`."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (seed % 256, seed // 256 % 256, 90)).save(buffer, format)
    return buffer.getvalue()


def picture(seed: int, side: int = 64) -> Image.Image:
    """A picture like no other seed's, and like itself at any side."""
    tones = np.random.default_rng(seed).integers(0, 256, (5, 5), np.uint8)
    return Image.fromarray(tones).resize((240, 240), Image.Resampling.BICUBIC).resize((side, side))


def write_pictures(root: Path, paths: Iterable[str], seeds: Iterable[int], side: int = 64) -> None:
    """The picture of each seed at each path, in the format that the path names."""
    for path, seed in zip(paths, seeds, strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(seed, side).save(root / path)


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
