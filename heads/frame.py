"""Where a place of a picture lies in the square that the networks saw, and back.

Annotations speak of fractions of a picture's width and height; feature maps cover the whole
letterboxed square, margins included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cache import Recipe, StoreError
from heads.protocols.base import Images
from pipeline.pictures.images import Letterbox


@dataclass(frozen=True)
class Frame:
    """The geometry of all images of a store: their sizes and how they were made square.

    Places are fractions: of the picture's width and height, or of the square's side.
    """

    sizes: Images
    resolution: int
    pad: str

    @classmethod
    def of(cls, recipe: Recipe, sizes: Images) -> Frame:
        """The frame that a store's recipe describes. Raises StoreError where it says nothing."""
        resolution = recipe.fields.get("resolution")
        preprocessing = recipe.fields.get("preprocessing")
        pad = preprocessing.get("pad") if isinstance(preprocessing, Mapping) else None
        if not isinstance(resolution, int) or not isinstance(pad, str):
            raise StoreError(
                "the recipe names neither resolution nor preprocessing; precompute the store anew"
            )
        return cls(sizes, resolution, pad)

    def to_square(self, image_id: str, points: Tensor) -> Tensor:
        """Points [K, 2] of the picture as points of the square."""
        scale, offset = self._scale_and_offset(image_id)
        return points * scale.to(points) + offset.to(points)

    def to_picture(self, image_id: str, points: Tensor) -> Tensor:
        """Points [K, 2] of the square as points of the picture; the inverse of `to_square`."""
        scale, offset = self._scale_and_offset(image_id)
        return (points - offset.to(points)) / scale.to(points)

    def area(self, image_id: str) -> float:
        """The share of the square that is the picture's."""
        scale, _ = self._scale_and_offset(image_id)
        return float(scale.prod())

    def on_picture(self, image_id: str, maps: Tensor) -> Tensor:
        """Maps [B, g, g] of the square at the centre of every pixel of the picture: [B, H, W].

        Bilinear between the cells' centres, the nearest cell beyond the outermost.
        """
        width, height = self.sizes[image_id]
        scale, offset = (t.to(maps) for t in self._scale_and_offset(image_id))
        columns, rows = (torch.arange(n).to(maps) + 0.5 for n in (width, height))
        xs, ys = columns / width * scale[0] + offset[0], rows / height * scale[1] + offset[1]
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        where = (torch.stack((x, y), dim=-1) * 2 - 1).expand(len(maps), -1, -1, -1)
        sampled = F.grid_sample(
            maps[:, None], where, mode="bilinear", padding_mode="border", align_corners=False
        )
        return sampled[:, 0]

    def on_grid(self, image_id: str, mask: Tensor, grid: int) -> tuple[Tensor, Tensor]:
        """A mask bool [H, W] of the picture on the square's grid, float32 [grid, grid].

        The share of each cell's area that is foreground, and the share that is the picture's at
        all: 0 in the margins. Exact, whether or not pixels and cells divide each other.
        """
        scale, offset = (t.tolist() for t in self._scale_and_offset(image_id))
        height, width = mask.shape
        rows = _overlaps(height, scale[1], offset[1], grid)
        columns = _overlaps(width, scale[0], offset[0], grid)
        inside = rows @ mask.double() @ columns.T
        return inside.float(), torch.outer(rows.sum(1), columns.sum(1)).float()

    def _letterbox(self, image_id: str) -> Letterbox:
        width, height = self.sizes[image_id]
        return Letterbox(width, height, self.resolution, self.pad)  # type: ignore[arg-type]

    def _scale_and_offset(self, image_id: str) -> tuple[Tensor, Tensor]:
        left, top, right, bottom = self._letterbox(image_id).box
        sides = torch.tensor([right - left, bottom - top], dtype=torch.float64)
        corner = torch.tensor([left, top], dtype=torch.float64)
        return sides / self.resolution, corner / self.resolution


def _overlaps(n_pixels: int, scale: float, offset: float, grid: int) -> Tensor:
    """Along one side, the share of each cell that each pixel covers: float64 [grid, n_pixels]."""
    pixels = torch.arange(n_pixels + 1, dtype=torch.float64) / n_pixels * scale + offset
    cells = (torch.arange(grid + 1, dtype=torch.float64) / grid)[:, None]
    ends = torch.minimum(cells[1:], pixels[1:])
    return (ends - torch.maximum(cells[:-1], pixels[:-1])).clamp(min=0) * grid
