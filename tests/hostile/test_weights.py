"""Model files from a stranger: no code runs, nothing absurd is allocated, one line says why."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from configs import ClipConfig, SDConfig
from heads.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from pipeline.networks.checkpoints import BackboneError, check_safetensors
from pipeline.networks.clip import load_clip
from pipeline.networks.injection import InjectionError, load_injection, open_injection
from pipeline.networks.stable_diffusion import load_stable_diffusion, random_stable_diffusion
from tests import tiny
from tests.heads.worlds import complaint, write_config
from tests.hostile.bounds import bounded
from tests.hostile.mutate import damaged, damaged_json

CHANNELS = dict(zip(tiny.SITES, (32, 64, 64, 64, 64, 64, 64), strict=True))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("networks")
    tiny.save_tiny_sd(root / "sd", text="null_prompt")
    tiny.save_tiny_clip(root / "clip", image_size=64)
    tiny.write_images(root / "pictures" / "one", 1)
    write_config(root / "c.yaml", root, {"name": "folder", "root": str(root / "pictures")})
    return root


def try_all(
    file: Path, cases: Iterable[Any], load: Callable[[], object], error: type[Exception]
) -> None:
    """Every case loads or raises the room's error; the file is as before in the end."""
    sound = file.read_bytes()
    try:
        for case in cases:
            file.write_bytes(case if isinstance(case, bytes) else json.dumps(case).encode())
            try:
                load()
            except error as why:
                assert str(why)
    finally:
        file.write_bytes(sound)


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_damaged_injections(tmp_path: Path) -> None:
    file = tiny.save_injection(tmp_path / "i.safetensors", sites=("down.1", "up.0"))
    data = file.read_bytes()
    n = int.from_bytes(data[:8], "little")
    headers = damaged_json(json.loads(data[8 : 8 + n]), 60, seed=2)
    cases = [*damaged(data, 60, seed=1), *(safetensors(h, data[8 + n :]) for h in headers)]
    try_all(file, cases, lambda: open_injection(file), InjectionError)
    try_all(file, cases, lambda: load_injection(file, 32, CHANNELS), InjectionError)


def test_an_injection_of_no_values_allocates_nothing(tmp_path: Path) -> None:
    """Its shapes promise 10^12 channels of nothing; the bias would have been real."""
    nothing = {"dtype": "F32", "data_offsets": [0, 0]}
    header = {
        "down.0.weight": {**nothing, "shape": [10**12, 0, 1, 1]},
        "down.0.bias": {**nothing, "shape": [0]},
    }
    (tmp_path / "i.safetensors").write_bytes(safetensors(header))
    found = bounded(lambda: open_injection(tmp_path / "i.safetensors"), mib=128)
    assert found.startswith("InjectionError: ")


@pytest.mark.parametrize("claimed", [2**60, 2**63, 2**64 - 1, 10**8])
def test_a_header_that_claims_the_world(tmp_path: Path, claimed: int) -> None:
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(claimed.to_bytes(8, "little") + b"{}")
    for load in (
        lambda: open_injection(file),
        lambda: check_safetensors(tmp_path, "diffusion_pytorch_model"),
        lambda: load_checkpoint(file),
    ):
        found = bounded(load, mib=256)
        assert found.startswith(("InjectionError: ", "BackboneError: ", "CheckpointError: "))


