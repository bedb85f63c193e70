"""Checkpoints as people have them: half-precision variants, pickles, unreachable hubs."""

from __future__ import annotations

import fnmatch
import json
import shlex
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import open_clip
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from configs import BackboneConfig, ClipConfig, SDConfig, TimmConfig, load_config
from pipeline.networks import clip_config, local_weights
from pipeline.networks.checkpoints import BackboneError, check_safetensors
from pipeline.networks.clip import load_clip
from pipeline.networks.stable_diffusion import StableDiffusion, load_stable_diffusion
from pipeline.networks.vision import load_vision
from tests import tiny
from tests.heads.worlds import complaint, run, sets, write_config

COMPONENTS: Mapping[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may reach a network, whatever it asks for."""

    def refuse(*_: object) -> None:
        raise OSError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder in full precision."""
    return tiny.save_tiny_sd(tmp_path_factory.mktemp("whole") / "sd")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(whole, tmp_path / "sd")
    return tmp_path / "sd"


def load(source: Path | str) -> StableDiffusion:
    return load_stable_diffusion(SDConfig(source=str(source)))


def weights(sd: StableDiffusion) -> dict[str, Tensor]:
    return {
        **{f"unet.{name}": tensor for name, tensor in sd.unet.state_dict().items()},
        **{f"vae.{name}": tensor for name, tensor in sd.vae.state_dict().items()},
    }


def to_variant(folder: Path, part: str, variant: str, shard_size: str = "10GB") -> None:
    """Replace a component's weights by half-precision ones, as the libraries write them."""
    model = COMPONENTS[part].from_pretrained(folder / part)
    for path in (folder / part).glob("*.safetensors"):
        path.unlink()
    dtype = torch.bfloat16 if variant == "bf16" else torch.float16
    model.to(dtype).save_pretrained(folder / part, variant=variant, max_shard_size=shard_size)
    names = [path.name for path in (folder / part).glob("*.safetensors")]
    assert names and all(variant in name for name in names)


@pytest.mark.parametrize(
    ("variant", "shard_size"), [("fp16", "10GB"), ("fp16", "100KB"), ("bf16", "10GB")]
)
def test_half_precision_variants_load(
    whole: Path, folder: Path, variant: str, shard_size: str
) -> None:
    for part in COMPONENTS:
        to_variant(folder, part, variant, shard_size)
    if shard_size == "100KB":
        assert (
            folder / "unet" / f"diffusion_pytorch_model.safetensors.index.{variant}.json"
        ).is_file()
    dtype = torch.bfloat16 if variant == "bf16" else torch.float16
    found, exact = load(folder), load(whole)
    expected = weights(exact)
    for name, tensor in weights(found).items():
        assert torch.equal(tensor, expected[name].to(dtype).float()), name
    torch.testing.assert_close(found.null_prompt, exact.null_prompt, atol=0.05, rtol=0.05)
    assert local_weights.sd_folder_here(SDConfig(source=str(folder))) == folder


def test_shards_named_as_diffusers_named_them_before(whole: Path, folder: Path) -> None:
    to_variant(folder, "unet", "fp16", "100KB")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json"
    document = json.loads(index.read_text())
    old = {
        name: f"{name.replace('.fp16', '').removesuffix('.safetensors')}.fp16.safetensors"
        for name in set(document["weight_map"].values())
    }
    for name, older in old.items():
        (folder / "unet" / name).rename(folder / "unet" / older)
    document["weight_map"] = {key: old[name] for key, name in document["weight_map"].items()}
    index.write_text(json.dumps(document))
    found, expected = weights(load(folder)), weights(load(whole))
    assert torch.equal(found["unet.conv_in.weight"], expected["unet.conv_in.weight"].half().float())


def test_full_precision_is_preferred(whole: Path, folder: Path) -> None:
    for part in COMPONENTS:
        to_variant(folder, part, "fp16")
        for path in (whole / part).glob("*.safetensors"):
            shutil.copy(path, folder / part)
    assert load(folder).digests == load(whole).digests


def test_components_may_differ_in_precision(whole: Path, folder: Path) -> None:
    to_variant(folder, "unet", "fp16")
    digests, exact = load(folder).digests, load(whole).digests
    assert {part for part, digest in digests.items() if digest != exact[part]} == {"unet"}


def test_weights_that_are_not_a_precision_are_not_guessed(folder: Path) -> None:
    """`non_ema` holds other numbers, not fewer bits of them."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(BackboneError, match=r"non_ema\.safetensors\); rename") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("variant", "shards"), [("", 1), (".fp16", 2)])
def test_pickles_are_refused_with_the_command_that_converts_them(
    whole: Path, folder: Path, variant: str, shards: int
) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = list(load_file(path).items())
    path.unlink()
    stem = path.name.removesuffix(".safetensors") + variant
    for i in range(shards):
        suffix = "" if shards == 1 else f"-{i + 1:05d}-of-{shards:05d}"
        torch.save(dict(tensors[i::shards]), folder / "unet" / f"{stem}{suffix}.bin")
    with pytest.raises(BackboneError, match="only pickled weights") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    program, flag, code = shlex.split(str(caught.value).partition("to safetensors: ")[2])
    assert (program, flag) == ("python", "-c")
    exec(code, {})
    assert load(folder).digests == load(whole).digests


def test_the_conversion_refuses_a_pickle_that_holds_objects(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    torch.save({"w": Path("x")}, path.with_suffix(".bin"))
    with pytest.raises(BackboneError) as caught:
        load(folder)
    code = shlex.split(str(caught.value).partition("to safetensors: ")[2])[2]
    with pytest.raises(Exception, match="Weights only load failed"):
        exec(code, {})
    assert not path.exists()


def test_pickled_objects_of_clip_have_a_command_too(tmp_path: Path) -> None:
    model, sound = tiny.save_tiny_clip(tmp_path / "clip")
    path = tmp_path / "epoch.pt"
    torch.save({"state_dict": load_file(sound), "args": Path("x")}, path)
    with pytest.raises(BackboneError, match="if you trust its publisher") as caught:
        load_clip(ClipConfig(model=str(model), pretrained=str(path)), 64)
    exec(shlex.split(str(caught.value).partition("to safetensors: ")[2])[2], {})
    converted = ClipConfig(model=str(model), pretrained=str(path.with_suffix(".safetensors")))
    expected = ClipConfig(model=str(model), pretrained=str(sound))
    assert load_clip(converted, 64).digest == load_clip(expected, 64).digest


def hub(repository: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have a folder stand for a hub repository; returns the names of what is downloaded."""
    fetched: list[str] = []

    def download(source: str, *, allow_patterns: list[str], **_: object) -> str:
        for path in sorted(p for p in repository.rglob("*") if p.is_file()):
            name = path.relative_to(repository).as_posix()
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / name)
                fetched.append(name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return fetched


def test_of_a_hub_repository_one_variant_is_fetched(
    whole: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_variant(folder, "unet", "fp16", "100KB")
    for part in ("vae", "text_encoder"):
        # In both precisions; and a pickle, which is never fetched.
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        shutil.copy(
            folder / part / f"{stem}.safetensors", folder / part / f"{stem}.fp16.safetensors"
        )
        (folder / part / f"{stem}.bin").write_bytes(b"x")
    fetched = hub(folder, tmp_path / "cache", monkeypatch)
    found, exact = load("owner/name").digests, load(whole).digests
    assert {part for part, digest in found.items() if digest != exact[part]} == {"unet"}
    kinds = {name for name in fetched if "config" not in name and "tokenizer/" not in name}
    assert {name for name in kinds if not name.startswith("unet/")} == {
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }
    assert all("fp16" in name for name in kinds if name.startswith("unet/"))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A configuration whose networks are local."""
    tiny.save_tiny_sd(tmp_path / "sd", text="null_prompt")
    tiny.save_tiny_clip(tmp_path / "clip")
    tiny.write_images(tmp_path / "pictures" / "one", 1)
    dataset = {"name": "folder", "root": str(tmp_path / "pictures")}
    return write_config(tmp_path / "c.yaml", tmp_path, dataset)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "backbone.clip.model=hf-hub:ORG/NAME",
            "hf-hub:ORG/NAME: it is not in the local hub cache",
        ),
        ("backbone.clip.model=hf-hub:a..b/--", "hf-hub:a..b/--: the download failed"),
        ('backbone.clip.model="hf-hub:"', "hf-hub:: the download failed"),
        ("backbone.clip.model=local-dir:/nowhere", "no open_clip_config.json in that folder"),
        ('backbone.clip.model="local-dir:"', "no open_clip_config.json in that folder"),
        ("backbone.clip={model: ViT-B-32-quickgelu, pretrained: openai}", "cannot be downloaded"),
        ("backbone.clip={model: ViT-B-32, pretrained: nothing}", "neither a file nor a tag"),
        ("backbone.sd.source=owner/name", "hub cannot be reached"),
        ("backbone.sd.source=a..b/c", "a..b/c: the download failed"),
        ("backbone={timm: {model: vit_tiny_patch16_224}, resolution: 64}", "hub cannot be reached"),
        ("backbone={timm: {model: hf-hub:timm/vit}, resolution: 64}", "no model of that name"),
        ("backbone={timm: {model: vit_tiny_patch16_224.none}, resolution: 64}", "no weights of"),
    ],
)
def test_what_is_not_here_is_one_line_without_a_hub(world: Path, change: str, says: str) -> None:
    config = load_config(str(world), [change]).backbone
    with pytest.raises(BackboneError) as caught:
        if config.sd is None or config.clip is None:
            load_vision(config)
        elif "clip" in change:
            load_clip(config.clip, 64)
        else:
            load_stable_diffusion(config.sd)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_the_commands_say_so_too(world: Path) -> None:
    change = sets("backbone.clip.model=hf-hub:ORG/NAME")
    assert "hf-hub:ORG/NAME: it is not in the" in complaint("precompute", world, *change)
    result = run("doctor", world, *change)
    assert result.exit_code != 0 and "Traceback" not in result.output
    assert "hf-hub:ORG/NAME is not on this machine" in result.output


class _ClientError(Exception):
    """As HTTP clients have them: of no common kind."""


_RESPONSE: Any = SimpleNamespace(headers={}, request=None)

ERRORS = [
    OSError("no route\nto the host"),
    RuntimeError("first line\nsecond line"),
    _ClientError("refused"),
    OfflineModeIsEnabled("offline"),
    HFValidationError("not a name"),
    GatedRepoError("403\n\nAccess is restricted", response=_RESPONSE),
    KeyError("weights"),
    EOFError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_of_a_loader_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(clip_config, "hf_hub_download", fail)
    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    vision = BackboneConfig(timm=TimmConfig(model="vit_tiny_patch16_224"), resolution=64)
    loaders: list[Callable[[], object]] = [
        lambda: load("owner/name"),
        lambda: local_weights.sd_folder_here(SDConfig(source="owner/name")),
        lambda: load_clip(ClipConfig(model="hf-hub:ORG/NAME"), 64),
        lambda: load_clip(ClipConfig(model="hf-hub:ORG/NAME"), 64, random_weights=True),
        lambda: local_weights.clip_weights(ClipConfig(model="hf-hub:ORG/NAME")),
        lambda: load_clip(ClipConfig(model="ViT-B-32-quickgelu", pretrained="openai"), 64),
        lambda: load_vision(vision),
    ]
    for loader in loaders:
        with pytest.raises(BackboneError) as caught:
            loader()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def save_model_folder(folder: Path) -> ClipConfig:
    """A folder as open_clip publishes it; returns the same model as files."""
    model, weights = tiny.save_tiny_clip(folder / "parts", quick_gelu=True)
    document = {
        "model_cfg": json.loads(model.read_text()),
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    shutil.copy(weights, folder / "open_clip_model.safetensors")
    return ClipConfig(model=str(folder / "open_clip_config.json"), pretrained=str(weights))


def test_a_model_folder_is_configuration_and_weights(tmp_path: Path) -> None:
    files = load_clip(save_model_folder(tmp_path), 64)
    folder = load_clip(ClipConfig(model=f"local-dir:{tmp_path}"), 64)
    assert folder.digest == files.digest
    assert folder.mean == (0.1, 0.2, 0.3)
    name = ClipConfig(model=f"local-dir:{tmp_path}")
    assert local_weights.clip_weights(name) == tmp_path / "open_clip_model.safetensors"
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(BackboneError, match="holds neither"):
        load_clip(name, 64)


def test_a_model_of_the_hub_is_configuration_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = load_clip(save_model_folder(tmp_path), 64)
    asked: list[tuple[str, str]] = []

    def fetch(repo_id: str, filename: str, **_: object) -> str:
        asked.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr(clip_config, "hf_hub_download", fetch)
    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", fetch)
    assert load_clip(ClipConfig(model="hf-hub:ORG/NAME"), 64).digest == files.digest
    assert set(asked) == {
        ("ORG/NAME", "open_clip_config.json"),
        ("ORG/NAME", "open_clip_model.safetensors"),
    }


def test_a_weights_file_serves_a_model_folder_too(tmp_path: Path) -> None:
    config = save_model_folder(tmp_path)
    other = ClipConfig(model=f"local-dir:{tmp_path}", pretrained=config.pretrained)
    assert load_clip(other, 64).digest == load_clip(config, 64).digest


def test_the_variant_is_told(folder: Path) -> None:
    part = folder / "vae"
    assert check_safetensors(part, "diffusion_pytorch_model") is None
    path = part / "diffusion_pytorch_model.safetensors"
    path.rename(part / "diffusion_pytorch_model.bf16.safetensors")
    assert check_safetensors(part, "diffusion_pytorch_model") == "bf16"
    save_file({"w": torch.zeros(1)}, part / "diffusion_pytorch_model.fp16.safetensors")
    assert check_safetensors(part, "diffusion_pytorch_model") == "fp16"
