"""The built-in backbone: its weights are real files of the real formats, and they see."""

from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from open_clip import load_checkpoint
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from configs import BackboneConfig, ClipConfig, SDConfig, load_config
from pipeline.datasets.shapes import UNSEEN, ShapesDataset
from pipeline.nano import captions
from pipeline.nano.checkpoint import Average, Run, load_part, set_learning_rate
from pipeline.nano.data import PIXELS, Pictures, draw
from pipeline.nano.export import WEIGHTS, averaged, export_clip, export_sd, fold_centre, fold_spread
from pipeline.nano.latents import encode
from pipeline.nano.matching import matching_loss
from pipeline.nano.pictures import curves_svg
from pipeline.nano.train_clip import contrast, moved, normalised
from pipeline.nano.train_clip import train as train_clip
from pipeline.nano.train_unet import Denoiser
from pipeline.nano.train_unet import train as train_unet
from pipeline.nano.train_vae import new_vae
from pipeline.nano.train_vae import train as train_vae
from pipeline.networks.backbone import Backbone, load_backbone
from pipeline.networks.checkpoints import packaged_weights
from pipeline.networks.clip import build_clip
from pipeline.shapes.categories import SEEN

LARGEST = 10_000_000  # bytes, of all weights together


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(load_config("demo").backbone)


@pytest.fixture(scope="module")
def world() -> tuple[ShapesDataset, list[str], Tensor]:
    """A small world of a seed of its own: ids of the unseen categories and their squares."""
    dataset = ShapesDataset(480, seed=71, pixels=96)
    labels = dataset.annotations.labels
    ids = [name for name in dataset.ids if labels[name].category in UNSEEN]
    arrays = [np.asarray(Image.open(io.BytesIO(dataset.read(name)))) for name in ids]
    return dataset, ids, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder, seed=72, n_instances=30, split="train", workers=1)
    return Pictures.open(folder)


def test_the_preset_is_pretrained_and_random_weights_remain_a_choice(backbone: Backbone) -> None:
    config = load_config("demo").backbone
    assert config.weights == "pretrained"
    random = load_backbone(load_config("demo", ["backbone.weights=random"]).backbone)
    assert {name: len(d) for name, d in random.digests.items()} == {
        name: len(d) for name, d in backbone.digests.items()
    }
    assert all(random.digests[name] != backbone.digests[name] for name in ("unet", "vae", "clip"))
    assert random.clip.tokens == backbone.clip.tokens
    assert random.channels == backbone.channels


def test_the_package_holds_under_ten_megabytes_of_float16_safetensors() -> None:
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= LARGEST
    for file in WEIGHTS.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                value = tensors.get_tensor(name)
                assert value.dtype == torch.float16, (file.name, name)
                assert value.isfinite().all(), (file.name, name)
    text = " ".join(file.read_text() for file in WEIGHTS.rglob("*.json"))
    assert "_name_or_path" not in text and "/" not in text


def test_the_weights_are_package_data() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["pipeline.nano"]
    packed = {file for pattern in patterns for file in WEIGHTS.parent.glob(pattern)}
    assert packed >= {file for file in WEIGHTS.rglob("*") if file.is_file()}


def test_given_as_folders_like_any_checkpoint_they_are_the_same_backbone(
    backbone: Backbone,
) -> None:
    config = BackboneConfig(
        sd=SDConfig(source=str(WEIGHTS / "sd")),
        clip=ClipConfig(
            model=str(WEIGHTS / "clip" / "open_clip_config.json"),
            pretrained=str(WEIGHTS / "clip" / "open_clip_model.safetensors"),
        ),
        resolution=96,
    )
    assert load_backbone(config).digests == backbone.digests


def test_only_names_of_built_in_backbones_have_packaged_weights(tmp_path: Path) -> None:
    (tmp_path / "weights" / "sd").mkdir(parents=True)
    assert packaged_weights("nano", "sd") == WEIGHTS / "sd"
    for name in (str(tmp_path), "", "..", "sd15", "../pipeline/nano"):
        assert packaged_weights(name, "sd") is None


def test_latents_have_about_unit_spread(
    backbone: Backbone, world: tuple[ShapesDataset, list[str], Tensor]
) -> None:
    latents = backbone.encode_latents(world[2])
    assert latents.shape[1:] == (4, 24, 24)
    assert latents.mean((0, 2, 3)).abs().max() < 0.4
    assert (latents.std((0, 2, 3)).log().abs() < 0.5).all()


