"""How nano's vision transformer starts: with eyes for contrast and a sense of place.

Left to chance it sees brightness first, and most of a sketch is equally bright, so it learns
nothing. Here filters start as a cosine transform of the patch with its mean nearly silenced,
positions as sines and cosines, and attention between like and near tokens (as trained transformers
have it: Trockman & Kolter, 2023).
"""

from __future__ import annotations

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

_CONTRAST, _BRIGHTNESS, _POSITION = 0.25, 0.1, 0.15
_LIKENESS, _SUBTRACTION = 2.0, 0.4


@torch.no_grad()
def prepare(visual: VisionTransformer) -> None:
    """Overwrite the initial filters, positions and attention of an open_clip transformer."""
    conv = visual.conv1
    width, _, patch, _ = conv.weight.shape
    conv.weight.copy_(_CONTRAST * patch_filters(width, patch))
    positions = visual.positional_embedding
    side = round((len(positions) - 1) ** 0.5)
    positions[1:] = _POSITION * sine_positions(side, width)
    for block in visual.transformer.resblocks:
        attention = block.attn
        for head in torch.arange(width).view(attention.num_heads, -1):
            shared = torch.randn(len(head), width) * (_LIKENESS / width) ** 0.5
            attention.in_proj_weight[head] = shared
            attention.in_proj_weight[width + head] = shared
        rotation = torch.linalg.qr(torch.randn(width, width)).Q
        attention.in_proj_weight[2 * width :] = rotation
        attention.out_proj.weight.copy_(-_SUBTRACTION * rotation.T)


def patch_filters(width: int, patch: int) -> Tensor:
    """Filters [width, 3, patch, patch]: the lowest waves in grey, then in two colours.

    Half of them are grey, a quarter is of each colour.
    """
    places = torch.arange(patch)
    waves = torch.cos(torch.pi * places[:, None] * (places + 0.5) / patch)
    waves = waves / waves.norm(dim=1, keepdim=True)
    order = (places[:, None] + places).flatten().argsort(stable=True)
    bases = torch.einsum("ay,bx->abyx", waves, waves).flatten(0, 1)[order]
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    colours = colours / colours.norm(dim=1, keepdim=True)
    counts = (width - 2 * (width // 4), width // 4, width // 4)
    grey, *others = (
        torch.einsum("c,nyx->ncyx", colour, bases[:count])
        for colour, count in zip(colours, counts, strict=True)
    )
    grey[0] *= _BRIGHTNESS
    return torch.cat([grey, *others])


def sine_positions(side: int, width: int) -> Tensor:
    """Positions [side * side, width] as sines and cosines of column and row."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pitch = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    angles = [place.flatten()[:, None] * pitch for place in (x, y)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)
