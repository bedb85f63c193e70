"""How the released code computes a training pair, on this project's own networks.

For what that costs. From the same inputs the results are ours, by the longer way: every copy of
the ensemble through the VAE, the prompt encoded for every image, maps resized before the 1x1
convolutions, the correlation and the soft-argmax of all cells with all cells though only the
keypoints' rows are used. What the released code computes otherwise is in docs/differences.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from heads.aggregation import AggregationNetwork, Bottleneck, as_map, layer_of, resize
from heads.matching import cell_centres
from pipeline.networks.backbone import Backbone
from pipeline.networks.injection import Injection


@torch.no_grad()
def released_maps(
    backbone: Backbone,
    square: Tensor,
    noise: Tensor,
    timestep: int,
    layers: Sequence[str],
    injection: Injection | None,
    encode_prompt: Callable[[], object] = lambda: None,
) -> dict[str, Tensor]:
    """Maps [1, C, h, w] by layer of one square uint8 [1, 3, R, R], the mean over the noise's draws.

    `noise` is [E, 4, h, w]; `encode_prompt` is called for its cost, the prompt is the backbone's.
    """
    encode_prompt()
    copies = square.expand(len(noise), -1, -1, -1)
    z0 = backbone.encode_latents(copies)
    projected = {}
    if injection is not None:
        tokens, _ = backbone.encode_clip(square)
        projected = injection.project(tokens.to(backbone.dtype))
    rows = torch.zeros(len(noise), dtype=torch.long, device=z0.device)
    found = backbone.unet_features(z0, noise, timestep, layers, projected, rows)
    return {layer: values.mean(0, keepdim=True) for layer, values in found.items()}


def plain_block(block: Bottleneck, layer_map: Tensor, grid: int) -> Tensor:
    """A bottleneck block's output [B, P, G, G], its map resized first."""
    resized = resize(layer_map, grid)
    hidden = F.relu(block.norm1(block.conv1(resized)))
    hidden = F.relu(block.norm2(block.conv2(hidden)))
    return F.relu(block.norm3(block.conv3(hidden)) + block.shortcut_norm(block.shortcut(resized)))


def plain_descriptors(network: AggregationNetwork, maps: Mapping[str, Tensor]) -> Tensor:
    """Descriptors [B, P, G, G] of length 1, as the network's own, by `plain_block`."""
    weights = torch.stack([network.mixing[name] for name in network.arrays]).softmax(0)
    parts = []
    for name, weight in zip(network.arrays, weights, strict=True):
        block = network.blocks[layer_of(name)]
        assert isinstance(block, Bottleneck)
        parts.append(weight * plain_block(block, network.dropout(as_map(maps[name])), network.grid))
    return F.normalize(torch.stack(parts).sum(0).float(), dim=1)


def plain_flow(sketches: Tensor, photos: Tensor, size: float, temperature: float) -> Tensor:
    """Expected points [B, G * G, 2] in the photo of all cells of the sketch [B, P, G, G]."""
    correlation = torch.einsum("bpn,bpm->bnm", sketches.flatten(2), photos.flatten(2))
    return (correlation / temperature).softmax(-1) @ cell_centres(photos, size)


def flow_at(flow: Tensor, points: Tensor, grid: int, size: float) -> Tensor:
    """The flow [B, K, 2] of the cells in which points [B, K, 2] lie."""
    cells = (points / size * grid).long().clamp(0, grid - 1)
    index = cells[..., 1] * grid + cells[..., 0]
    return flow.gather(1, index[..., None].expand(-1, -1, 2))