def test_the_decoder_shows_what_the_latents_hold(
    backbone: Backbone, world: tuple[ShapesDataset, list[str], Tensor]
) -> None:
    squares = world[2][:24]
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "sd" / "vae", torch_dtype=torch.float32)
    with torch.inference_mode():
        z0 = backbone.encode_latents(squares) / vae.config.scaling_factor
        error = vae.decode(z0).sample - (squares / 127.5 - 1)
    assert error.abs().mean() < 0.15


def test_the_unet_tells_noise_from_pictures(
    backbone: Backbone, world: tuple[ShapesDataset, list[str], Tensor]
) -> None:
    z0 = backbone.encode_latents(world[2][:24])
    noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(0))
    kept = backbone.alphas_cumprod[195]
    z_t = kept.sqrt() * z0 + (1 - kept).sqrt() * noise
    with torch.inference_mode():
        guess = backbone.unet(z_t, 195, backbone.null_prompt.expand(24, -1, -1)).sample
    assert F.mse_loss(guess, noise) < 0.3


def test_clip_finds_categories_it_never_saw(
    backbone: Backbone, world: tuple[ShapesDataset, list[str], Tensor]
) -> None:
    """The nearest sketch of another instance is of the same category; chance is about 1 in 10."""
    dataset, ids, squares = world
    sketches = [i for i, name in enumerate(ids) if name.endswith("-1.png")]
    labels = [dataset.annotations.labels[ids[i]].category for i in sketches]
    units = F.normalize(backbone.encode_clip(squares[sketches])[1], dim=1)
    nearest = (units @ units.T).fill_diagonal_(-2).argmax(1).tolist()
    right = [labels[i] == labels[j] for i, j in enumerate(nearest)]
    assert np.mean(right) > 0.3


