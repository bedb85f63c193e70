"""Single-file (ldm) checkpoints load as the diffusers folder with the same weights does.

The files are written by a renaming of this module's own, from diffusers' names back to ldm's.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from configs import BackboneConfig, ClipConfig, ExtractionConfig, SDConfig, preset_text
from pipeline.cost import measure_cost
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.local_weights import sd_folder_here
from pipeline.networks.single_file import describe
from pipeline.networks.stable_diffusion import (
    StableDiffusion,
    build_architecture,
    load_stable_diffusion,
    sd_architecture,
)
from pipeline.networks.unet import extract
from tests import tiny

WIDTHS = (64, 64, 64, 128)
"""Channels of the UNet: heads of 64 channels and 32 groups, as in the real ones."""
LAYERS = 1
TEXT_WIDTH = 64

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
TEXT = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def _resnet(module: str) -> str:
    return ".".join([RESNET[module.split(".")[0]], *module.split(".")[1:]])


def ldm_unet_name(name: str, layers: int) -> str:
    """ldm's name of a tensor of diffusers' UNet."""
    module, kind = name.rsplit(".", 1)
    parts = module.split(".")
    if module in UNET:
        return f"{UNET[module]}.{kind}"
    if parts[0] == "mid_block":
        index = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[".".join(parts[1:3])]
        block, inner = f"middle_block.{index}", ".".join(parts[3:])
        return f"{block}.{_resnet(inner) if parts[1] == 'resnets' else inner}.{kind}"
    level, part, index = int(parts[1]), parts[2], int(parts[3])
    inner = ".".join(parts[4:])
    down = parts[0] == "down_blocks"
    first = (1 if down else 0) + level * (layers + 1)
    side = "input_blocks" if down else "output_blocks"
    if part == "downsamplers":
        return f"{side}.{first + layers}.0.op.{kind}"
    if part == "upsamplers":
        # After the attention, which the deepest level does not have.
        return f"{side}.{first + layers}.{2 if level else 1}.conv.{kind}"
    if part == "resnets":
        return f"{side}.{first + index}.0.{_resnet(inner)}.{kind}"
    return f"{side}.{first + index}.1.{inner}.{kind}"


def ldm_vae(state: Mapping[str, Tensor], levels: int = 4) -> dict[str, Tensor]:
    """A VAE's tensors under ldm's names, with 1x1 convolutions in its attention."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.", lambda found: f"up.{levels - 1 - int(found[1])}.", name)
        name = name.replace(".upsamplers.0.", ".upsample.")
        name = re.sub(r"(up\.\d)\.resnets", r"\1.block", name)
        name = re.sub(
            r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name
        )
        if "mid_block.attentions.0." in name:
            side, _, inner = name.partition(".mid_block.attentions.0.")
            module, kind = inner.rsplit(".", 1)
            name = f"{side}.mid.attn_1.{ATTENTION[module]}.{kind}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        renamed[f"first_stage_model.{name}"] = tensor
    return renamed


