"""Stage 1 as the released code computes, against its equations written out (tests/oracle)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from configs import ConfigError, ExtractionConfig, load_config
from pipeline.doctor import Asked, check_injection
from pipeline.extraction.arrays import OPTIONAL_INPUT, make_recipe
from pipeline.extraction.extract import Extractor
from pipeline.extraction.vision import check_extraction
from pipeline.job import Job, load_job
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.injection import random_injection
from pipeline.networks.noise import POSTERIOR, draw_noise
from pipeline.pictures import images
from pipeline.pictures.images import centre_crop, network_input
from pipeline.precompute import precompute
from tests import tiny
from tests.oracle.released import released_features

RESOLUTION = 64
TIMESTEP = 195
SIZES = [(96, 96), (150, 90), (40, 75), (64, 64)]
AS_RELEASED = load_config("as-released").extraction


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints, RGB pictures of several shapes, and the preset's own extraction."""
    root = tmp_path_factory.mktemp("released")
    tiny.save_tiny_sd(root / "sd", layers_per_block=2)
    clip_json, clip_weights = tiny.save_tiny_clip(root / "clip", image_size=RESOLUTION)
    rng = np.random.default_rng(0)
    (root / "pictures").mkdir()
    for i, (width, height) in enumerate(SIZES):
        coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(root / "pictures" / f"{i}.png")
    document = {
        "backbone": {
            "sd": {"source": str(root / "sd")},
            "clip": {"model": str(clip_json), "pretrained": str(clip_weights)},
            "resolution": RESOLUTION,
        },
        "dataset": {"name": "folder", "root": str(root / "pictures")},
        "extraction": {
            **AS_RELEASED.model_dump(mode="json", exclude_unset=True),
            "ensemble": 3,
            "seed": 5,
            "batch_size": 2,
            "workers": 0,
            "device": "cpu",
        },
    }
    (root / "config.yaml").write_text(yaml.safe_dump(document))
    return root


@pytest.fixture(scope="module")
def job(world: Path) -> Job:
    return load_job(load_config(world / "config.yaml"))


def test_every_feature_is_the_released_equations(world: Path) -> None:
    precompute(load_config(world / "config.yaml"), world / "store")
    clip_json = next((world / "clip").glob("*.json"))
    group = zarr.open_group(world / "store", mode="r")
    for row in range(len(SIZES)):
        expected = released_features(
            world / "pictures" / f"{row}.png",
            world / "sd",
            clip_json,
            clip_json.with_suffix(".safetensors"),
            resolution=RESOLUTION,
            timestep=TIMESTEP,
            seed=5,
            ensemble=3,
        )
        assert len(expected) == 4
        for name, value in expected.items():
            np.testing.assert_allclose(group[name][row], value, atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    ("key", "default"), [("clip_input", "square"), ("latent", "mean"), ("vae_pixels", "signed")]
)
def test_each_key_changes_the_features(job: Job, key: str, default: str) -> None:
    """Of a picture that is neither square nor without margins."""
    picture = Image.open(job.dataset.root / "1.png")  # type: ignore[attr-defined]
    found = []
    for values in ({}, {key: default}):
        extraction = job.config.extraction.model_copy(update=values)
        square = network_input(picture, RESOLUTION, extraction.pad, extraction.clip_input)
        backbone = replace(job.extractor.backbone, vae_pixels=extraction.vae_pixels)  # type: ignore[attr-defined]
        extractor = Extractor(backbone, extraction, job.extractor.injection, 2)  # type: ignore[attr-defined]
        found.append(extractor(square[None], ["ab"], [f"sd/t{TIMESTEP}/s3"]))
    first, second = (arrays[f"sd/t{TIMESTEP}/s3"] for arrays in found)
    assert np.abs(first - second).max() > 1e-3


def test_layers_added_later_do_not_start_from_the_stored_means(job: Job) -> None:
    backbone = job.extractor.backbone  # type: ignore[attr-defined]
    for latent in ("mean", "sample"):
        extraction = job.config.extraction.model_copy(update={"latent": latent})
        assert Extractor(backbone, extraction, None, 2).takes_latents == (latent == "mean")


def test_the_preset_is_what_the_documentation_says() -> None:
    config = load_config("as-released")
    assert config.extraction.model_dump(mode="json", exclude_unset=True) == {
        "timesteps": [195], "layers": ["s3", "s4", "s5"], "ensemble": 32, "injection": "random",
        "pad": "black", "clip_input": "centre-crop", "latent": "sample", "vae_pixels": "bytes",
        "store_dtype": "float32",
    }  # fmt: skip
    assert (config.backbone.name, config.dataset.name) == ("sd21-clip-l336", "psc6k")
    assert not config.train.injection.sites  # its gradients are cut off
    train = config.train
    assert (train.protocol, train.epochs, train.batch_size, train.seed) == (
        "sketchfusion-release", 50, 1, 42,
    )  # fmt: skip
    assert (train.learning_rate, train.final_learning_rate, train.weight_decay) == (
        1.25e-3, 1e-6, 1e-3,
    )  # fmt: skip
    assert (train.dropout, train.dropout_on, train.dropout_epochs) == (0.5, "grid", 1)
    matching = train.correspondence
    assert (matching.matcher, matching.window, matching.temperature) == ("released", 7, 0.02)
    assert not matching.shuffle
    # 5,000 steps an epoch there, where the two directions of a pair are two steps.
    assert train.cosine_steps == 50 * 5000 // 2


