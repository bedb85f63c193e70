"""The UNet that learns itself: plain SD at first, gradients wherever a layer depends on it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from cache import RecipeMismatch
from heads.sources import (
    CachedFeatures,
    FinetunedFeatures,
    LiveFeatures,
    LiveOptions,
    SourceError,
    choose_source,
)
from pipeline.networks.backbone import Backbone
from tests import tiny
from tests.heads.source_world import (
    ARRAYS,
    CPU,
    PLAIN,
    World,
    assert_close,
    gradients,
    loss_of,
    make_world,
    state_of,
    watched_blocks,
)


@pytest.fixture(
    scope="module",
    params=[("sd2", 72, 24, 2), ("sd15", 56, 14, 1)],
    ids=["sd2-9x9-ensemble", "sd15-7x7"],
)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), *request.param)


@pytest.fixture
def backbone(world: World) -> Backbone:
    """The world's backbone with a UNet of its own, to be trained."""
    return replace(world.backbone, unet=copy.deepcopy(world.backbone.unet))


def idle_after(layer: str) -> tuple[str, ...]:
    """Where the names begin of parameters that act after a layer."""
    n_blocks = {"s5": 1, "s4": 2, "s3": 3}[layer]
    later = tuple(f"up_blocks.{i}." for i in range(n_blocks, 4))
    return (*later, "conv_norm_out.", "conv_out.")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_before_the_first_step_it_is_plain_sd(
    world: World, backbone: Backbone, checkpointing: bool
) -> None:
    cached = CachedFeatures([world.plain], ARRAYS, CPU)
    # From any store's latents: with which injection its layers were made does not matter.
    for store in (world.plain, world.injected):
        source = FinetunedFeatures(
            [store], ARRAYS, backbone, options=LiveOptions(checkpointing=checkpointing)
        )
        assert source.ids == cached.ids and source.shapes == cached.shapes
        ids = [*reversed(source.ids), source.ids[1]]
        found = source.maps(ids)
        expected = cached.maps(ids)
        assert_close(found, expected, 1e-5)
        assert {value.dtype for value in found.values()} == {torch.float32}


@pytest.mark.parametrize("layer", ["s3", "s4", "s5"])
def test_every_parameter_up_to_the_last_layer_gets_a_gradient(
    world: World, backbone: Backbone, layer: str
) -> None:
    source = FinetunedFeatures([world.plain], [f"sd/t195/{layer}"], backbone)
    assert source.trained is backbone.unet
    with watched_blocks(backbone.unet) as calls:
        found = gradients(source, source.ids[:2])
    last = {"s5": "up.0", "s4": "up.1", "s3": "up.2"}[layer]
    assert calls[-1] == last
    for name, parameter in backbone.unet.named_parameters():
        idle = name.startswith(idle_after(layer))
        assert parameter.requires_grad != idle, name
        gradient = found[name]
        assert (gradient is None) == idle, name
        if gradient is not None:
            assert gradient.isfinite().all() and gradient.abs().max() > 0, name


def test_checkpointing_changes_no_gradient(world: World, backbone: Backbone) -> None:
    expected, found = (
        gradients(
            FinetunedFeatures(
                [world.plain], ARRAYS, backbone, options=LiveOptions(checkpointing=checkpointing)
            ),
            world.plain.readable(["vae/latent"])[:2],
        )
        for checkpointing in (False, True)
    )
    for name, reference in expected.items():
        gradient = found[name]
        assert (gradient is None) == (reference is None), name
        if gradient is not None and reference is not None:
            torch.testing.assert_close(
                gradient, reference, atol=1e-5 * reference.abs().max().item(), rtol=1e-4
            )


def test_the_unet_moves_and_vae_and_clip_stay(world: World, backbone: Backbone) -> None:
    source = FinetunedFeatures([world.plain], ["sd/t195/s4"], backbone)
    unet = backbone.unet
    frozen = state_of(backbone.vae, backbone.clip.visual, world.backbone.unet)
    before = {name: value.clone() for name, value in unet.named_parameters()}
    learns = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learns, lr=1e-4, weight_decay=0)
    losses = []
    for _ in range(3):
        loss = loss_of(source.maps(source.ids[:3]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    for name, value in unet.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith(idle_after("s4")), name
    assert not unet.training
    others: tuple[nn.Module, ...] = (backbone.vae, backbone.clip.visual)
    assert all(p.grad is None and not p.requires_grad for m in others for p in m.parameters())
    for ours, theirs in zip(state_of(*others, world.backbone.unet), frozen, strict=True):
        assert torch.equal(ours, theirs)


def test_fresh_noise_differs_at_each_call(world: World, backbone: Backbone) -> None:
    source = FinetunedFeatures(
        [world.plain], ["sd/t195/s3"], backbone, options=LiveOptions(fresh_noise=True)
    )
    torch.manual_seed(1)
    one, two = (source.maps(source.ids)["sd/t195/s3"] for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(one, source.maps(source.ids)["sd/t195/s3"])
    assert (one - two).abs().max() > 0.01


def test_what_it_cannot_be_asked_for(world: World, backbone: Backbone) -> None:
    def make(arrays: list[str], used: Backbone, options: LiveOptions = PLAIN) -> None:
        FinetunedFeatures([world.plain], arrays, used, options=options)

    with pytest.raises(SourceError, match="no layer s9"):
        make(["sd/t195/s9"], backbone)
    with pytest.raises(SourceError, match="no layer of the UNet is asked for"):
        make(["clip/tokens"], backbone)
    with pytest.raises(SourceError, match=r"float32 .* bfloat16; set extraction\.precision"):
        make(ARRAYS, replace(backbone, dtype=torch.bfloat16))
    with pytest.raises(SourceError, match="prefix_bytes"):
        make(ARRAYS, backbone, LiveOptions(prefix_bytes=1))
    with pytest.raises(ValueError, match="beyond this checkpoint's last"):
        make(["sd/t5000/s3"], backbone)
    stranger = replace(backbone, digests=dict(backbone.digests) | {"unet": "0" * 64})
    with pytest.raises(RecipeMismatch, match="unet: store has"):
        make(ARRAYS, stranger)


def test_one_function_still_decides(world: World, backbone: Backbone) -> None:
    options = LiveOptions(checkpointing=True)
    source, line = choose_source(
        [world.plain], ARRAYS, None, lambda: backbone, CPU, live=options, finetune=True
    )
    assert isinstance(source, FinetunedFeatures) and source.options == options
    assert line.startswith("features: fine-tuned, the UNet") and str(world.plain.path) in line
    with pytest.raises(SourceError, match="without an injection"):
        choose_source(
            [world.plain], ARRAYS, world.injection(()), lambda: backbone, CPU, finetune=True
        )


def test_each_source_says_what_learns(world: World, backbone: Backbone) -> None:
    assert CachedFeatures([world.plain], ARRAYS, CPU).trained is None
    live = world.live(tiny.SITES)
    assert isinstance(live, LiveFeatures) and live.trained is live.injection
    assert FinetunedFeatures([world.plain], ARRAYS, backbone).trained is backbone.unet
