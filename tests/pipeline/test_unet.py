"""The functional driver equals two independent implementations, from any starting point."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from pipeline.networks.injection import adder
from pipeline.networks.unet import (
    LAYER_SITE,
    Prefix,
    UnsupportedUNet,
    advance,
    begin,
    block_sequence,
    check_unet,
    extract,
    site_channels,
    unused_skips,
)
from tests import tiny
from tests.oracle.hooks import hooked_features
from tests.oracle.unet import unet_features as written_out_features
from tests.support import as_module

LAYERS = ("s3", "s4", "s5")
TIMESTEP = 195
SIZES = [(8, 8), (7, 7), (9, 5), (2, 3), (42, 42)]  # latent cells; 42 is the paper's
FAMILIES = [("sd2", 1), ("sd2", 2), ("sd15", 2)]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda p: f"{p[0]}-{p[1]}")
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    family, layers_per_block = request.param
    return tiny.build_tiny_unet(family=family, layers_per_block=layers_per_block).eval()


def inputs(size: tuple[int, int], batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    z_t = torch.randn(batch, 4, *size, generator=generator)
    prompt = torch.randn(1, tiny.PROMPT_LENGTH, tiny.TEXT_WIDTH, generator=generator)
    return z_t, prompt, torch.randn(batch, 32, 5, 5, generator=generator)


def assert_close(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("sites", tiny.SITE_SETS.values(), ids=tiny.SITE_SETS)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@torch.no_grad()
def test_equals_both_references(
    unet: UNet2DConditionModel, size: tuple[int, int], sites: tuple[str, ...]
) -> None:
    z_t, prompt, tokens = inputs(size, batch=2)
    weights = tiny.random_injection(sites=sites)
    inject = adder(as_module(weights, site_channels(unet)).project(tokens))
    ours = extract(unet, z_t, TIMESTEP, prompt, LAYERS, inject)
    for reference in (hooked_features, written_out_features):
        assert_close(ours, reference(unet, z_t, TIMESTEP, prompt, weights, tokens, LAYERS))


def test_gradients_of_injection_equal_both_references(unet: UNet2DConditionModel) -> None:
    z_t, prompt, tokens = inputs((9, 7), batch=2)
    gradients = []
    for implementation in ("ours", "hooks", "written out"):
        weights = {k: v.requires_grad_() for k, v in tiny.random_injection().items()}
        if implementation == "ours":
            module = as_module(weights, site_channels(unet))
            features = extract(unet, z_t, TIMESTEP, prompt, LAYERS, adder(module.project(tokens)))
            parameters = {
                f"{s}.{k}": getattr(module[s], k) for s in tiny.SITES for k in ("weight", "bias")
            }
        else:
            reference = hooked_features if implementation == "hooks" else written_out_features
            features = reference(unet, z_t, TIMESTEP, prompt, weights, tokens, LAYERS)
            parameters = weights
        sum(f.square().mean() for f in features.values()).backward()
        gradients.append({name: p.grad for name, p in parameters.items()})
    ours = gradients[0]
    assert all(g is not None and g.abs().max() > 0 for g in ours.values())
    assert_close(ours, gradients[1])
    assert_close(ours, gradients[2])


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_stops_after_the_last_layer_asked_for(unet: UNet2DConditionModel, layer: str) -> None:
    z_t, prompt, _ = inputs((8, 8), batch=1)
    visited: list[str] = []

    def inject(site: str, hidden: Tensor) -> Tensor:
        visited.append(site)
        return hidden

    alone = extract(unet, z_t, TIMESTEP, prompt, [layer], inject)
    assert visited[-1] == LAYER_SITE[layer]
    together = extract(unet, z_t, TIMESTEP, prompt, LAYERS)
    assert torch.equal(alone[layer], together[layer])


@pytest.mark.parametrize("start", ["down.0", "down.1", "down.3", "mid", "up.0", "up.2"])
@torch.no_grad()
def test_resuming_in_the_middle_is_exact(unet: UNet2DConditionModel, start: str) -> None:
    """Sites from `start` on are trained; what comes before is stored once and reused."""
    z_t, prompt, tokens = inputs((9, 9), batch=2)
    sequence = block_sequence(unet)
    sites = [s for s in tiny.SITES if sequence.index(s) >= sequence.index(start)]
    inject = adder(
        as_module(tiny.random_injection(sites=sites), site_channels(unet)).project(tokens)
    )
    whole = extract(unet, z_t, TIMESTEP, prompt, LAYERS, inject)

    none, prefix = advance(unet, begin(unet, z_t), TIMESTEP, prompt, layers=LAYERS, until=start)
    assert (start == "up.2") == bool(none)
    assert prefix.site == start
    # The oldest skips feed only the block that never runs: stand-ins must do.
    n = unused_skips(unet)
    stand_ins = tuple(torch.full_like(skip, torch.nan) for skip in prefix.skips[:n])
    stored = Prefix(prefix.site, prefix.hidden, stand_ins + prefix.skips[n:])
    resumed, _ = advance(unet, stored, TIMESTEP, prompt, layers=LAYERS, inject=inject)
    for layer, value in resumed.items():
        assert torch.equal(value, whole[layer])
    assert set(resumed) | set(none) == set(whole)


@torch.no_grad()
def test_a_batch_may_mix_timesteps(unet: UNet2DConditionModel) -> None:
    z_t, prompt, _ = inputs((8, 8), batch=2)
    mixed = extract(unet, z_t, torch.tensor([10, 700]), prompt, LAYERS)
    for row, timestep in enumerate((10, 700)):
        alone = extract(unet, z_t[row : row + 1], timestep, prompt, LAYERS)
        assert_close({k: v[row : row + 1] for k, v in mixed.items()}, alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near_float32(dtype: torch.dtype) -> None:
    z_t, prompt, tokens = inputs((8, 8), batch=1)
    unet = tiny.build_tiny_unet().eval()
    module = as_module(tiny.random_injection(), site_channels(unet))
    exact = extract(unet, z_t, TIMESTEP, prompt, LAYERS, adder(module.project(tokens)))
    unet, module = torch.nn.Module.to(unet, dtype), module.to(dtype)
    inject = adder(module.project(tokens.to(dtype)))
    half = extract(unet, z_t.to(dtype), TIMESTEP, prompt, LAYERS, inject)
    for layer in LAYERS:
        assert half[layer].dtype == dtype
        error = (half[layer].float() - exact[layer]).norm() / exact[layer].norm()
        assert error < (0.05 if dtype is torch.bfloat16 else 0.01)


def test_unsupported_unets_are_refused_by_name() -> None:
    unet = tiny.build_tiny_unet()
    unet.register_to_config(class_embed_type="timestep")
    with pytest.raises(UnsupportedUNet, match="class"):
        check_unet(unet)
    with pytest.raises(UnsupportedUNet, match="s3"):
        # Two levels have up blocks 0 and 1; the last never runs.
        small = UNet2DConditionModel(
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=2,
            cross_attention_dim=8,
            layers_per_block=1,
        )
        extract(small, torch.randn(1, 4, 4, 4), 0, torch.randn(1, 2, 8), ["s3"])
