"""Stores from before networks were named by their values: read, grown and repaired as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cache import FeatureStore, Recipe, RecipeMismatch, StoreError, verify_store
from cache.format.metadata import RootDocument
from configs import Config, load_config
from heads.evaluation.baselines import find_baselines
from heads.sources import CachedFeatures
from heads.training.run import Run
from pipeline.job import load_networks
from pipeline.precompute import default_store, precompute
from pipeline.repair import repair
from tests import tiny

OLD_FIELDS = {
    "clip": "2fc38140368794710a010a9bba06739ec37150c740ce318c7243d47ea80e638e",
    "ensemble": 1,
    "injection": None,
    "null_prompt": "f0a101f789f82ca197dbc79741875c07eb63c54eb4ee51128b2fdad3418bf462",
    "precision": "float32",
    "preprocessing": {"drawing_side": 384, "pad": "edge", "resize": "lanczos"},
    "resolution": 96,
    "scheduler": "3980136561b49d99e23b6bb9c78bf2af67fe314b62571267f62b0333d01f5157",
    "seed": 0,
    "store_dtype": "float16",
    "unet": "743a6c372c757bf77380ad5ff0851d0258084b017ccde83cbf5daa93b54840c7",
    "vae": "e46bc3270c9cd27db4f795f334f841e082f84a19820242a75f1b8c71a89432e7",
}
"""The recipe of a store of the built-in backbone, as every release so far wrote it."""
OLD_FINGERPRINT = "486321145ba2c92a0f480cfdda1552c098b951b0cd0a838a7959a625471fdfd1"
ARRAYS = ["clip/tokens", "sd/t195/s5"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The built-in backbone on two pictures."""
    root = tmp_path_factory.mktemp("pictures")
    tiny.write_images(root, 2)
    path = root / "config.yaml"
    path.write_text(
        f"backbone: nano\ndataset: {{name: folder, root: {root}}}\n"
        "extraction: {timesteps: [195], layers: [s5], workers: 0, batch_size: 2, device: cpu}\n"
    )
    return load_config(path)


@pytest.fixture(scope="module")
def recipe(config: Config) -> Recipe:
    """What the configuration asks of a store."""
    return load_networks(config).recipe


@pytest.fixture(scope="module")
def present(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as it is made now."""
    place = tmp_path_factory.mktemp("present") / "store"
    precompute(config, place)
    return place


def as_older(store: Path, place: Path, **fields: object) -> Path:
    """A copy with the root document that an earlier release would have written."""
    shutil.copytree(store, place)
    provenance = json.loads((store / "zarr.json").read_bytes())["attributes"]["provenance"]
    del provenance["aliases"]
    root = RootDocument(Recipe({**OLD_FIELDS, **fields}), 64, provenance)
    (place / "zarr.json").write_bytes(root.to_bytes())
    return place


@pytest.fixture
def older(present: Path, tmp_path: Path) -> Path:
    return as_older(present, tmp_path / "older")


def with_one_more(config: Config, root: Path) -> Config:
    """The configuration with a copy of its pictures, and one picture more."""
    shutil.copytree(config.dataset.root, root)
    tiny.write_images(root / "more", 1, seed=9)
    dataset = config.dataset.model_copy(update={"root": root})
    return config.model_copy(update={"dataset": dataset})


def test_an_older_store_grows_under_its_own_fingerprint(
    config: Config, older: Path, tmp_path: Path
) -> None:
    before = (older / "zarr.json").read_bytes()
    report = precompute(with_one_more(config, tmp_path / "pictures"), older)
    assert report.fingerprint == OLD_FINGERPRINT
    assert (report.n_images, report.n_computed) == (3, 1)
    assert (older / "zarr.json").read_bytes() == before
    assert verify_store(older).sound


def test_an_older_store_is_found_where_it_was_put(
    config: Config,
    recipe: Recipe,
    present: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe.fingerprint == FeatureStore.open(present).fingerprint != OLD_FINGERPRINT
    new = Path("stores") / f"folder-{recipe.fingerprint[:12]}"
    assert default_store(config, recipe) == new
    old = as_older(present, tmp_path / "stores" / f"folder-{OLD_FINGERPRINT[:12]}")
    report = precompute(config)
    assert Path(report.store).resolve() == old
    assert (report.fingerprint, report.n_computed) == (OLD_FINGERPRINT, 0)


def test_older_and_present_stores_of_one_recipe_are_read_together(
    config: Config, present: Path, older: Path, tmp_path: Path
) -> None:
    """Without the networks: the present one says what older ones call them."""
    grown = with_one_more(config, tmp_path / "pictures")
    precompute(grown, tmp_path / "three")
    stores = [FeatureStore.open(older), FeatureStore.open(tmp_path / "three")]
    assert stores[0].fingerprint != stores[1].fingerprint
    for order in (stores, stores[::-1]):
        source = CachedFeatures(order, ARRAYS, torch.device("cpu"))
        assert len(source.ids) == 3
        found, missing = find_baselines(
            grown, [FeatureStore.open(store.path) for store in order], source.ids
        )
        assert "B-CLIP" in {baseline.name for baseline in found}, missing
    run = tmp_path / "run"
    run.mkdir()
    for one, other in (stores, stores[::-1]):
        entry = {
            "path": str(one.path),
            "fingerprint": one.fingerprint,
            "recipe": dict(one.recipe.fields),
            "provenance": {"aliases": dict(one.recipe.aliases)},
        }
        (run / "run.json").write_text(json.dumps({"stores": [entry]}))
        Run(run).check_stores([other])


@pytest.mark.parametrize("field", ["unet", "vae", "null_prompt", "scheduler", "clip", "seed"])
def test_an_older_store_of_something_else_is_refused(
    recipe: Recipe, present: Path, tmp_path: Path, field: str
) -> None:
    place = as_older(present, tmp_path / "other", **{field: 7 if field == "seed" else "0" * 64})
    with pytest.raises(RecipeMismatch) as caught:
        FeatureStore.open(place, recipe)
    assert f"({field}: store has" in str(caught.value) and "; precompute" in str(caught.value)
    assert str(caught.value).count("store has") == 1


def test_the_root_document_of_an_older_store_is_repaired(config: Config, older: Path) -> None:
    path = older / "zarr.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"fingerprint": "486321', b'"fingerprint": "586321'))
    with pytest.raises(StoreError):
        FeatureStore.open(older)
    assert repair(config, older).sound
    assert path.read_bytes() == whole


def test_the_activation_is_in_the_recipe_of_a_present_store(present: Path, older: Path) -> None:
    recipe = FeatureStore.open(present).recipe
    assert recipe.fields["clip_activation"] == "gelu"
    assert "clip_activation" not in FeatureStore.open(older).recipe.fields
    other = recipe.updated({"clip_activation": "quick_gelu"})
    assert other.fingerprint != recipe.fingerprint
    assert [line.split(":")[0] for line in recipe.differences(other)] == ["clip_activation"]
