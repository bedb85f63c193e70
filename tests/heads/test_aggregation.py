"""The aggregation network equals the block as defined, which resizes first."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heads.aggregation import AggregationNetwork, Bottleneck, layer_of

SHAPES = {
    "sd/t195/s3": (24, 14, 14),
    "sd/t195/s4": (40, 7, 7),
    "sd/t195/s5": (40, 4, 4),
    "sd/t400/s3": (24, 14, 14),
    "clip/tokens": (16, 8, 8),
}
CHANNELS = {name: shape[0] for name, shape in SHAPES.items()}


def layer_maps(batch: int = 2, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(batch, *shape, generator=generator)
        for name, shape in SHAPES.items()
    }


def network(width: int = 128, grid: int = 12, seed: int = 0) -> AggregationNetwork:
    """A network in evaluation mode whose every parameter matters."""
    torch.manual_seed(seed)
    net = AggregationNetwork(CHANNELS, width, grid).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return net


def bottleneck_as_defined(block: Bottleneck, layer_map: Tensor, grid: int) -> Tensor:
    """The block on the resized map, with its weights named one by one."""
    x = F.interpolate(layer_map, size=(grid, grid), mode="bilinear", align_corners=False)

    def normalised(y: Tensor, norm: nn.GroupNorm) -> Tensor:
        return F.group_norm(y, norm.num_groups, norm.weight, norm.bias)

    y = F.relu(normalised(F.conv2d(x, block.conv1.weight), block.norm1))
    y = F.relu(normalised(F.conv2d(y, block.conv2.weight, padding=1), block.norm2))
    y = normalised(F.conv2d(y, block.conv3.weight), block.norm3)
    return F.relu(y + normalised(F.conv2d(x, block.shortcut.weight), block.shortcut_norm))


def network_as_defined(net: AggregationNetwork, maps: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum [B, P, G, G] before any normalisation."""
    exponentials = {name: net.mixing[name].exp() for name in maps}
    total = sum(exponentials.values())
    return sum(
        exponentials[name] / total * bottleneck_as_defined(net.blocks[layer_of(name)], x, net.grid)
        for name, x in maps.items()
    )


def test_equals_resizing_first() -> None:
    net, maps = network(), layer_maps()
    found = net(maps)
    aggregated = network_as_defined(net, maps)
    cells = aggregated / aggregated.norm(dim=1, keepdim=True)
    mean = aggregated.mean((2, 3))
    torch.testing.assert_close(found.spatial, cells, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found.pooled, mean / mean.norm(dim=1, keepdim=True), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("output", ["spatial", "pooled"])
def test_gradients_equal_resizing_first(output: str) -> None:
    gradients = []
    for ours in (True, False):
        net = network()
        maps = {name: x.requires_grad_() for name, x in layer_maps().items()}
        if ours:
            found = getattr(net(maps), output)
        else:
            aggregated = network_as_defined(net, maps)
            found = F.normalize(aggregated if output == "spatial" else aggregated.mean((2, 3)))
        pattern = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        (found * pattern).mean().backward()
        gradients.append(
            {name: p.grad for name, p in net.named_parameters()}
            | {name: x.grad for name, x in maps.items()}
        )
    assert all(g is not None and g.abs().max() > 0 for g in gradients[0].values())
    for name, expected in gradients[1].items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(
            gradients[0][name], expected, atol=1e-4 * scale, rtol=1e-3, msg=name
        )


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (12, 12), (20, 17)], ids=str)
def test_any_size_of_map_even_larger_than_the_grid(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = Bottleneck(8, 64)
    layer_map = torch.randn(2, 8, *shape)
    expected = bottleneck_as_defined(block, layer_map, 12)
    torch.testing.assert_close(block(layer_map, 12), expected, atol=1e-4, rtol=0)


def test_dropout_acts_on_the_map_as_given_the_same_for_both_paths() -> None:
    net, maps = network(), layer_maps()
    net.train()
    torch.manual_seed(7)
    found = net(maps)
    torch.manual_seed(7)
    dropped = {name: F.dropout(x, 0.5) for name, x in maps.items()}
    net.eval()
    torch.testing.assert_close(found.spatial, net(dropped).spatial)
    assert not torch.allclose(found.spatial, net(maps).spatial, atol=0.01)
    assert torch.equal(net(maps).spatial, net(maps).spatial)


def test_every_descriptor_has_length_one_in_float32() -> None:
    found = network()(layer_maps())
    assert found.spatial.shape == (2, 128, 12, 12)
    assert found.pooled.shape == (2, 128)
    for descriptors in (found.spatial, found.pooled):
        assert descriptors.dtype == torch.float32
        torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(descriptors[:, 0].shape))


