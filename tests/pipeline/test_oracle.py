"""The two reference implementations agree, and their parts agree with the libraries they restate.

What the product is measured against must be beyond doubt, so it is checked twice over here; the
last tests show that a wrong implementation would be noticed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from tests import tiny
from tests.oracle import hooks
from tests.oracle.features import (
    alphas_cumprod,
    build_clip,
    clip_tokens_and_pooled,
    noise,
    null_prompt,
    oracle_features,
)
from tests.oracle.hooks import hooked_features
from tests.oracle.images import letterbox, read_rgb
from tests.oracle.unet import unet_features

LAYERS = ("s3", "s4", "s5")
TOLERANCE = 1e-5  # float32, between two orders of the same operations
TIMESTEP = 195

SIZES = [(8, 8), (16, 8), (6, 6), (7, 7), (9, 5), (1, 1), (2, 3)]  # latent cells, height x width
SHAPES = [("sd2", 1), ("sd2", 2), ("sd15", 1)]  # family, layers per block


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"{shape[0]}-{shape[1]}")
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    family, layers_per_block = request.param
    return tiny.build_tiny_unet(family=family, layers_per_block=layers_per_block)


def random_inputs(size: tuple[int, int], batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """z_t [B, 4, H, W], the prompt [1, L, D_text] and CLIP tokens [B, 32, 5, 5]."""
    generator = torch.Generator().manual_seed(7)
    z_t = torch.randn(batch, 4, *size, generator=generator)
    prompt = torch.randn(1, tiny.PROMPT_LENGTH, tiny.TEXT_WIDTH, generator=generator)
    return z_t, prompt, torch.randn(batch, 32, 5, 5, generator=generator)


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    # torch's maximum, unlike Python's, lets a NaN through.
    return float(torch.stack([(ours[name] - theirs[name]).abs().max() for name in ours]).max())


@torch.no_grad()
def both(
    unet: UNet2DConditionModel, size: tuple[int, int], batch: int, sites: tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    z_t, prompt, tokens = random_inputs(size, batch)
    injection = tiny.random_injection(sites=sites)
    return (
        unet_features(unet, z_t, TIMESTEP, prompt, injection, tokens),
        hooked_features(unet, z_t, TIMESTEP, prompt, injection, tokens),
    )


class TestTwoImplementations:
    @pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
    def test_agree_at_any_latent_size(
        self, unet: UNet2DConditionModel, size: tuple[int, int]
    ) -> None:
        spelled, hooked = both(unet, size, 1, tiny.SITES)
        assert spelled["s3"].shape == (1, 64, *size)
        assert largest_difference(spelled, hooked) < TOLERANCE

    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("sites", tiny.SITE_SETS.values(), ids=tiny.SITE_SETS)
    def test_agree_for_every_site_set_and_batch(
        self, unet: UNet2DConditionModel, sites: tuple[str, ...], batch: int
    ) -> None:
        spelled, hooked = both(unet, (7, 6), batch, sites)
        assert largest_difference(spelled, hooked) < TOLERANCE

    @pytest.mark.parametrize("layer", LAYERS)
    def test_gradients_agree(self, unet: UNet2DConditionModel, layer: str) -> None:
        z_t, prompt, tokens = random_inputs((7, 6), 2)
        gradients = []
        for implementation in (unet_features, hooked_features):
            injection = {
                key: value.requires_grad_() for key, value in tiny.random_injection().items()
            }
            features = implementation(unet, z_t, TIMESTEP, prompt, injection, tokens, [layer])
            features[layer].square().sum().backward()
            gradients.append({k: v.grad for k, v in injection.items() if v.grad is not None})
        spelled, hooked = gradients
        reached = tiny.SITES[: 4 + {"s5": 1, "s4": 2, "s3": 3}[layer]]
        assert spelled.keys() == hooked.keys()
        assert {key.rpartition(".")[0] for key in spelled} == set(reached)
        for key, gradient in spelled.items():
            scale = float(gradient.abs().max())
            assert scale > 1e-2, key
            assert float((gradient - hooked[key]).abs().max()) < 1e-4 * scale, key

    def test_batch_is_independent_per_image(self, unet: UNet2DConditionModel) -> None:
        z_t, prompt, tokens = random_inputs((6, 7), 3)
        injection = tiny.random_injection()
        with torch.no_grad():
            together = unet_features(unet, z_t, TIMESTEP, prompt, injection, tokens)
            alone = unet_features(unet, z_t[1:2], TIMESTEP, prompt, injection, tokens[1:2])
        middle = {layer: maps[1:2] for layer, maps in together.items()}
        assert largest_difference(middle, alone) < TOLERANCE

    def test_hooks_are_removed(self, unet: UNet2DConditionModel) -> None:
        both(unet, (6, 6), 1, tiny.SITES)
        assert not any(module._forward_hooks for module in unet.modules())


class TestSensitivity:
    """Mistakes that are easy to make change the features far beyond the tolerance."""

    def test_skips_without_injection(
        self, unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            hooks, "add_to_down_output", lambda output, added: (output[0] + added, output[1])
        )
        spelled, hooked = both(unet, (7, 6), 1, tiny.SITES)
        for layer in LAYERS:
            assert float((spelled[layer] - hooked[layer]).abs().max()) > 1000 * TOLERANCE

    @pytest.mark.parametrize("site", tiny.SITES)
    def test_every_site_matters(self, unet: UNet2DConditionModel, site: str) -> None:
        complete, _ = both(unet, (7, 6), 1, tiny.SITES)
        missing, _ = both(unet, (7, 6), 1, tuple(set(tiny.SITES) - {site}))
        assert largest_difference(complete, missing) > 1000 * TOLERANCE

    def test_image_timestep_seed_and_pad_matter(self, checkpoints: Checkpoints) -> None:
        base = checkpoints.features(0, timesteps=[10])["sd/t10/s3"]
        for changed in (
            checkpoints.features(1, timesteps=[10])["sd/t10/s3"],
            checkpoints.features(0, timesteps=[900])["sd/t900/s3"],
            checkpoints.features(0, timesteps=[10], seed=1)["sd/t10/s3"],
            checkpoints.features(0, timesteps=[10], ensemble=2)["sd/t10/s3"],
            checkpoints.features(0, timesteps=[10], pad="white")["sd/t10/s3"],
        ):
            assert np.abs(base - changed).max() > 100 * TOLERANCE


class Checkpoints:
    """A tiny SD folder, CLIP and injection file with two pictures, and the oracle on them."""

    def __init__(self, root: Path) -> None:
        self.sd = tiny.save_tiny_sd(root / "sd")
        self.clip = tiny.save_tiny_clip(root / "clip", image_size=60, patch_size=15)
        self.injection = tiny.save_injection(root / "injection.safetensors")
        self.images = tiny.write_images(root / "images", 5)[1:3]

    def features(self, image: int, **settings: Any) -> dict[str, np.ndarray]:
        return oracle_features(
            self.images[image], self.sd, *self.clip, self.injection, resolution=60, **settings
        )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


class TestFeatures:
    def test_names_shapes_and_types(self, checkpoints: Checkpoints) -> None:
        arrays = checkpoints.features(0, timesteps=[1, 195], layers=["s3", "s5"])
        assert {name: array.shape for name, array in arrays.items()} == {
            "vae/latent": (4, 7, 7),
            "clip/tokens": (32, 4, 4),
            "clip/pooled": (24,),
            "sd/t1/s3": (64, 7, 7),
            "sd/t1/s5": (64, 2, 2),
            "sd/t195/s3": (64, 7, 7),
            "sd/t195/s5": (64, 2, 2),
        }
        assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())

    def test_ensemble_is_the_mean_over_draws(self, checkpoints: Checkpoints) -> None:
        """Rebuilt with the hooks and the checkpoint's own scheduler."""
        averaged = checkpoints.features(0, ensemble=3)
        latent = torch.from_numpy(averaged["vae/latent"])[None]
        tokens = torch.from_numpy(averaged["clip/tokens"])[None]
        digest = hashlib.sha256(checkpoints.images[0].read_bytes()).hexdigest()
        scheduler = PNDMScheduler.from_pretrained(checkpoints.sd / "scheduler")
        unet = UNet2DConditionModel.from_pretrained(checkpoints.sd / "unet")
        eps = torch.cat([noise(0, digest, 195, draw, latent.shape) for draw in range(3)])
        z_t = scheduler.add_noise(latent.expand(3, -1, -1, -1), eps, torch.full((3,), 195))
        with torch.no_grad():
            prompt, injection = null_prompt(checkpoints.sd), load_file(checkpoints.injection)
            maps = hooked_features(unet, z_t, 195, prompt, injection, tokens.expand(3, -1, -1, -1))
        for layer in LAYERS:
            expected = maps[layer].mean(dim=0).numpy()
            np.testing.assert_allclose(averaged[f"sd/t195/{layer}"], expected, atol=TOLERANCE)

    def test_noise_is_pinned(self) -> None:
        """The seed worked out by hand from the pinned text, then torch's own stream."""
        digest = hashlib.sha256(b"0:" + b"ab" * 32 + b":195:2").hexdigest()
        torch.manual_seed(int(digest[:16], 16) // 2)
        expected = torch.randn(1, 4, 6, 5)
        assert torch.equal(noise(0, "ab" * 32, 195, 2, torch.Size((4, 6, 5))), expected[0])

    @pytest.mark.parametrize("scheduler_class", [PNDMScheduler, DDIMScheduler])
    def test_schedule_is_the_checkpoints(
        self, checkpoints: Checkpoints, scheduler_class: Any
    ) -> None:
        folder = checkpoints.sd / "scheduler"
        scheduler = scheduler_class.from_pretrained(folder)
        ours = alphas_cumprod(json.loads((folder / "scheduler_config.json").read_text()))
        torch.testing.assert_close(ours, scheduler.alphas_cumprod, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("quick_gelu", [False, True])
    def test_clip_tokens_are_open_clips_intermediates(
        self, tmp_path: Path, quick_gelu: bool
    ) -> None:
        clip = build_clip(*tiny.save_tiny_clip(tmp_path, image_size=48, quick_gelu=quick_gelu))
        square = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        caught: list[Tensor] = []
        handle = clip.visual.register_forward_hook(lambda m, args, out: caught.append(args[0]))
        with torch.no_grad():
            tokens, pooled = clip_tokens_and_pooled(clip, square)
            handle.remove()
            theirs = clip.visual.forward_intermediates(caught[0], indices=1)
        torch.testing.assert_close(tokens, theirs["image_intermediates"][0][0])
        torch.testing.assert_close(pooled, theirs["image_features"][0])


class TestImages:
    @pytest.mark.parametrize(
        ("height", "width", "first", "last"),  # picture size; its first and last (row, column)
        [
            (10, 10, (0, 0), (9, 9)),
            (20, 10, (0, 2), (9, 6)),  # 5 columns to spare, 2 of them before
            (10, 33, (3, 0), (5, 9)),  # 3 rows remain, 3 of the 7 to spare before
            (1, 400, (4, 0), (4, 9)),  # never thinner than one pixel
        ],
    )
    def test_letterbox_places_the_picture(
        self, height: int, width: int, first: tuple[int, int], last: tuple[int, int]
    ) -> None:
        square = letterbox(np.zeros((height, width, 3), np.uint8), 10, "white")
        occupied = np.argwhere(square[..., 0] == 0)
        assert (tuple(occupied.min(axis=0)), tuple(occupied.max(axis=0))) == (first, last)

    def test_edge_padding_repeats_the_border(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (12, 5, 3), dtype=np.uint8)
        white, edge = (letterbox(picture, 12, pad) for pad in ("white", "edge"))
        np.testing.assert_array_equal(edge[:, 3:8], picture)
        np.testing.assert_array_equal(edge[:, :3], np.repeat(picture[:, :1], 3, axis=1))
        np.testing.assert_array_equal(edge[:, 8:], np.repeat(picture[:, -1:], 4, axis=1))
        np.testing.assert_array_equal(white[:, 3:8], picture)
        assert (white[:, :3] == 255).all() and (white[:, 8:] == 255).all()

    def test_stretch_ignores_the_aspect_ratio(self) -> None:
        picture = np.zeros((12, 5, 3), np.uint8)
        assert letterbox(picture, 9, "stretch").max() == 0
        assert letterbox(picture, 9, "stretch").shape == (9, 9, 3)

    def test_rotation_and_transparency(self, tmp_path: Path) -> None:
        pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)  # opaque, then clear
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying on its left side
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(
            read_rgb(tmp_path / "a.png"), [[[10, 20, 30]], [[255, 255, 255]]]
        )


class TestTinyCheckpoints:
    @pytest.mark.parametrize(("family", "pad"), [("sd2", "!"), ("sd15", "<|endoftext|>")])
    def test_empty_prompt_uses_the_checkpoints_pad_token(
        self, tmp_path: Path, family: tiny.Family, pad: str
    ) -> None:
        folder = tiny.save_tiny_sd(tmp_path, family=family)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        ids = tokenizer("", padding="max_length").input_ids
        words = tokenizer.convert_ids_to_tokens(ids)
        assert words == ["<|startoftext|>", "<|endoftext|>"] + [pad] * 14

    def test_null_prompt_stands_in_for_the_text_encoder(self, tmp_path: Path) -> None:
        folder = tiny.save_tiny_sd(tmp_path, text="null_prompt")
        assert not (folder / "text_encoder").exists()
        assert null_prompt(folder).shape == (1, tiny.PROMPT_LENGTH, tiny.TEXT_WIDTH)

    def test_sharded_weights_are_the_same_weights(self, tmp_path: Path) -> None:
        folder = tiny.save_tiny_sd(tmp_path, unet_shard_size="500KB", text="none")
        assert len(list((folder / "unet").glob("*.safetensors"))) > 1
        loaded = UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
        for name, tensor in tiny.build_tiny_unet().state_dict().items():
            assert torch.equal(tensor, loaded[name]), name

    def test_seeds_and_damage(self, tmp_path: Path) -> None:
        first, again = (tiny.save_tiny_sd(tmp_path / name, text="none") for name in "ab")
        other = tiny.save_tiny_sd(tmp_path / "c", text="none", seed=5)
        weights = Path("vae/diffusion_pytorch_model.safetensors")
        assert (first / weights).read_bytes() == (again / weights).read_bytes()
        assert (first / weights).read_bytes() != (other / weights).read_bytes()

        tiny.truncate(first / weights)
        assert 2 * (first / weights).stat().st_size <= (again / weights).stat().st_size
        tiny.replace_by_pickle(again)
        assert {p.suffix for p in again.rglob("diffusion*")} == {".bin"}