# Recipes


def test_a_recipe_of_defaults_is_byte_for_byte_what_it_was() -> None:
    recipe = make_recipe({"unet": "u", "clip": "c"}, 336, ExtractionConfig(), None)
    assert json.dumps(recipe.fields, sort_keys=True) == (
        '{"clip": "c", "ensemble": 1, "injection": null, "precision": "float32", '
        '"preprocessing": {"drawing_side": 384, "pad": "edge", "resize": "lanczos"}, '
        '"resolution": 336, "seed": 0, "store_dtype": "float16", "unet": "u"}'
    )
    assert recipe.fingerprint == (
        "0640073587d816b398825dd7f02b4887a5f66dcb8a3b9ee985e86b0722ef604b"
    )


@pytest.mark.parametrize("key", OPTIONAL_INPUT)
def test_what_is_not_the_default_is_recorded_under_its_key(key: str) -> None:
    value = getattr(AS_RELEASED, key)
    plain = make_recipe({}, 336, ExtractionConfig(), None)
    other = make_recipe({}, 336, ExtractionConfig(**{key: value}), None)
    assert plain.differences(other) == [
        f'preprocessing.{key}: store has nothing, requested "{value}"'
    ]


@pytest.mark.parametrize("key", OPTIONAL_INPUT)
def test_a_vision_transformer_has_none_of_these(key: str) -> None:
    extraction = ExtractionConfig(**{key: getattr(AS_RELEASED, key)})
    with pytest.raises(BackboneError, match=f"extraction.{key}: a timm backbone has neither"):
        check_extraction(extraction)


def test_a_prefix_of_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match="prefix=null or latent=mean") as caught:
        load_config("demo", ["extraction.latent=sample", "extraction.prefix=down.0"])
    assert "\n" not in str(caught.value)


# Parts


@pytest.mark.parametrize("side", [8, 31, 64])
def test_the_centre_crop_is_torchvisions(side: int) -> None:
    rng = np.random.default_rng(side)
    transform = Compose([Resize(side, interpolation=InterpolationMode.BICUBIC), CenterCrop(side)])
    for size in [(64, 64), (90, 37), (37, 90), (31, 200), (7, 9), (65, 64), (1, 5)]:
        picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))
        np.testing.assert_array_equal(centre_crop(picture, side), np.asarray(transform(picture)))


def test_a_long_strip_is_cropped_without_being_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.linspace(0, 255, 900).astype(np.uint8)
    strip = Image.fromarray(np.repeat(ramp[None, :, None], 3, axis=2).repeat(3, axis=0))
    expected = centre_crop(strip, 48).astype(int)
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 48)
    assert np.abs(centre_crop(strip, 48) - expected).max() <= 1
    tall = strip.transpose(Image.Transpose.ROTATE_90)
    assert np.abs(centre_crop(tall, 48)[::-1].transpose(1, 0, 2) - expected).max() <= 1


def test_clips_square_follows_the_other_only_if_it_is_its_own() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    shared = network_input(picture, 16, "black")
    both = network_input(picture, 16, "black", "centre-crop")
    assert shared.shape == (3, 16, 16) and both.shape == (6, 16, 16)
    np.testing.assert_array_equal(both[:3], shared)
    np.testing.assert_array_equal(both[3:].transpose(1, 2, 0), centre_crop(picture, 16))


def test_the_posteriors_noise_is_another_stream() -> None:
    both = [draw_noise((4, 8, 8), 0, "ab", 195, 0, stream) for stream in ("", POSTERIOR)]
    correlation = np.corrcoef(both[0].flatten(), both[1].flatten())[0, 1]
    assert abs(correlation) < 0.2
    assert torch.equal(both[1], draw_noise((4, 8, 8), 0, "ab", 195, 0, POSTERIOR))
    assert not torch.equal(both[1], draw_noise((4, 8, 8), 0, "ab", 195, 1, POSTERIOR))


def test_a_random_injection_follows_from_the_seed_alone() -> None:
    channels = {"down.0": 8, "up.1": 4}
    torch.manual_seed(1)
    first = random_injection(6, channels, 3)
    state = torch.get_rng_state()
    again = random_injection(6, channels, 3)
    assert torch.equal(state, torch.get_rng_state())
    assert first.digest() == again.digest() != random_injection(6, channels, 4).digest()
    assert not any(parameter.requires_grad for parameter in first.parameters())
    bound = 6**-0.5  # torch's default: uniform, within 1 / sqrt(inputs)
    for tensor in first.state().values():
        assert tensor.abs().max() <= bound and tensor.abs().max() > bound / 3


def test_the_doctor_knows_the_random_injection(world: Path) -> None:
    (finding,) = check_injection(Asked(load_config(world / "config.yaml")))
    assert (finding.level, finding.what) == ("ok", "random, at every site")
