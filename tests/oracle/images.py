"""A picture file to the square that Stable Diffusion and CLIP both see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def read_rgb(path: Path) -> np.ndarray:
    """Read a picture upright, with transparency over white: uint8 [H, W, 3]."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def letterbox(rgb: np.ndarray, resolution: int, pad: str) -> np.ndarray:
    """Fit [H, W, 3] into a square of `resolution` pixels: uint8 [R, R, 3].

    The longer side becomes `resolution`; the margins are filled as `pad` says (edge, black,
    white), half of them (rounded down) before the picture. `stretch` ignores the aspect ratio.
    """
    height, width = rgb.shape[:2]
    longer = max(height, width)
    new_height, new_width = (max(1, round(resolution * side / longer)) for side in (height, width))
    if pad == "stretch":
        new_height = new_width = resolution
    resized = Image.fromarray(rgb).resize((new_width, new_height), Image.Resampling.LANCZOS)
    top, left = (resolution - new_height) // 2, (resolution - new_width) // 2

    if pad in ("edge", "stretch"):
        rows = np.clip(np.arange(resolution) - top, 0, new_height - 1)
        columns = np.clip(np.arange(resolution) - left, 0, new_width - 1)
        return np.asarray(resized)[rows][:, columns]
    square = np.full((resolution, resolution, 3), {"black": 0, "white": 255}[pad], np.uint8)
    square[top : top + new_height, left : left + new_width] = np.asarray(resized)
    return square