def test_open_clip_reads_the_model_and_names_what_it_sees(pictures: Pictures) -> None:
    """Sketches of a world it was not trained on, by the nearest of 24 captions."""
    model = build_clip(ClipConfig(model="nano"), PIXELS).eval()
    load_checkpoint(model, str(WEIGHTS / "clip" / "open_clip_model.safetensors"), strict=True)
    sketches = torch.from_numpy(pictures.images[:, 1].copy()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        plain = model.encode_text(captions.all_captions()[-len(SEEN) :], normalize=True)
        images = model.encode_image(normalised(sketches), normalize=True)
    named = (images @ plain.T).argmax(1).numpy()
    assert (named == pictures.categories).mean() > 0.6


def test_captions_have_a_token_for_every_word_and_end_where_open_clip_reads() -> None:
    tokens = captions.all_captions()
    assert tokens.shape == (3 * len(SEEN), captions.LENGTH)
    assert len({tuple(row) for row in tokens.tolist()}) == len(tokens)
    assert (tokens == captions.END).sum(1).eq(1).all() and tokens.max() == captions.END
    assert captions.caption("sketch", "apple") == "a sketch of an apple"
    with pytest.raises(ValueError):
        captions.tokenize("a teapot")


def test_drawn_pictures_are_of_seen_categories_with_masks_and_points(pictures: Pictures) -> None:
    assert pictures.images.shape == (30, 3, PIXELS, PIXELS, 3)
    assert set(pictures.categories.tolist()) <= set(range(len(SEEN)))
    masks = np.unpackbits(pictures.photo_masks, axis=1)
    assert masks.shape[1] == PIXELS**2 and 0.02 < masks.mean() < 0.8
    seen = pictures.points[..., 2] == 1
    assert seen.any() and (pictures.points[seen][:, :2] >= 0).all()
    # Sketches are dark on white.
    assert (pictures.images[:, 1:].mean((2, 3, 4)) > 180).all()


def test_points_move_with_their_pictures() -> None:
    """A bright dot is found again where its point went."""
    n = 12
    pixels, places = torch.zeros(n, 3, PIXELS, PIXELS), torch.ones(n, 1, 3)
    rng = np.random.default_rng(0)
    for i, (x, y) in enumerate(rng.integers(24, 72, (n, 2)).tolist()):
        pixels[i, :, y - 1 : y + 2, x - 1 : x + 2] = 1
        places[i, 0, :2] = torch.tensor([x + 0.5, y + 0.5])
    views, points = moved(pixels, places, torch.Generator().manual_seed(0))
    grid = torch.arange(PIXELS) + 0.5
    weight = views[:, 0] / views[:, 0].sum((1, 2), keepdim=True)
    centres = torch.stack([(weight.sum(1) * grid).sum(1), (weight.sum(2) * grid).sum(1)], 1)
    assert points[..., 2].all()
    assert torch.allclose(centres, points[:, 0, :2], atol=0.3)
    assert not torch.allclose(centres, places[:, 0, :2], atol=3)


def test_matching_is_least_where_features_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = F.normalize(torch.randn(2, 32, 12, 12, generator=generator), dim=1)
    points = torch.cat([torch.rand(2, 5, 2, generator=generator) * PIXELS, torch.ones(2, 5, 1)], 2)
    right = matching_loss(maps, maps, points, points)
    shuffled = matching_loss(maps, maps, points, points.roll(1, dims=1))
    assert right < shuffled
    unseen = points.clone()
    unseen[..., 2] = 0
    assert matching_loss(maps, maps, points, unseen) == 0


def test_contrast_is_least_where_labels_agree() -> None:
    units = F.normalize(torch.eye(4).repeat_interleave(3, 0), dim=1)
    labels = torch.arange(4).repeat_interleave(3)
    assert contrast(units, labels, 0.1) < contrast(units, labels.roll(1), 0.1)


def test_folding_the_spread_changes_latents_and_not_pictures() -> None:
    torch.manual_seed(0)
    vae, folded = new_vae().eval(), new_vae().eval()
    folded.load_state_dict(vae.state_dict())
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    fold_spread(folded, mean, std)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        before, after = vae.encode(pixels).latent_dist, folded.encode(pixels).latent_dist
        scale = folded.config.scaling_factor
        shape = (1, 4, 1, 1)
        wanted = (before.mean - mean.view(shape)) / std.view(shape)
        assert torch.allclose(after.mean * scale, wanted, atol=1e-4)
        assert torch.allclose(after.std * scale, before.std / std.view(shape), rtol=1e-3)
        decoded = vae.decode(before.mean).sample
        assert torch.allclose(folded.decode(after.mean).sample, decoded, atol=1e-4)


def test_folding_the_centre_standardises_embeddings() -> None:
    model = build_clip(ClipConfig(model="nano"), PIXELS).eval()
    images = torch.randn(4, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = model.encode_image(images)
    mean, std = before.mean(0), before.std(0)
    fold_centre(model, mean, std)
    with torch.inference_mode():
        assert torch.allclose(model.encode_image(images), (before - mean) / std, atol=1e-2)
        assert model.encode_text(captions.all_captions()).mean(0).abs().max() < 1e-4


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def go(out: Path, *stops: int) -> Tensor:
        for stop in stops:
            torch.manual_seed(0)
            layer = torch.nn.Linear(3, 1)
            optimiser = torch.optim.AdamW(layer.parameters())
            average = Average(layer, 0.9)
            run = Run(out, 5, {"layer": layer, "optimiser": optimiser, "average": average})
            while run.step < stop:
                set_learning_rate(optimiser, 0.1, run.step, 10, warm_up=2)
                loss = layer(torch.randn(4, 3, generator=run.generator)).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                average.update(layer, run.step + 1)
                run.done(stop, loss=loss)
        return averaged(load_part(out, "average"))["weight"]

    whole, parts = go(tmp_path / "a", 10), go(tmp_path / "b", 4, 10)
    assert torch.equal(whole, parts)
    log = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [4, 10]


def test_every_training_takes_a_step_and_what_it_leaves_can_be_exported(
    pictures: Pictures, tmp_path: Path
) -> None:
    train_vae(pictures, tmp_path / "vae", n_steps=1)
    vae = new_vae()
    vae.load_state_dict(load_part(tmp_path / "vae", "vae"))
    encode(pictures, vae.eval(), tmp_path / "latents")
    latents = np.load(tmp_path / "latents" / "latents.npy")
    spread = {"mean": torch.zeros(4), "std": torch.ones(4)}
    train_unet(latents, spread, pictures.points, tmp_path / "unet", n_steps=1)
    train_clip(pictures, tmp_path / "clip", n_steps=1)
    denoiser = Denoiser()
    denoiser.load_state_dict(averaged(load_part(tmp_path / "unet", "average")))
    model = build_clip(ClipConfig(model="nano"), PIXELS)
    model.load_state_dict(averaged(load_part(tmp_path / "clip", "average")))
    export_sd(vae, denoiser, tmp_path / "sd")
    export_clip(model, tmp_path / "open_clip")
    config = BackboneConfig(
        sd=SDConfig(source=str(tmp_path / "sd")),
        clip=ClipConfig(
            model=str(tmp_path / "open_clip" / "open_clip_config.json"),
            pretrained=str(tmp_path / "open_clip" / "open_clip_model.safetensors"),
        ),
        resolution=96,
    )
    assert load_backbone(config).clip.tokens == (160, 8, 8)


def test_curves_are_one_line_each() -> None:
    svg = curves_svg({"a": [(1, 2.0), (2, 1.0)], "b": [(1, 4.0), (2, 3.0)]}, "title")
    assert svg.count("<polyline") == 2 and svg.startswith("<svg") and "nan" not in svg