def open_clip_text(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder under open_clip's names, with one more layer, which is not read."""
    renamed = {
        "text_projection": torch.randn(TEXT_WIDTH, TEXT_WIDTH),
        "logit_scale": torch.ones(()),
    }
    plain = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    for name, tensor in plain.items():
        if name.startswith("encoder.layers"):
            block = f"transformer.resblocks.{name.split('.')[2]}"
            module, kind = name.split(".", 3)[3].rsplit(".", 1)
            if module == "self_attn.q_proj":
                qkv = [plain[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(qkv)
            elif module in TEXT:
                renamed[f"{block}.{TEXT[module]}.{kind}"] = tensor
        elif name.startswith("final_layer_norm"):
            renamed[name.replace("final_layer_norm", "ln_final")] = tensor
    renamed["token_embedding.weight"] = plain["embeddings.token_embedding.weight"]
    renamed["positional_embedding"] = plain["embeddings.position_embedding.weight"]
    last = {
        name.replace("resblocks.1", "resblocks.2"): torch.full_like(tensor, 7.0)
        for name, tensor in renamed.items()
        if "resblocks.1" in name
    }
    return {f"cond_stage_model.model.{name}": tensor for name, tensor in (renamed | last).items()}


def clip_text(state: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """A text encoder under the names of Stable Diffusion 1, with the buffer older files have."""
    renamed = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    renamed["embeddings.position_ids"] = torch.arange(length)[None]
    prefix = "cond_stage_model.transformer.text_model."
    return {prefix + name: tensor for name, tensor in renamed.items()}


def save_pair(root: Path, family: tiny.Family) -> tuple[Path, Path]:
    """The same random weights as a diffusers folder and as a single file."""
    torch.manual_seed(0)
    sd2 = family == "sd2"
    unet = UNet2DConditionModel(
        block_out_channels=WIDTHS,
        layers_per_block=LAYERS,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=[1, 1, 1, 2] if sd2 else 8,
        use_linear_projection=sd2,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        sample_size=64,
    )
    vocabulary = len(tiny._vocabulary())
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=1,
            max_position_embeddings=tiny.PROMPT_LENGTH,
            hidden_act="gelu" if sd2 else "quick_gelu",
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
    )
    folder = root / "folder"
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text.save_pretrained(folder / "text_encoder")
    tiny._save_tokenizer(folder / "tokenizer", pad_token="!" if sd2 else "<|endoftext|>")
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = PNDMScheduler(**schedule)
    scheduler.save_pretrained(folder / "scheduler")

    tensors = {
        f"model.diffusion_model.{ldm_unet_name(name, LAYERS)}": tensor
        for name, tensor in unet.state_dict().items()
    }
    tensors |= ldm_vae(vae.state_dict())
    texts = text.state_dict()
    tensors |= open_clip_text(texts) if sd2 else clip_text(texts, tiny.PROMPT_LENGTH)
    tensors["alphas_cumprod"] = scheduler.alphas_cumprod.clone()
    file = root / f"{family}-pruned.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return folder, file


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    families: tuple[tiny.Family, ...] = ("sd2", "sd15")
    return {family: save_pair(tmp_path_factory.mktemp(family), family) for family in families}


@pytest.fixture(params=["sd2", "sd15"])
def pair(request: pytest.FixtureRequest, pairs: dict[str, tuple[Path, Path]]) -> tuple[Path, Path]:
    """A folder and a file, of each family."""
    return pairs[request.param]


@pytest.fixture
def file(pairs: dict[str, tuple[Path, Path]]) -> Path:
    """One of the files, for what does not depend on the family."""
    return pairs["sd2"][1]


@pytest.fixture
def tensors(file: Path) -> dict[str, Tensor]:
    return load_file(file)


def load(path: Path) -> StableDiffusion:
    return load_stable_diffusion(SDConfig(source=str(path)))


def features(sd: StableDiffusion) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        z = sd.vae.encode(image).latent_dist.mean * sd.vae.config.scaling_factor
        return {"z": z, **extract(sd.unet, z, 195, sd.null_prompt, ["s3", "s4", "s5"], None)}


def test_a_single_file_is_the_folder_with_the_same_weights(pair: tuple[Path, Path]) -> None:
    folder, file = map(load, pair)
    for part in ("unet", "vae"):
        expected, found = (getattr(sd, part).state_dict() for sd in (folder, file))
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name
    assert torch.equal(file.alphas_cumprod, folder.alphas_cumprod)
    torch.testing.assert_close(file.null_prompt, folder.null_prompt, atol=1e-6, rtol=0)
    expected_maps = features(folder)
    for layer, found_map in features(file).items():
        torch.testing.assert_close(found_map, expected_maps[layer], atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in file.unet.parameters())
    assert file.digests == folder.digests


def test_half_precision_is_computed_in_float32(
    file: Path, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
    half["alphas_cumprod"] = tensors["alphas_cumprod"]
    save_file(half, tmp_path / "half.safetensors")
    found, exact = load(tmp_path / "half.safetensors"), load(file)
    state = found.unet.state_dict()
    for name, tensor in exact.unet.state_dict().items():
        assert torch.equal(state[name], tensor.half().float()), name
    assert found.null_prompt.dtype == torch.float32


def test_moving_averages_are_taken_where_a_file_has_both(
    file: Path, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    for name in [name for name in tensors if name.startswith("model.diffusion_model.")]:
        # "model.diffusion_model.out.2.bias" is averaged as "model_ema.diffusion_modelout2bias".
        tensors["model_ema." + "".join(name.split(".")[1:])] = tensors[name]
        tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, tmp_path / "both.safetensors")
    assert load(tmp_path / "both.safetensors").digests == load(file).digests


def test_the_architecture_is_read_without_the_weights(pair: tuple[Path, Path]) -> None:
    folder, file = pair
    architecture = sd_architecture(SDConfig(source=str(file)))
    assert architecture["prompt_tokens"] == tiny.PROMPT_LENGTH
    with torch.device("meta"):
        unet, vae = build_architecture(architecture)
    for part, model in (("unet", unet), ("vae", vae)):
        expected = json.loads((folder / part / "config.json").read_text())
        for key in set(expected) - {"sample_size"}:
            if not key.startswith("_"):
                found = getattr(model.config, key)
                assert (list(found) if isinstance(found, tuple) else found) == expected[key], key
    assert sd_folder_here(SDConfig(source=str(file))) == file


@pytest.mark.parametrize(("name", "text"), [("sd21", "open_clip"), ("sd15", "clip")])
def test_the_published_architectures_are_recognised(name: str, text: str) -> None:
    """By the shapes of the whole networks, without their weights."""
    known = yaml.safe_load(preset_text(f"architectures/{name}.yaml"))
    with torch.device("meta"):
        unet, vae = build_architecture(known)
    width = known["unet"]["cross_attention_dim"]
    shapes = {
        f"model.diffusion_model.{ldm_unet_name(key, 2)}": tuple(tensor.shape)
        for key, tensor in unet.state_dict().items()
    }
    shapes |= {key: tuple(tensor.shape) for key, tensor in ldm_vae(vae.state_dict()).items()}
    if text == "open_clip":
        shapes["cond_stage_model.model.positional_embedding"] = (77, width)
        shapes["cond_stage_model.model.token_embedding.weight"] = (49408, width)
    else:
        prefix = "cond_stage_model.transformer.text_model.embeddings."
        shapes[f"{prefix}position_embedding.weight"] = (77, width)
        shapes[f"{prefix}token_embedding.weight"] = (49408, width)
    found = describe(shapes, "file")
    known["unet"].pop("sample_size")
    assert found["unet"] == known["unet"]
    assert found["vae"] == known["vae"]
    assert found["scheduler"] == known["scheduler"]
    assert found["prompt_tokens"] == known["prompt_tokens"]


TEXT_BLOCK = "cond_stage_model.model.transformer.resblocks"
UNET_BLOCK = "model.diffusion_model.input_blocks.1.1.transformer_blocks"


@pytest.mark.parametrize(
    ("gone", "added", "says"),
    [
        ("first_stage_model.", {}, "it has no first_stage_model.encoder.conv_in.weight"),
        ("model.diffusion_model.", {}, "it has no model.diffusion_model"),
        ("cond_stage_model.", {}, "it has no cond_stage_model"),
        ("-", {f"{UNET_BLOCK}.1.norm1.weight": torch.zeros(64)}, "as in SDXL"),
        ("-", {"alphas_cumprod": torch.linspace(1, 0, 1000)}, "another noise schedule"),
        ("model.diffusion_model.out.0", {}, "conv_norm_out"),
        ("model.diffusion_model.output_blocks.2.0", {}, "up_blocks"),
        ("first_stage_model.encoder.mid", {}, "mid_block"),
        ("cond_stage_model.model.transformer", {}, "fc1"),
        ("cond_stage_model.model.ln_final", {}, "final_layer_norm"),
        ("-", {f"{TEXT_BLOCK}.0.attn.in_proj_bias": torch.zeros(4)}, "shorter"),
        ("model.diffusion_model.input_blocks.3.0", {}, "it has no model.diffusion_model.input_blo"),
    ],
)
def test_what_is_no_stable_diffusion_is_one_line(
    tensors: dict[str, Tensor], tmp_path: Path, gone: str, added: dict[str, Tensor], says: str
) -> None:
    kept = {name: t for name, t in tensors.items() if not name.startswith(gone)}
    save_file(kept | added, tmp_path / "other.safetensors")
    with pytest.raises(BackboneError) as caught:
        load(tmp_path / "other.safetensors")
    message = str(caught.value)
    assert says in message and "diffusers folder" in message
    assert "\n" not in message


def test_a_pickled_checkpoint_is_refused_with_the_command_that_converts_it(
    file: Path, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "pickled model.ckpt"
    torch.save({"state_dict": tensors, "global_step": 875_000}, path)
    with pytest.raises(BackboneError) as caught:
        load(path)
    program, flag, code = shlex.split(str(caught.value).partition("or convert it: ")[2])
    assert (program, flag) == ("python", "-c")
    exec(code, {})
    assert load(path.with_suffix(".safetensors")).digests == load(file).digests


def test_any_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BackboneError, match="give a diffusers folder or a "):
        load(tmp_path / "notes.txt")
    (tmp_path / "cut.safetensors").write_bytes(bytes(4))
    with pytest.raises(BackboneError, match="truncated"):
        load(tmp_path / "cut.safetensors")


def test_a_single_file_is_planned_for(file: Path) -> None:
    backbone = BackboneConfig(
        sd=SDConfig(source=str(file)),
        clip=ClipConfig(model="nano", pretrained="nano"),
        resolution=96,
    )
    cost = measure_cost(backbone, ExtractionConfig())
    assert cost.geometry.latent == (4, 12, 12)
