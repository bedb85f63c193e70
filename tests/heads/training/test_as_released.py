"""Training and matching on a store made as the released code makes its features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from heads.use import load_picture, match, open_trained
from tests.heads.worlds import World, complaint, ok
from tests.oracle.released import released_match

EXTRACTION = (
    "extraction.injection=random", "extraction.pad=black", "extraction.clip_input=centre-crop",
    "extraction.latent=sample", "extraction.vae_pixels=bytes", "dataset.size=60",
)  # fmt: skip
TRAIN = (
    "task=correspondence", "train.epochs=2", "train.batch_size=8", "train.dropout_on=grid",
    "train.dropout_epochs=1", "train.cosine_steps=3", "train.correspondence.matcher=released",
    "train.correspondence.shuffle=false", "train.correspondence.window=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.precompute(tmp_path_factory.mktemp("released") / "store", *EXTRACTION)


def test_a_run_trains_evaluates_and_matches(world: World, store: Path, tmp_path: Path) -> None:
    """Its own pictures, described anew, are matched by the released equations."""
    run = tmp_path / "run"
    ok(*world.command(run, *EXTRACTION, *TRAIN, store=store))
    found = json.loads(ok("evaluate", run, "--json", "--no-floors").stdout)
    assert 0 <= found["metrics"]["pck@10"] <= 1
    # The coordinates of the loss were trained.
    coordinates = load_file(run / "best.safetensors")["layers.x"].numpy()
    moved = np.abs(coordinates - np.linspace(-1, 1, len(coordinates)))
    assert 1e-5 < moved.max() < 0.1

    trained = open_trained(run)
    rng = np.random.default_rng(0)
    sketch, photo = (
        Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).resize(size)
        for size in ((90, 60), (50, 70))
    )
    points = np.array([[10.0, 8.0], [45.0, 30.0], [80.0, 55.0]])
    maps = trained.describe([load_picture(sketch), load_picture(photo)]).spatial.double().numpy()
    side = trained.config.backbone.resolution
    # Both in the middle of black squares: 90 x 60 fills their width, 50 x 70 their height.
    square = points * (side / 90) + (0, (side - round(side * 60 / 90)) // 2)
    width, margin = round(side * 50 / 70), (side - round(side * 50 / 70)) // 2
    expected = released_match(maps[0], maps[1], square, side, 2)
    expected = ((expected - (margin, 0)) / (width, side)).clip(0, 1) * (50, 70)
    np.testing.assert_allclose(match(trained, sketch, photo, points).found, expected, atol=0.05)


@pytest.mark.parametrize("item", ["train.injection.sites=[up.0]", "train.finetune=true"])
def test_sampled_latents_cannot_be_trained_live_from(
    world: World, store: Path, tmp_path: Path, item: str
) -> None:
    items = (*EXTRACTION, "task=retrieval", item, "backbone.sd.source=nowhere")
    if "finetune" in item:
        items = (*items[:-1], "extraction.injection=null")
    line = complaint(*world.command(tmp_path / "run", *items, store=store))
    assert "extraction.latent=sample" in line and "train.injection.sites=none" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("extraction.latent=mean", 'preprocessing.latent: store has "sample", requested nothing'),
        ("extraction.clip_input=square", "preprocessing.clip_input"),
        ("extraction.vae_pixels=signed", "preprocessing.vae_pixels"),
        ("extraction.injection=null", 'injection: store has "random", requested null'),
    ],
)
def test_a_configuration_of_another_store_is_told_the_key(
    world: World, store: Path, tmp_path: Path, item: str, says: str
) -> None:
    line = complaint(*world.command(tmp_path / "run", *EXTRACTION, *TRAIN, item, store=store))
    assert says in line


def test_a_store_of_the_defaults_is_not_taken_for_one(world: World, tmp_path: Path) -> None:
    items = ("task=retrieval", "extraction.clip_input=centre-crop")
    line = complaint(*world.command(tmp_path / "run", *items))
    assert 'preprocessing.clip_input: store has nothing, requested "centre-crop"' in line
