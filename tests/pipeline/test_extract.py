"""The extractor under pressure: memory that runs out, ensembles larger than a pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs import BackboneConfig, ClipConfig, ExtractionConfig, SDConfig
from pipeline.extraction.extract import (
    ExtractionError,
    Extractor,
    auto_batch_size,
    is_out_of_memory,
)
from pipeline.networks.backbone import Backbone, load_backbone
from pipeline.networks.injection import load_injection
from tests import tiny

ARRAYS = ["sd/t195/s3", "sd/t195/s5", "clip/tokens", "vae/latent"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    root = tmp_path_factory.mktemp("backbone")
    tiny.save_tiny_sd(root / "sd")
    clip_json, clip_weights = tiny.save_tiny_clip(root / "clip")
    sd = SDConfig(source=str(root / "sd"))
    clip = ClipConfig(model=str(clip_json), pretrained=str(clip_weights))
    return load_backbone(BackboneConfig(sd=sd, clip=clip, resolution=64))


def batch(n_images: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (n_images, 3, 64, 64), dtype=np.uint8)
    return squares, [f"{i:064x}" for i in range(n_images)]


class _SmallDevice:
    """Stands in front of a backbone and has room for only so many UNet samples or images."""

    def __init__(self, backbone: Backbone, room: int, message: str) -> None:
        self._backbone, self._room, self._message = backbone, room, message
        self.refused = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._backbone, name)

    def _check(self, n_samples: int) -> None:
        if n_samples > self._room:
            self.refused += 1
            raise RuntimeError(self._message)

    def encode_latents(self, squares: Tensor) -> Tensor:
        self._check(len(squares))
        return self._backbone.encode_latents(squares)

    def unet_features(self, z0: Tensor, *rest: object) -> dict[str, Tensor]:
        self._check(len(z0))
        return self._backbone.unet_features(z0, *rest)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(backbone: Backbone, message: str) -> None:
    extraction = ExtractionConfig()
    squares, shas = batch(7)
    expected = Extractor(backbone, extraction, None, 7)(squares, shas, ARRAYS)
    small = _SmallDevice(backbone, room=2, message=message)
    extractor = Extractor(small, extraction, None, 8)
    found = extractor(squares, shas, ARRAYS)
    assert small.refused == 2  # 8 and 4 do not fit, 2 does
    assert extractor.batch_size == 2
    for name in ARRAYS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    extractor(squares, shas, ARRAYS)
    assert small.refused == 2  # it has learned


def test_one_image_that_does_not_fit_is_an_error_that_helps(backbone: Backbone) -> None:
    small = _SmallDevice(backbone, room=0, message="CUDA out of memory.")
    with pytest.raises(ExtractionError, match=r"backbone\.resolution"):
        Extractor(small, ExtractionConfig(), None, 4)(*batch(2), ARRAYS)


def test_other_errors_are_not_taken_for_a_full_memory(backbone: Backbone) -> None:
    small = _SmallDevice(backbone, room=0, message="size mismatch")
    with pytest.raises(RuntimeError, match="size mismatch"):
        Extractor(small, ExtractionConfig(), None, 4)(*batch(2), ARRAYS)
    assert is_out_of_memory(torch.OutOfMemoryError("full"))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 64])
def test_an_ensemble_is_the_mean_of_its_draws_however_it_is_cut(
    backbone: Backbone, tmp_path: Path, batch_size: int
) -> None:
    path = tiny.save_injection(tmp_path / "injection.safetensors")
    injection = load_injection(path, backbone.clip.width, backbone.channels)
    extraction = ExtractionConfig(ensemble=3, timesteps=(195,))
    squares, shas = batch(3)
    found = Extractor(backbone, extraction, injection, batch_size)(squares, shas, ARRAYS)

    from pipeline.networks.noise import draw_noise

    for row in range(3):
        pixels = torch.from_numpy(squares[row : row + 1])
        z0, (tokens, _) = backbone.encode_latents(pixels), backbone.encode_clip(pixels)
        draws = [
            backbone.unet_features(
                z0,
                draw_noise(tuple(z0.shape[1:]), 0, shas[row], 195, draw)[None],
                195,
                ["s3"],
                injection.project(tokens),
            )["s3"]
            for draw in range(3)
        ]
        mean = torch.stack(draws).mean(0)[0]
        np.testing.assert_allclose(found["sd/t195/s3"][row], mean, atol=1e-5)


def test_automatic_batches_depend_on_the_kind_of_device_only() -> None:
    cpu = torch.device("cpu")
    assert auto_batch_size(cpu, 96) == 16
    assert auto_batch_size(cpu, 336) == 1
    assert auto_batch_size(cpu, 4096) == 1
