"""Stores of a timm backbone: timm's own numbers, through the same machinery as every store."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
import zarr
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import Tensor

from cache import FeatureStore, verify_store
from cli import main
from configs import BackboneConfig, ConfigError, TimmConfig, load_config
from pipeline.compute import Progress
from pipeline.cost import measure_cost
from pipeline.extraction.extract import ExtractionError
from pipeline.extraction.vision import DINO_POOLED, DINO_TOKENS, VisionExtractor
from pipeline.networks.backbone import load_backbone
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.vision import VisionTower, load_vision
from pipeline.precompute import precompute
from tests import tiny
from tests.oracle.images import letterbox, read_rgb

WIDTH, HEADS, PATCH, TRAINED = 32, 2, 14, 98
SMALL = {"embed_dim": WIDTH, "depth": 2, "num_heads": HEADS, "init_values": 0.5}
ARCHITECTURES = {0: "vit_small_patch14_dinov2", 4: "vit_small_patch14_reg4_dinov2"}
"""By number of registers; only without them have the position embeddings a place for CLS."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As dask's workers have, so that bytes can be compared."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def save_vit(folder: Path, n_registers: int = 0, seed: int = 0, **changes: Any) -> TimmConfig:
    """A small DINOv2, trained at 98 px so to speak: timm's JSON configuration and its weights."""
    arguments = SMALL | changes
    name = ARCHITECTURES[n_registers]
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=0, img_size=TRAINED, **arguments)
    weights = {
        key: value + 0.1 * torch.randn_like(value) for key, value in model.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    document = {"architecture": name, "model_args": arguments}
    (folder / "vit.json").write_text(json.dumps(document))
    save_file(weights, folder / "vit.safetensors")
    return TimmConfig(model=str(folder / "vit.json"), pretrained=folder / "vit.safetensors")


def oracle(config: TimmConfig, path: Path, resolution: int, pad: str) -> dict[str, np.ndarray]:
    """timm at the size the weights were trained at, which interpolates positions as it runs."""
    document = json.loads(Path(config.model).read_text())
    model = timm.create_model(
        document["architecture"],
        num_classes=0,
        img_size=TRAINED,
        dynamic_img_size=True,
        **document["model_args"],
    ).eval()
    assert config.pretrained is not None
    model.load_state_dict(load_file(config.pretrained))
    square = letterbox(read_rgb(path), resolution, pad)
    pixels = (square.transpose(2, 0, 1) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
        STD, (3, 1, 1)
    )
    with torch.no_grad():
        sequence = model.forward_features(torch.tensor(pixels, dtype=torch.float32)[None])[0]
    side = resolution // PATCH
    n_prefix = 1 + (4 if "reg4" in document["architecture"] else 0)
    assert len(sequence) == n_prefix + side * side
    grid = sequence[n_prefix:].reshape(side, side, WIDTH)
    return {
        DINO_TOKENS: grid.permute(2, 0, 1).numpy(),
        DINO_POOLED: sequence[0].numpy(),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DINOv2 at 70 px, pictures and a configuration that names them by relative paths."""
    root = tmp_path_factory.mktemp("world")
    save_vit(root / "model")
    save_vit(root / "registers", n_registers=4)
    save_vit(root / "other", seed=1)
    tiny.write_images(root / "pictures", 11)
    config = {
        "backbone": {
            "timm": {"model": "model/vit.json", "pretrained": "model/vit.safetensors"},
            "resolution": 70,
        },
        "dataset": {"name": "folder", "root": "pictures"},
        "extraction": {
            "store_dtype": "float32",
            "shard_size": 4,
            "batch_size": 3,
            "workers": 0,
            "device": "cpu",
        },
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root


def run(world: Path, out: Path, *sets: str, extra: Sequence[str] = ()) -> Result:
    arguments = ["precompute", str(world / "config.yaml"), "--out", str(out), *extra]
    for item in sets:
        arguments += ["--set", item]
    return CliRunner().invoke(main, arguments)


def of(world: Path, folder: str) -> list[str]:
    """Overrides that choose another model of the world."""
    return [
        f"backbone.timm.model={world / folder / 'vit.json'}",
        f"backbone.timm.pretrained={world / folder / 'vit.safetensors'}",
    ]


def array_bytes(store: Path) -> dict[str, str]:
    files = sorted(path for path in (store / "dino").rglob("*") if path.is_file())
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def store(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "store"
    result = run(world, out)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize(
    ("folder", "resolution", "pad"),
    [
        ("model", 98, "edge"),  # as trained
        ("model", 70, "edge"),
        ("model", 126, "white"),
        ("registers", 98, "edge"),
        ("registers", 70, "stretch"),
    ],
)
def test_plain_zarr_reads_timms_numbers(
    world: Path, tmp_path: Path, folder: str, resolution: int, pad: str
) -> None:
    sets = [*of(world, folder), f"backbone.resolution={resolution}", f"extraction.pad={pad}"]
    result = run(world, tmp_path / "s", *sets)
    assert result.exit_code == 0, result.output
    assert verify_store(tmp_path / "s").sound
    opened = FeatureStore.open(tmp_path / "s")
    assert set(opened.arrays) == {DINO_TOKENS, DINO_POOLED}
    group = zarr.open_group(tmp_path / "s", mode="r")
    config = TimmConfig(
        model=str(world / folder / "vit.json"), pretrained=world / folder / "vit.safetensors"
    )
    for row, image_id in enumerate(opened.ids):
        expected = oracle(config, world / "pictures" / image_id, resolution, pad)
        for name, value in expected.items():
            np.testing.assert_allclose(group[name][row], value, atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    "sets",
    [
        ("extraction.batch_size=1",),
        ("extraction.batch_size=64",),
        ("extraction.workers=2",),
    ],
    ids=" ".join,
)
def test_the_way_it_was_computed_changes_no_byte(
    world: Path, store: Path, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    assert run(world, tmp_path / "s", *sets).exit_code == 0
    assert FeatureStore.open(tmp_path / "s").fingerprint == FeatureStore.open(store).fingerprint
    assert array_bytes(tmp_path / "s") == array_bytes(store)


def test_parts_and_dask_workers_make_the_same_bytes(
    world: Path, store: Path, tmp_path: Path
) -> None:
    assert run(world, tmp_path / "s", extra=["--part", "2/2"]).exit_code == 0
    result = run(world, tmp_path / "s", extra=["--workers", "1"])
    assert result.exit_code == 0, result.output
    assert array_bytes(tmp_path / "s") == array_bytes(store)
    again = run(world, tmp_path / "s", extra=["--json"])
    assert json.loads(again.stdout)["n_computed"] == 0


def test_an_interrupted_run_goes_on(world: Path, store: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 8:
            while not list((tmp_path / "s").glob("commits/*.json")):
                time.sleep(0.005)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        precompute(load_config(world / "config.yaml"), tmp_path / "s", listener=stop)
    n_done = FeatureStore.open(tmp_path / "s").committed[DINO_TOKENS].sum()
    assert 0 < n_done < 11
    result = run(world, tmp_path / "s", extra=["--json"])
    assert json.loads(result.stdout)["n_computed"] == 11 - n_done
    assert array_bytes(tmp_path / "s") == array_bytes(store)


def test_images_join_and_bad_ones_are_quarantined(world: Path, store: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    few = tiny.write_images(pictures, 6)
    assert run(world, tmp_path / "s", f"dataset.root={pictures}").exit_code == 0
    tiny.write_images(pictures, 11)
    (pictures / "words.png").write_text("not a picture")
    result = run(world, tmp_path / "s", f"dataset.root={pictures}", extra=["--json"])
    report = json.loads(result.stdout)
    assert set(report["quarantined"]) == {"words.png"}
    # The unfinished shard's old rows are kept; new rows of it and new shards are computed.
    assert (report["n_computed"], report["n_quarantined"]) == (5, 1)
    assert verify_store(tmp_path / "s").sound
    grown, whole = FeatureStore.open(tmp_path / "s"), FeatureStore.open(store)
    assert len(few) == 6
    names = [DINO_TOKENS, DINO_POOLED]
    a, b = grown.read(whole.ids, names), whole.read(whole.ids, names)
    for name in names:
        assert torch.equal(a[name], b[name])


def test_what_belongs_to_diffusion_is_not_in_the_recipe(world: Path, store: Path) -> None:
    recipe = FeatureStore.open(store).recipe.fields
    assert set(recipe) == {"vision", "resolution", "preprocessing", "precision", "store_dtype"}
    sets = ("seed=9", "ensemble=3", "timesteps=[7, 8]", "layers=[s3]")
    result = run(world, store, *(f"extraction.{item}" for item in sets), extra=["--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_computed"] == 0
    provenance = json.loads((store / "zarr.json").read_text())["attributes"]["provenance"]
    assert provenance["backbone"]["timm"]["model"].endswith("vit.json")
    assert provenance["timm"] == timm.__version__


@pytest.mark.parametrize(
    ("sets", "field"),
    [
        (("other",), "vision"),
        (("registers",), "vision"),
        (("backbone.resolution=84",), "resolution"),
        (("extraction.pad=black",), "preprocessing.pad"),
        (("extraction.precision=bfloat16",), "precision"),
    ],
)
def test_a_store_of_something_else_is_refused_by_the_field(
    world: Path, store: Path, sets: tuple[str, ...], field: str
) -> None:
    before = array_bytes(store)
    overrides = [i for item in sets for i in ([item] if "=" in item else of(world, item))]
    result = run(world, store, *overrides)
    assert result.exit_code == 1
    assert f"{field}: store has" in result.stderr
    # Weights are digested as trained, so another size is not another model.
    assert field == "vision" or "vision" not in result.stderr
    assert array_bytes(store) == before


def test_the_digest_is_of_weights_and_architecture(world: Path, tmp_path: Path) -> None:
    plain = load_vision(backbone(world / "model")).digest
    assert load_vision(backbone(world / "model", resolution=98)).digest == plain
    save_vit(tmp_path / "heads", num_heads=4)
    assert load_vision(backbone(tmp_path / "heads")).digest != plain
    document = json.loads((world / "model" / "vit.json").read_text())
    (tmp_path / "vit.json").write_text(json.dumps(document | {"pretrained_cfg": {"mean": [0] * 3}}))
    (tmp_path / "vit.safetensors").write_bytes((world / "model" / "vit.safetensors").read_bytes())
    shifted = load_vision(backbone(tmp_path))
    assert shifted.digest != plain
    assert (shifted.mean, shifted.std) == ((0, 0, 0), STD)


def backbone(folder: Path, **changes: Any) -> BackboneConfig:
    given = {"model": str(folder / "vit.json"), "pretrained": folder / "vit.safetensors"}
    keys = {key: changes.pop(key) for key in ("model", "pretrained") if key in changes}
    return BackboneConfig(timm=TimmConfig(**given | keys), **{"resolution": 70} | changes)


def test_a_classifier_and_the_training_token_are_left_out(world: Path, tmp_path: Path) -> None:
    """Files as their authors publish them hold more than the tower."""
    weights = load_file(world / "model" / "vit.safetensors")
    more = {"head.weight": torch.ones(5, WIDTH), "head.bias": torch.ones(5)}
    more["mask_token"] = torch.ones(1, WIDTH)
    save_file(weights | more, tmp_path / "whole.safetensors")
    whole = load_vision(backbone(world / "model", pretrained=tmp_path / "whole.safetensors"))
    assert whole.digest == load_vision(backbone(world / "model")).digest


@pytest.mark.parametrize("name", ["test_vit2", "test_vit3"])
def test_without_cls_the_models_own_pooling_is_the_descriptor(name: str) -> None:
    """One averages and then normalises, the other has an attention pool; both have a register."""
    config = BackboneConfig(timm=TimmConfig(model=name), resolution=96, weights="random")
    tower = load_vision(config)
    squares = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    tokens, pooled = tower.encode(squares)
    model: Any = tower.model
    pixels = (squares / 255 - 0.5) / 0.5
    with torch.no_grad():
        torch.testing.assert_close(pooled, model(pixels), atol=1e-4, rtol=0)
        sequence = model.forward_features(pixels)[:, 1:]
    torch.testing.assert_close(tokens.flatten(2).transpose(1, 2), sequence, atol=1e-4, rtol=0)
    assert tower.digest == load_vision(config).digest


class Small(VisionTower):
    """Has room for only so many images."""

    limit = 2

    def encode(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        if len(squares) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(squares)


def test_the_batch_is_halved_when_memory_runs_out(world: Path) -> None:
    tower = load_vision(backbone(world / "model"))
    squares = np.random.default_rng(0).integers(0, 256, (7, 3, 70, 70), np.uint8)
    names = [DINO_TOKENS, DINO_POOLED]
    expected = VisionExtractor(tower, 7)(squares, ["x"] * 7, names)
    small = Small(**vars(tower))
    extractor = VisionExtractor(small, 8)
    found = extractor(squares, ["x"] * 7, names)
    assert extractor.batch_size == 2
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])
    object.__setattr__(small, "limit", 0)
    with pytest.raises(ExtractionError, match="does not fit"):
        extractor(squares, ["x"] * 7, names)


def test_plan_counts_the_presets(tmp_path: Path) -> None:
    """Operations of ViT-B by arithmetic: two per multiply-add of every matrix product."""
    for name, patch, side in (("dino", 16, 21), ("dinov2", 14, 24)):
        arguments = ["plan", "demo", "--set", f"backbone={name}", "--json"]
        result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "s")])
        assert result.exit_code == 0, result.output
        plan = json.loads(result.stdout)
        n, d = side * side + 1, 768
        blocks = 12 * (2 * 12 * n * d * d + 2 * 2 * n * n * d)
        counted = plan["flops_per_image"]
        assert counted["vision"] == blocks + 2 * side * side * 3 * patch * patch * d
        assert counted["total"] == counted["vision"]
        assert plan["bytes_per_image"][DINO_TOKENS] == pytest.approx(d * side * side * 2, abs=8)
    text = CliRunner().invoke(main, ["plan", "demo", "--set", "backbone=dinov2"]).stdout
    assert "vision transformer 111" in text
    assert "VAE" not in text


def test_the_counted_shapes_are_the_stores(world: Path, store: Path) -> None:
    config = load_config(world / "config.yaml")
    geometry = measure_cost(config.backbone, config.extraction).geometry
    assert geometry.tokens == FeatureStore.open(store).arrays[DINO_TOKENS].shape
    arguments = ["plan", str(world / "config.yaml"), "--out", str(store), "--json"]
    assert json.loads(CliRunner().invoke(main, arguments).stdout)["images_to_do"] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{timm: {model: a}, sd: {source: nano}, clip: {model: nano}}", "not both"),
        ("{timm: {model: a}, clip: {model: nano}}", "not both"),
        ("{}", "give either sd and clip, or timm"),
        ("{sd: {source: nano}}", "clip is missing"),
        ("{clip: {model: nano}}", "sd is missing"),
        ("{timm: {pretrained: null}}", "backbone.timm.model is missing"),
        ("{timm: vit}", "a section"),
        ("{timm: {model: a, modle: b}}", "unknown key backbone.timm.modle; did you mean"),
        ("{timm: {model: a, pretrained: ''}}", "empty"),
    ],
)
def test_a_backbone_is_of_exactly_one_kind(tmp_path: Path, text: str, says: str) -> None:
    document = {"backbone": {"resolution": 64} | yaml.safe_load(text), "dataset": "shapes"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match="backbone") as caught:
        load_config(tmp_path / "c.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_reach_into_either_kind() -> None:
    sets = ["backbone=dinov2", "backbone.timm.model=vit_base_patch16_224.dino"]
    assert load_config("demo", sets).backbone.label == "dinov2"
    assert load_config("demo", ["backbone.sd.revision=main"]).backbone.timm is None
    with pytest.raises(ConfigError, match=r"did you mean backbone\.timm\.model"):
        load_config("demo", ["backbone=dinov2", "backbone.timm.modl=x"])


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["backbone.timm.model=vit_base_patch14_dinov3"], "did you mean vit_base_patch"),
        (["backbone.timm.model=hf-hub:timm/vit"], "no model of that name"),
        (["backbone.timm.model=vit_base_patch14_dinov2.imagenet"], "tags: lvd142m"),
        (["backbone.timm.model=resnet50"], "use a vision transformer"),
        (["backbone.timm.model=swin_tiny_patch4_window7_224", "backbone.resolution=224"], "vision"),
        (["backbone.timm.model=nowhere.json"], "missing"),
        (["backbone.timm.pretrained=nowhere.safetensors"], "no such file"),
        (["backbone.timm.pretrained=null"], "backbone.timm.pretrained is not set"),
        (["backbone.resolution=100"], "patch size 14; use 98"),
        (["extraction.injection=some.safetensors"], "no UNet"),
        (["extraction.prefix=mid", "extraction.injection=null"], "extraction.prefix"),
        (["extraction.prefix=up.0"], "no UNet"),
        (["extraction.prefix=up.0", "backbone.timm.pretrained=nowhere.safetensors"], "no UNet"),
        (["extraction.device=cuda:99"], "not available"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_in_one_line(
    world: Path, tmp_path: Path, sets: list[str], says: str
) -> None:
    result = run(world, tmp_path / "s", *sets)
    assert result.exit_code == 1, result.output
    assert says in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "s").exists()


def refusal(config: BackboneConfig) -> str:
    with pytest.raises(BackboneError) as caught:
        load_vision(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_weights_are_refused(world: Path, tmp_path: Path) -> None:
    weights = load_file(world / "model" / "vit.safetensors")

    def refused(tensors: dict[str, Tensor]) -> str:
        save_file(tensors, tmp_path / "w.safetensors")
        return refusal(backbone(world / "model", pretrained=tmp_path / "w.safetensors"))

    torch.save(weights, tmp_path / "w.pth")
    pickled = refusal(backbone(world / "model", pretrained=tmp_path / "w.pth"))
    assert "convert them to safetensors" in pickled
    torch.save(weights, tmp_path / "renamed.safetensors")
    renamed = refusal(backbone(world / "model", pretrained=tmp_path / "renamed.safetensors"))
    assert "not safetensors" in renamed
    whole = (world / "model" / "vit.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    cut = refusal(backbone(world / "model", pretrained=tmp_path / "cut.safetensors"))
    assert "truncated" in cut

    assert "norm.weight" in refused({k: v for k, v in weights.items() if k != "norm.weight"})
    assert "extra" in refused(weights | {"extra": torch.ones(1)})
    assert "norm.weight" in refused(weights | {"norm.weight": torch.ones(WIDTH + 1)})
    assert "another model" in refused(
        weights | {"patch_embed.proj.weight": torch.ones(WIDTH, 3, 16, 16)}
    )
    assert "cannot be loaded" in refused(weights | {"pos_embed": torch.ones(1, 12, WIDTH)})
    assert "no weights" in refused({"head.weight": torch.ones(1)})
    assert "cannot be loaded" in refusal(
        backbone(world / "model", pretrained=world / "registers" / "vit.safetensors")
    )


def test_a_bad_json_configuration_is_refused(world: Path, tmp_path: Path) -> None:
    def refused(document: object) -> str:
        (tmp_path / "c.json").write_text(json.dumps(document))
        return refusal(backbone(world / "model", model=str(tmp_path / "c.json")))

    name = ARCHITECTURES[0]
    assert "JSON object" in refused([1])
    assert "not a timm configuration" in refused({"model_args": {}})
    assert "not a timm configuration" in refused({"architecture": name, "model_args": [1]})
    assert "did you mean" in refused({"architecture": "vit_small_patch14_dinov"})
    assert "cannot build" in refused({"architecture": name, "model_args": {"embed_dim": 33}})
    assert "three numbers" in refused(
        {"architecture": name, "model_args": SMALL, "pretrained_cfg": {"mean": [0.5]}}
    )
    # Nothing in a configuration makes timm open another, possibly pickled, file.
    pickle = tmp_path / "w.pth"
    torch.save({"evil": torch.ones(1)}, pickle)
    document = {"architecture": name, "model_args": SMALL | {"checkpoint_path": str(pickle)}}
    (tmp_path / "c.json").write_text(json.dumps(document))
    load_vision(backbone(world / "model", model=str(tmp_path / "c.json")))


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(load_config("demo", ["backbone=dinov2"]).backbone)
    assert "backbone.timm.pretrained" in message
    assert "backbone.weights=random" in message


def test_what_needs_stable_diffusion_says_so(world: Path) -> None:
    with pytest.raises(BackboneError, match="neither Stable Diffusion nor CLIP"):
        load_backbone(backbone(world / "model"))
    with pytest.raises(BackboneError, match="not a timm model"):
        load_vision(load_config("demo").backbone)
