"""Counted operations equal the arithmetic of the paper's backbone."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import BackboneConfig, ClipConfig, ExtractionConfig, SDConfig, load_config
from pipeline.cost import measure_cost
from pipeline.extraction.arrays import array_specs
from pipeline.extraction.extract import Extractor
from pipeline.networks.backbone import load_backbone
from pipeline.networks.checkpoints import BackboneError
from tests import tiny


def test_the_papers_backbone_costs_what_is_known_of_it() -> None:
    config = load_config("demo", ["backbone=sd21-clip-l336", "extraction.timesteps=[195]"])
    cost = measure_cost(config.backbone, config.extraction)
    assert cost.geometry.latent == (4, 42, 42)
    assert cost.geometry.tokens == (1024, 24, 24)
    assert cost.geometry.layers == {"s5": (1280, 11, 11), "s4": (1280, 21, 21), "s3": (640, 42, 42)}
    # Published per-image figures at 336 px: VAE 473 G, CLIP 382 G, UNet up to up block 2 262 G.
    assert cost.vae / 1e9 == pytest.approx(473, abs=1)
    assert cost.clip / 1e9 == pytest.approx(382, abs=1)
    assert cost.unet / 1e9 == pytest.approx(262, abs=1)


def test_a_timestep_beyond_the_schedule_is_refused_before_anything_is_loaded() -> None:
    config = load_config("demo", ["extraction.timesteps=[999]"])
    measure_cost(config.backbone, config.extraction)
    config = load_config("demo", ["extraction.timesteps=[1000]"])
    with pytest.raises(BackboneError, match="1000 is beyond this checkpoint's last, 999"):
        measure_cost(config.backbone, config.extraction)


def test_fewer_layers_injection_and_draws_are_counted(tmp_path: Path) -> None:
    import numpy as np

    tiny.save_tiny_sd(tmp_path / "sd")
    clip_json, clip_weights = tiny.save_tiny_clip(tmp_path / "clip")
    path = tiny.save_injection(tmp_path / "injection.safetensors")
    backbone = BackboneConfig(
        sd=SDConfig(source=str(tmp_path / "sd")),
        clip=ClipConfig(model=str(clip_json), pretrained=str(clip_weights)),
        resolution=64,
    )
    plain = measure_cost(backbone, ExtractionConfig())
    assert measure_cost(backbone, ExtractionConfig(layers=("s5",))).unet < plain.unet
    assert measure_cost(backbone, ExtractionConfig(injection=path)).unet > plain.unet
    many = measure_cost(backbone, ExtractionConfig(ensemble=3, timesteps=(1, 2)))
    assert many.total == plain.vae + plain.clip + 6 * plain.unet

    # The counted shapes are those that the loaded networks produce.
    extraction = ExtractionConfig()
    specs = array_specs(plain.geometry, extraction)
    extractor = Extractor(load_backbone(backbone), extraction, None, batch_size=2)
    squares = np.zeros((2, 3, 64, 64), np.uint8)
    arrays = extractor(squares, ["a", "b"], [spec.name for spec in specs])
    assert {name: a.shape[1:] for name, a in arrays.items()} == {s.name: s.shape for s in specs}
