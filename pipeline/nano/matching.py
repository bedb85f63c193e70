"""A loss for maps in which a thing's parts look alike wherever, and however, they are drawn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.nano.data import PIXELS

TEMPERATURE = 0.05
_BLUR = 0.03
"""Standard deviation of the target around the true point, as a share of the side."""


def matching_loss(ours: Tensor, theirs: Tensor, our_points: Tensor, their_points: Tensor) -> Tensor:
    """Cross entropy of where each point of one picture lies in the other.

    Args:
        ours, theirs: unit features [B, C, h, w].
        our_points, their_points: [B, K, 3], x and y in pixels and 1 where visible.
    """
    where = our_points[:, :, None, :2] * (2 / PIXELS) - 1
    sampled = F.grid_sample(ours, where, padding_mode="border", align_corners=False)[..., 0]
    likeness = torch.einsum("bck,bchw->bkhw", F.normalize(sampled, dim=1), theirs)
    log_likelihood = (likeness.flatten(2) / TEMPERATURE).log_softmax(2)
    height, width = theirs.shape[-2:]
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    cells = torch.stack([x, y], -1).view(1, 1, -1, 2)
    gaps = (cells - their_points[:, :, None, :2] / PIXELS).square().sum(-1)
    target = (-gaps / (2 * max(_BLUR, 0.4 / width) ** 2)).softmax(2)
    seen = our_points[..., 2] * their_points[..., 2]
    return -((target * log_likelihood).sum(2) * seen).sum() / seen.sum().clamp(min=1)