def test_mixing_starts_even_and_is_learned_per_timestep_while_blocks_are_shared() -> None:
    net = AggregationNetwork(CHANNELS, 128, 12).eval()
    assert net.mixing_weights() == pytest.approx(dict.fromkeys(CHANNELS, 0.2))
    assert set(net.blocks) == {"sd/s3", "sd/s4", "sd/s5", "clip/tokens"}
    with torch.no_grad():
        net.mixing["sd/t400/s3"] += 30
    assert net.mixing_weights()["sd/t400/s3"] == pytest.approx(1)
    # Only that array counts now.
    maps = layer_maps()
    others = layer_maps(seed=1) | {"sd/t400/s3": maps["sd/t400/s3"]}
    torch.testing.assert_close(net(maps).spatial, net(others).spatial, atol=1e-4, rtol=0)


def test_initialised_as_in_the_paper() -> None:
    torch.manual_seed(0)
    block = Bottleneck(320, 1280)
    norms = [block.norm1, block.norm2, block.norm3, block.shortcut_norm]
    assert [n.num_groups for n in norms] == [32] * 4
    assert all(n.weight.eq(1).all() and n.bias.eq(0).all() for n in norms)
    for conv, fan_out in ((block.conv1, 320), (block.conv2, 9 * 320), (block.conv3, 1280)):
        assert conv.bias is None
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


@pytest.mark.parametrize(("width", "groups"), [(64, (16, 32)), (80, (20, 20)), (8, (2, 8))])
def test_narrow_networks_take_the_most_groups_that_fit(width: int, groups: tuple[int, int]) -> None:
    block = Bottleneck(5, width)
    assert (block.norm1.num_groups, block.norm3.num_groups) == groups


@pytest.mark.parametrize("fill", [0.0, 3.0])
def test_a_flat_map_gives_numbers_and_gradients_not_nan(fill: float) -> None:
    net = AggregationNetwork(CHANNELS, 128, 12)
    maps = {name: torch.full_like(x, fill) for name, x in layer_maps().items()}
    found = net(maps)
    (found.spatial.sum() + found.pooled.sum()).backward()
    assert torch.isfinite(found.spatial).all() and torch.isfinite(found.pooled).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_bfloat16_autocast_stays_close() -> None:
    net, maps = network(), layer_maps()
    with torch.autocast("cpu", torch.bfloat16):
        half = net(maps)
    assert half.spatial.dtype == torch.float32
    cosine = (half.spatial * net(maps).spatial).sum(1)
    assert cosine.min() > 0.99


def test_weights_go_through_a_file_and_never_to_another_timestep(tmp_path: object) -> None:
    net, maps = network(), layer_maps()
    path = f"{tmp_path}/aggregation.safetensors"
    save_file(net.state_dict(), path)
    # The order in which a configuration names the arrays does not matter.
    again = AggregationNetwork(dict(reversed(CHANNELS.items())), 128, 12).eval()
    again.load_state_dict(load_file(path))
    torch.testing.assert_close(again(maps).spatial, net(maps).spatial, atol=1e-6, rtol=0)
    other = {name.replace("t400", "t500"): count for name, count in CHANNELS.items()}
    with pytest.raises(RuntimeError, match="t500"):
        AggregationNetwork(other, 128, 12).load_state_dict(load_file(path))


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        AggregationNetwork({})
    with pytest.raises(ValueError, match="multiple of 4"):
        AggregationNetwork(CHANNELS, width=30)
    with pytest.raises(ValueError, match="cannot share a block"):
        AggregationNetwork({"sd/t1/s3": 8, "sd/t2/s3": 16})
