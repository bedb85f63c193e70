"""Loading backbones from real formats: what comes out, and what is said when it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs import BackboneConfig, ClipConfig, SDConfig
from pipeline.networks.backbone import load_backbone
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.clip import load_clip
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of each kind, never written to by a test."""
    root = tmp_path_factory.mktemp("checkpoints")
    tiny.save_tiny_sd(root / "sd")
    tiny.save_tiny_clip(root / "clip")
    return root


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def config(root: Path, **changes: object) -> BackboneConfig:
    (clip_json,) = (root / "clip").glob("*.json")
    clip_weights = clip_json.with_suffix(".safetensors")
    values = {
        "sd": SDConfig(source=str(root / "sd")),
        "clip": ClipConfig(model=str(clip_json), pretrained=str(clip_weights)),
        "resolution": 64,
    }
    return BackboneConfig(**(values | changes))


def refusal(root: Path, **changes: object) -> str:
    with pytest.raises(BackboneError) as caught:
        load_backbone(config(root, **changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digests_name_the_weights_and_nothing_else(folder: Path, damaged: Path) -> None:
    first = load_backbone(config(folder))
    assert load_backbone(config(damaged)).digests == first.digests
    assert set(first.digests) == {"unet", "vae", "null_prompt", "scheduler", "clip"}

    unet_file = damaged / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(unet_file)
    tensors["conv_in.bias"][0] += 1e-3
    save_file(tensors, unet_file, metadata={"format": "pt"})
    changed = load_backbone(config(damaged)).digests
    assert {name for name in changed if changed[name] != first.digests[name]} == {"unet"}


def test_sharded_weights_are_the_same_weights(folder: Path, tmp_path: Path) -> None:
    tiny.save_tiny_sd(tmp_path / "sd", unet_shard_size="200KB")
    assert (tmp_path / "sd/unet/diffusion_pytorch_model.safetensors.index.json").is_file()
    shutil.copytree(folder / "clip", tmp_path / "clip")
    assert load_backbone(config(tmp_path)).digests == load_backbone(config(folder)).digests


def test_a_stored_prompt_stands_in_for_the_text_encoder(folder: Path, tmp_path: Path) -> None:
    tiny.save_tiny_sd(tmp_path / "sd", text="null_prompt")
    shutil.copytree(folder / "clip", tmp_path / "clip")
    backbone = load_backbone(config(tmp_path))
    stored = load_file(tmp_path / "sd" / "null_prompt.safetensors")["embedding"]
    assert torch.equal(backbone.null_prompt, stored)


def test_random_weights_need_no_weights_and_are_the_same_every_time(damaged: Path) -> None:
    for weights in damaged.rglob("*.safetensors"):
        weights.unlink()
    torch.manual_seed(1)
    first = load_backbone(config(damaged, weights="random"))
    torch.manual_seed(2)
    again = load_backbone(config(damaged, weights="random"))
    assert first.digests == again.digests


def _remove(pattern: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def _truncate(pattern: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        for path in root.glob(pattern):
            tiny.truncate(path)

    return damage


def _drop_tensor(root: Path) -> None:
    path = root / "sd/unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def _narrow_text(root: Path) -> None:
    shutil.rmtree(root / "sd")
    tiny.save_tiny_sd(root / "sd", text_width=48)


def _pickled(root: Path) -> None:
    tiny.replace_by_pickle(root / "sd")


def _other_clip(root: Path) -> None:
    shutil.rmtree(root / "clip")
    tiny.save_tiny_clip(root / "clip", width=48)
    path = next((root / "clip").glob("*.json"))
    document = json.loads(path.read_text())
    document["vision_cfg"]["width"] = 32
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_remove("sd/unet/config.json"), ["unet/config.json", "missing"]),
        (_remove("sd/vae"), ["vae/config.json", "missing"]),
        (_remove("sd/unet/*.safetensors"), ["unet", "incomplete"]),
        (_truncate("sd/unet/*.safetensors"), ["unet", "truncated"]),
        (_truncate("sd/vae/config.json"), ["vae/config.json", "not readable JSON"]),
        (_remove("sd/text_encoder"), ["text_encoder", "null_prompt"]),
        (_remove("sd/tokenizer"), ["tokenizer", "missing"]),
        (_remove("sd/tokenizer/vocab.json"), ["tokenizer"]),
        (_truncate("sd/text_encoder/*.safetensors"), ["text_encoder", "truncated"]),
        (_truncate("clip/*.safetensors"), ["truncated"]),
        (_remove("clip/*.safetensors"), ["neither a file nor a tag"]),
        (_drop_tensor, ["conv_in.weight", "do not belong together"]),
        (_narrow_text, ["text encoder's width is 48", "takes 32"]),
        (_pickled, ["pickled", "safetensors"]),
        (_other_clip, ["cannot be loaded into"]),
    ],
)
def test_damage_is_named_in_one_line(
    folder: Path, damaged: Path, damage: Callable[[Path], None], says: list[str]
) -> None:
    whole = config(folder)
    clip = ClipConfig(
        **{
            key: str(damaged / Path(value).relative_to(folder))
            for key, value in whole.clip.model_dump().items()
        }
    )
    damage(damaged)
    message = refusal(folder, sd=SDConfig(source=str(damaged / "sd")), clip=clip)
    for words in says:
        assert words in message


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        (ClipConfig(model="ViT-L-14-336", pretrained="openai"), "-quickgelu"),
        (ClipConfig(model="ViT-B-32-quickgelu", pretrained="opnai"), "neither a file nor a tag"),
        (ClipConfig(model="ViT-Z", pretrained="openai"), "no model of that name"),
        (ClipConfig(model="ViT-B-32"), "pretrained is not set"),
        (ClipConfig(model="missing.json", pretrained="x"), "missing"),
    ],
)
def test_clip_names_that_cannot_be(clip: ClipConfig, says: str) -> None:
    with pytest.raises(BackboneError, match=says):
        load_clip(clip, 336)