def test_damaged_checkpoints(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    save_checkpoint(file, Checkpoint({"model.a": torch.zeros(3, 4)}, {"step": 1, "epoch": 2}))
    try_all(
        file, damaged(file.read_bytes(), 100, 3), lambda: load_checkpoint(file), CheckpointError
    )
    for facts in ("[1]", "null", "[" * 10_000, "{", "1e400"):
        file.write_bytes(safetensors({"__metadata__": {"sketchfusion": facts}}))
        with pytest.raises(CheckpointError):
            load_checkpoint(file)


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler"])
def test_damaged_model_configurations(networks: Path, part: str) -> None:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    file = networks / "sd" / part / name
    config = SDConfig(source=str(networks / "sd"))
    documents = list(damaged_json(json.loads(file.read_bytes()), 5, seed=4))
    try_all(file, documents, lambda: load_stable_diffusion(config), BackboneError)
    try_all(file, documents, lambda: random_stable_diffusion(config), BackboneError)


def test_damaged_clip(networks: Path) -> None:
    model, weights = networks / "clip" / "tiny-vit.json", networks / "clip" / "tiny-vit.safetensors"
    config = ClipConfig(model=str(model), pretrained=str(weights))
    documents = damaged_json(json.loads(model.read_bytes()), 25, seed=5)
    try_all(model, documents, lambda: load_clip(config, 64, random_weights=True), BackboneError)
    try_all(
        weights, damaged(weights.read_bytes(), 15, 6), lambda: load_clip(config, 64), BackboneError
    )


ABSURD = [
    ("sd/unet/config.json", {"block_out_channels": [10**9] * 4}),
    ("sd/unet/config.json", {"block_out_channels": [10**6] * 4}),
    ("sd/unet/config.json", {"layers_per_block": 10**9}),
    ("sd/unet/config.json", {"cross_attention_dim": 10**400}),
    ("sd/unet/config.json", {"norm_eps": "x"}),
    ("sd/unet/config.json", {"quantization_config": {"load_in_8bit": True}}),
    ("sd/vae/config.json", {"block_out_channels": [10**6] * 4}),
    ("sd/vae/config.json", {"norm_num_groups": True}),
    ("sd/scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
    ("sd/scheduler/scheduler_config.json", {"beta_end": 50.0}),
    ("clip/tiny-vit.json", {"embed_dim": 10**9}),
    ("clip/tiny-vit.json", {"vision_cfg": {"width": 2**20, "layers": 60, "patch_size": 16}}),
    ("clip/tiny-vit.json", {"vision_cfg": {"timm_model_name": "hf-hub:somebody/something"}}),
    ("clip/tiny-vit.json", {"text_cfg": {"hf_model_name": "somebody/something"}}),
]


@pytest.mark.parametrize(("file", "change"), ABSURD)
def test_absurd_networks_are_refused_before_they_are_built(
    networks: Path, file: str, change: dict[str, Any]
) -> None:
    path = networks / file
    sound = path.read_bytes()
    path.write_text(json.dumps({**json.loads(sound), **change}))
    try:
        arguments = ["precompute", networks / "c.yaml", "--set", "backbone.weights=random"]
        line = bounded(lambda: complaint(*arguments), mib=1024, seconds=60)
        assert "Error: " in line and "AssertionError" not in line, line
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "", "\ufeff{}", "[]"])
def test_json_that_is_none(networks: Path, text: str) -> None:
    path = networks / "sd" / "unet" / "config.json"
    sound = path.read_bytes()
    path.write_text(text)
    try:
        with pytest.raises(BackboneError, match=r"config\.json"):
            load_stable_diffusion(SDConfig(source=str(networks / "sd")))
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", 5, None, ["x"], "x.bin"]
)
def test_an_index_names_files_beside_it_only(tmp_path: Path, name: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(BackboneError, match="beside it"):
        check_safetensors(tmp_path, "model")
    for weight_map in ([], "x", None, {}):
        text = json.dumps({"weight_map": weight_map})
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(BackboneError, match="no weight_map"):
            check_safetensors(tmp_path, "model")


class _Trap:
    """What runs where somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_pickled_weights_run_nothing(networks: Path, tmp_path: Path) -> None:
    clip = networks / "clip" / "tiny-vit.json"
    mark = tmp_path / "ran"
    for name in ("new.pt", "old.pt", "plain.pkl", "x.npy", "x.npz"):
        path = tmp_path / name
        if name == "plain.pkl":
            path.write_bytes(pickle.dumps(_Trap(mark)))
        else:
            torch.save(
                {"state_dict": _Trap(mark)}, path, _use_new_zipfile_serialization=name != "old.pt"
            )
        with pytest.raises(BackboneError, match=r"safetensors|cannot be loaded"):
            load_clip(ClipConfig(model=str(clip), pretrained=str(path)), 64)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Trap(mark)))
    assert mark.exists()  # the trap would have gone off


def test_compressed_weights_are_not_inflated(networks: Path, tmp_path: Path) -> None:
    clip, weights = (networks / "clip" / f"tiny-vit.{e}" for e in ("json", "safetensors"))
    sound, bomb = tmp_path / "sound.pt", tmp_path / "bomb.pt"
    torch.save(load_file(weights), sound)
    assert load_clip(ClipConfig(model=str(clip), pretrained=str(sound)), 64).width == 32
    with (
        zipfile.ZipFile(sound) as archive,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as inflated,
    ):
        for entry in archive.infolist():
            inflated.writestr(entry.filename, archive.read(entry))
        inflated.writestr("sound/data/999", bytes(2**26))
    config = ClipConfig(model=str(clip), pretrained=str(bomb))
    assert "is compressed" in bounded(lambda: load_clip(config, 64), mib=512)
