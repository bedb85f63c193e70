"""A run opened for use describes a picture as evaluation did."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cache import FeatureStore
from heads.evaluation.evaluate import reopen
from heads.training.run import RunError, open_run
from heads.use import UseError, load_picture, open_trained, picture_files
from heads.use.trained import N_REMEMBERED
from tests import tiny
from tests.heads.use.conftest import Open
from tests.heads.worlds import World, complaint, ok, save_networks, write_config


def evaluated(run: Path, ids: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Descriptors as `evaluate` has them, from the run's stores."""
    found = reopen(open_run(run), lambda line: None).learner.describe(ids)
    return found.spatial, found.pooled


def described(run: Path, files: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    found = open_trained(run).describe([load_picture(file) for file in files])
    return found.spatial, found.pooled


TASKS = ["correspondence", "retrieval", "recognition", "segmentation"]


@pytest.mark.parametrize("task", TASKS)
def test_a_picture_has_the_descriptor_that_evaluation_gives_it(
    opened: Open, pictures: Path, task: str
) -> None:
    trained = opened(task)
    ids = open_run(trained.run.folder).image_ids()[:6:2]
    expected = evaluated(trained.run.folder, ids)
    found = trained.describe([load_picture(pictures / name) for name in ids])
    for ours, theirs in zip(found[:2], expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    # Another picture is something else, by far more than that.
    assert (found.pooled[0] - found.pooled[1]).abs().max() > 1e-3


CONFIGURED = {
    "float16": ["extraction.store_dtype=float16"],
    "int8, two draws, two timesteps": [
        "extraction.store_dtype=int8", "extraction.ensemble=2", "extraction.timesteps=[100,400]",
        "extraction.seed=3",
    ],
    "bfloat16, black margins": ["extraction.precision=bfloat16", "extraction.pad=black"],
    "injected": ["extraction.injection={root}/injection.safetensors"],
    "as released": [
        "extraction.injection=random", "extraction.clip_input=centre-crop",
        "extraction.latent=sample", "extraction.vae_pixels=bytes", "extraction.pad=black",
    ],
}  # fmt: skip


@pytest.mark.parametrize("items", CONFIGURED.values(), ids=CONFIGURED)
def test_the_runs_own_recipe_is_used(world: World, tmp_path: Path, items: list[str]) -> None:
    """Of pictures in many sizes and formats, through files of one's own."""
    tiny.save_injection(tmp_path / "injection.safetensors")
    files = []
    for kind in ("sketch", "photo"):
        for number, category in enumerate("abcd"):
            seed = len(files)
            files += tiny.write_images(tmp_path / "own" / kind / category, 4, seed=seed + number)
    own = [
        "dataset.name=folder", f"dataset.root={tmp_path / 'own'}", "dataset.size=null",
        "dataset.pixels=null", *(item.format(root=tmp_path) for item in items),
    ]  # fmt: skip
    store = world.precompute(tmp_path / "store", *own)
    run = tmp_path / "run"
    task = ("task=retrieval", "train.protocol=held-out-2", "train.epochs=1", *own)
    ok(*world.command(run, *task, store=store))
    ids = FeatureStore.open(store).ids[::5]
    found, expected = described(run, [tmp_path / "own" / name for name in ids]), evaluated(run, ids)
    for ours, theirs in zip(found, expected, strict=True):
        # Batches of another size round otherwise; in bfloat16 coarsely.
        torch.testing.assert_close(ours, theirs, atol=2e-2 if "bfl" in items[0] else 1e-3, rtol=0)
        assert (ours - theirs).abs().mean() < (2e-3 if "bfl" in items[0] else 1e-4)


@pytest.mark.parametrize("item", ["train.injection.sites=[up.0]", "train.finetune=true"])
def test_what_was_trained_in_front_of_the_head_comes_with_it(
    world: World, pictures: Path, tmp_path: Path, item: str
) -> None:
    run = tmp_path / "run"
    world.train(run, "task=retrieval", "dataset.size=96", "train.epochs=1", item,
                "train.learning_rate=0.01")  # fmt: skip
    ids = open_run(run).image_ids()[:6:2]
    files = [pictures / name for name in ids]
    for ours, theirs in zip(described(run, files), evaluated(run, ids), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)
    if "finetune" in item:
        line = complaint("retrieve", run, files[0], "--gallery", world.store)
        assert "fine-tuned" in line and "folder of photos" in line
        tensors = load_file(run / "best.safetensors")
        assert any(name.startswith("front.") for name in tensors)
    else:
        line = complaint("retrieve", run, files[0], "--gallery", world.store)
        assert "injection" in line
        (run / "injection.safetensors").unlink()
        assert "--resume" in complaint("match", run, files[0], files[1])


def test_neither_dataset_nor_stores_are_needed(
    world: World, pictures: Path, tmp_path: Path
) -> None:
    """The folder goes to another place; only the networks are still where they were."""
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    own = ("dataset.name=folder", f"dataset.root={root}", "dataset.size=null",
           "dataset.pixels=null")  # fmt: skip
    store = world.precompute(tmp_path / "store", *own)
    ok(*world.command(tmp_path / "run", "task=recognition", "train.epochs=1", *own, store=store))
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(root)
    shutil.rmtree(store)
    sketch = pictures / open_run(tmp_path / "moved").image_ids()[0]
    ok("classify", tmp_path / "moved", sketch)
    ok("match", tmp_path / "moved", sketch, sketch)
    assert "store" in complaint("retrieve", tmp_path / "moved", sketch)


def test_pictures_in_memory_are_as_good_as_files(opened: Open, pictures: Path) -> None:
    trained = opened("retrieval")
    path = next(pictures.rglob("sketch/*/*.png"))
    by_path = trained.describe([load_picture(path)]).pooled
    assert torch.equal(trained.describe([load_picture(str(path))]).pooled, by_path)
    assert torch.equal(trained.describe([load_picture(path.read_bytes())]).pooled, by_path)
    canvas = Image.open(path).convert("RGB")
    file = io.BytesIO()
    canvas.save(file, "PNG")
    loaded = load_picture(canvas)
    assert loaded.sha256 == hashlib.sha256(file.getvalue()).hexdigest()
    # A transparent canvas is white paper; modes that PNG lacks are converted.
    clear = load_picture(Image.new("RGBA", (8, 8), (0, 0, 0, 0))).image
    assert np.asarray(clear).min() == 255 and clear.mode == "RGB"
    assert load_picture(Image.new("CMYK", (8, 8))).image.size == (8, 8)


def test_what_was_described_is_remembered(
    opened: Open, monkeypatch: pytest.MonkeyPatch, pictures: Path
) -> None:
    trained = opened("retrieval")
    files = sorted(pictures.rglob("*.png"))[: N_REMEMBERED + 4]
    loaded = [load_picture(file) for file in files]
    whole = trained.describe(loaded)
    assert len(whole.pooled) == len(files)
    asked: list[str] = []
    real = trained.describe_squares

    def counted(squares: np.ndarray, sha256s: list[str], kind: object) -> object:
        asked.extend(sha256s)
        return real(squares, sha256s, kind)

    monkeypatch.setattr(trained, "describe_squares", counted)
    again = trained.describe([loaded[-1], loaded[-2], loaded[-1]])
    assert torch.equal(again.pooled, whole.pooled[[-1, -2, -1]]) and not asked
    first = trained.describe([loaded[0]])
    assert asked == [loaded[0].sha256]
    torch.testing.assert_close(first.pooled[0], whole.pooled[0], atol=1e-5, rtol=0)


# Refusals ---------------------------------------------------------------------------------------


def test_other_weights_than_it_was_trained_on_are_refused(tmp_path: Path) -> None:
    save_networks(tmp_path)
    dataset = {"name": "shapes", "size": 96, "pixels": 64}
    config = write_config(tmp_path / "own.yaml", tmp_path, dataset, epochs=1)
    ok("precompute", config, "--out", tmp_path / "store")
    run = tmp_path / "run"
    ok("train", config, "--cache", tmp_path / "store", "--out", run, "--set", "task=retrieval")
    picture = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(picture)
    for network, path in {
        "unet": tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors",
        "clip": tmp_path / "clip" / "tiny-vit.safetensors",
    }.items():
        whole, tensors = path.read_bytes(), load_file(path)
        # CLIP's text tower is never asked.
        name = next(name for name in tensors if network == "unet" or name.startswith("visual."))
        tensors[name] = tensors[name] + 1
        save_file(tensors, path)
        line = complaint("match", run, picture, picture, "--point", "3,3")
        assert f"({network}: store has" in line and "not the one it was trained on" in line
        path.write_bytes(whole)
    ok("match", run, picture, picture, "--point", "3,3")


def test_runs_that_cannot_be_used(runs: Open, pictures: Path, tmp_path: Path) -> None:
    picture = next(pictures.rglob("*.png"))
    assert "not a run" in complaint("match", tmp_path, picture, picture)
    run = Path(shutil.copytree(runs("correspondence"), tmp_path / "run"))
    facts = (run / "run.json").read_text()
    (run / "run.json").unlink()
    assert "run.json" in complaint("match", run, picture, picture)
    (run / "run.json").write_text(facts)
    other = load_file(runs("retrieval") / "best.safetensors")
    whole = (run / "best.safetensors").read_bytes()
    save_file(
        {k: v.flatten()[:1] for k, v in other.items()},
        run / "best.safetensors",
        {"sketchfusion": "{}"},
    )
    assert "another head" in complaint("match", run, picture, picture)
    (run / "best.safetensors").write_bytes(whole[:100])
    assert "damaged" in complaint("match", run, picture, picture)
    (run / "best.safetensors").unlink()
    assert "no trained weights" in complaint("match", run, picture, picture)


def test_what_was_fitted_belongs_to_the_weights(world: World, runs: Open, tmp_path: Path) -> None:
    run = open_run(Path(shutil.copytree(runs("segmentation"), tmp_path / "run")))
    document = json.loads((run.folder / "fitted.json").read_text())
    expected = reopen(run, lambda line: None)
    threshold = expected.task.fit(expected.learner.describe, expected.learner.layers).numbers
    assert document["numbers"] == pytest.approx(threshold)
    # Further training gives other weights: the old threshold is not theirs.
    document["weights"] = "0" * 64
    hostile = json.dumps(document | {"weights": run.weights_digest(), "numbers": {"threshold": 0}})
    hostile_numbers = [hostile.replace(": 0}", f": {text}}}") for text in ("9" * 400, "NaN")]
    others = ("{}", "[1]", "[" * 100_000, "cut off {", None)
    for text in (json.dumps(document), *hostile_numbers, *others):
        if text is None:
            (run.folder / "fitted.json").unlink()
        else:
            (run.folder / "fitted.json").write_text(text)
        with pytest.raises(RunError, match=f"`sketchfusion evaluate {run.folder}` writes it"):
            run.read_fitted(run.weights_digest())
    ok("evaluate", run.folder, "--no-floors")
    assert run.read_fitted(run.weights_digest()).numbers == pytest.approx(threshold)


def test_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UseError, match=r"text\.png: not an image"):
        load_picture(tmp_path / "text.png")
    with pytest.raises(UseError, match="not an image"):
        load_picture(b"nothing")
    with pytest.raises(UseError, match="no such file"):
        picture_files([tmp_path / "nowhere.png"])
    with pytest.raises(UseError, match="cannot be read"):
        load_picture(tmp_path / "nowhere.png")
    with pytest.raises(UseError, match="cannot be read"):
        load_picture(tmp_path)