def test_a_local_openai_file_needs_quickgelu(folder: Path, tmp_path: Path) -> None:
    source = config(folder).clip
    weights = tmp_path / "vit-openai.safetensors"
    shutil.copy(str(source.pretrained), weights)
    with pytest.raises(BackboneError, match="QuickGELU"):
        load_clip(ClipConfig(model=source.model, pretrained=str(weights)), 64)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_configuration_beside_the_weights_decides(tmp_path: Path, quick_gelu: bool) -> None:
    model, weights = tiny.save_tiny_clip(tmp_path, quick_gelu=quick_gelu)
    beside = tmp_path / "open_clip_config.json"
    config = ClipConfig(model=str(model), pretrained=str(weights))
    beside.write_text(json.dumps({"model_cfg": {"quick_gelu": quick_gelu}}))
    load_clip(config, 64)
    beside.write_text(json.dumps({"model_cfg": {"quick_gelu": not quick_gelu}}))
    with pytest.raises(BackboneError, match="plain name" if quick_gelu else "-quickgelu"):
        load_clip(config, 64)


def test_half_precision_weights_load_at_another_resolution(folder: Path, damaged: Path) -> None:
    """Their position embeddings are resized in float32."""
    weights = Path(config(damaged).clip.pretrained)
    exact = {name: t.half().float() for name, t in load_file(weights).items()}
    save_file(exact, weights)
    expected = load_clip(config(damaged).clip, 96).visual.state_dict()
    save_file({name: t.half() for name, t in exact.items()}, weights)
    found = load_clip(config(damaged).clip, 96).visual.state_dict()
    assert found["positional_embedding"].shape[0] == 1 + 6 * 6
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_other_refusals(folder: Path) -> None:
    assert "multiple of CLIP's patch size" in refusal(folder, resolution=70)
    assert "no such folder" in refusal(folder, sd=SDConfig(source="./nowhere"))
    assert "not built in" in refusal(folder, sd=SDConfig(source="a/b"), weights="random")
    with pytest.raises(BackboneError, match="not available"):
        load_backbone(config(folder), device="cuda:99")
    with pytest.raises(BackboneError, match="beyond"):
        load_backbone(config(folder)).check_timesteps([5, 1000])


def test_an_unreachable_hub_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(folder, sd=SDConfig(source="nobody/never-downloaded"))
    assert "backbone.sd.source" in message


def test_the_same_weights_in_another_architecture_are_another_network(
    folder: Path, damaged: Path
) -> None:
    """Heads and activations have no tensors of their own, and still change every number."""
    plain = load_backbone(config(folder)).digests
    path = damaged / "sd/unet/config.json"
    document = json.loads(path.read_text())
    document["attention_head_dim"] = [2 * n for n in document["attention_head_dim"]]
    document["_name_or_path"] = "elsewhere"
    path.write_text(json.dumps(document))
    clip_json = next((damaged / "clip").glob("*.json"))
    document = json.loads(clip_json.read_text())
    document["quick_gelu"] = not document.get("quick_gelu", False)
    clip_json.write_text(json.dumps(document))
    changed = load_backbone(config(damaged)).digests
    assert {name for name in changed if changed[name] != plain[name]} == {"unet", "clip"}
