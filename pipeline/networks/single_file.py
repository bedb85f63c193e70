"""Stable Diffusion 1 and 2 from a single file, as it was first published.

Such a file (`v2-1_512-ema-pruned.safetensors`, `v1-5-pruned-emaonly.safetensors`) holds UNet, VAE
and text encoder under the names of the original code, ldm, and no configuration. The architecture
is told from the tensors' shapes; what shapes do not tell (heads, the schedule, the tokens of the
empty prompt) is the same for every model of a family. diffusers renames the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors import safe_open
from torch import Tensor

from pipeline.networks.architecture import check_numbers
from pipeline.networks.checkpoints import (
    BackboneError,
    check_safetensors_file,
    conversion_command,
    one_line,
    packaged_weights,
)

USE_FOLDER = "use the checkpoint's diffusers folder"
NOT_SD = "is no single-file checkpoint of Stable Diffusion 1 or 2"

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_CLIP_TEXT = "cond_stage_model.transformer.text_model."
"""Text encoder of Stable Diffusion 1: transformers' CLIP, whose activation is QuickGELU."""
_OPEN_CLIP_TEXT = "cond_stage_model.model."
"""Text encoder of Stable Diffusion 2: open_clip's, without its last layer."""
_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}
_HEAD_WIDTH = 64
"""Channels of an attention head: in both text encoders and in the UNet of Stable Diffusion 2."""

Shapes = Mapping[str, tuple[int, ...]]


def single_file(source: str) -> Path | None:
    """The single file that a source names, None if it names something else.

    Raises BackboneError for a file of another format.
    """
    path = Path(source).expanduser()
    if packaged_weights(source, "sd") or not path.is_file():
        return None
    if path.suffix in _PICKLED:
        command = conversion_command([path], path.with_suffix(".safetensors"))
        raise BackboneError(
            f"{path}: pickled weights can run code when opened; take the same checkpoint as "
            f"safetensors, or convert it: {command}"
        )
    if path.suffix != ".safetensors":
        raise BackboneError(
            f"{path}: is not a checkpoint; give a diffusers folder or a .safetensors file"
        )
    return path


def single_file_architecture(path: Path) -> dict[str, Any]:
    """`unet`, `vae` and `scheduler` configurations and `prompt_tokens`, from the file's header.

    Raises BackboneError for a damaged file and for one that is not Stable Diffusion 1 or 2.
    """
    return describe(_shapes(path), str(path))


def describe(shapes: Shapes, where: str) -> dict[str, Any]:
    """The architecture that tensors of these shapes belong to; `where` is for messages."""
    try:
        architecture = {
            "unet": _unet_config(shapes),
            "vae": _vae_config(shapes),
            "scheduler": dict(_SCHEDULER),
            "prompt_tokens": _text_shape(shapes)[0],
        }
    except (KeyError, IndexError, ValueError) as error:
        missing = f"it has no {error.args[0]}" if isinstance(error, KeyError) else one_line(error)
        raise BackboneError(f"{where}: {NOT_SD} ({missing}); {USE_FOLDER}") from None
    check_numbers(architecture, where)
    return architecture


def read_single_file(path: Path, architecture: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """State dicts of `unet` and `vae` in float32, under the names that diffusers gives them.

    If the file holds the training weights and their moving averages, the averages are taken, as
    in the published diffusers folders. Raises BackboneError.
    """
    unet = _read(path, _UNET, averages=True)
    vae = _read(path, _VAE)
    _check_schedule(path)
    try:
        return {
            "unet": convert_ldm_unet_checkpoint(unet, architecture["unet"]),
            "vae": convert_ldm_vae_checkpoint(vae, architecture["vae"]),
        }
    except Exception as error:
        # diffusers' converters check nothing themselves.
        raise BackboneError(f"{path}: {NOT_SD} ({one_line(error)}); {USE_FOLDER}") from None


def read_text_encoder(path: Path) -> tuple[Any, Tensor, dict[str, Any]]:
    """The text encoder, the tokens [1, L] of the empty prompt, and the encoder's configuration.

    The file has no tokenizer, but the tokens of no words are known: start and end, the last two of
    the vocabulary, and padding, which is the end token in Stable Diffusion 1 and 0 in 2.
    Raises BackboneError.
    """
    try:
        return _build_text_encoder(path)
    except BackboneError:
        raise
    except Exception as error:
        # torch and transformers raise many kinds; all mean that this is another text encoder.
        raise BackboneError(f"{path}: {NOT_SD} ({one_line(error)}); {USE_FOLDER}") from None


def _build_text_encoder(path: Path) -> tuple[Any, Tensor, dict[str, Any]]:
    from transformers import CLIPTextConfig, CLIPTextModel

    shapes = _shapes(path)
    length, width, vocabulary = _text_shape(shapes)
    if _is_open_clip(shapes):
        state = _from_open_clip(_read(path, _OPEN_CLIP_TEXT))
        activation, padding = "gelu", 0
    else:
        state = _read(path, _CLIP_TEXT)
        state = {name.removeprefix(_CLIP_TEXT): tensor for name, tensor in state.items()}
        activation, padding = "quick_gelu", vocabulary - 1
    config = {
        "hidden_act": activation,
        "hidden_size": width,
        "intermediate_size": len(state["encoder.layers.0.mlp.fc1.weight"]),
        "max_position_embeddings": length,
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "num_hidden_layers": _count(state, r"encoder\.layers\.(\d+)\."),
        "vocab_size": vocabulary,
    }
    check_numbers(config, str(path))
    tokens = torch.full((1, length), padding)
    tokens[0, :2] = torch.tensor([vocabulary - 2, vocabulary - 1])
    with torch.random.fork_rng(devices=[]):
        encoder = CLIPTextModel(CLIPTextConfig(**config)).eval()
    # Older files hold this buffer, which follows from the length.
    state.pop("embeddings.position_ids", None)
    # transformers 4 keeps the model one level deeper.
    getattr(encoder, "text_model", encoder).load_state_dict(state)
    return encoder.requires_grad_(False), tokens, config


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    check_safetensors_file(path)
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _read(path: Path, prefix: str, averages: bool = False) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, in float32, under their full names.

    With `averages`, each is replaced by its moving average if the file has one.
    """
    tensors = {}
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name in sorted(names):
            if name.startswith(prefix):
                # ldm drops the dots of the name, and "model." before it.
                average = "model_ema." + name.removeprefix("model.").replace(".", "")
                source = average if averages and average in names else name
                tensor = file.get_tensor(source)
                tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    return tensors


def _check_schedule(path: Path) -> None:
    """Refuse a file that says itself that it was trained on another noise schedule."""
    with safe_open(path, framework="pt") as file:
        if "alphas_cumprod" not in file.keys():  # noqa: SIM118
            return
        theirs = file.get_tensor("alphas_cumprod").float()
    ours = DDPMScheduler.from_config(_SCHEDULER).alphas_cumprod
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=1e-4):
        raise BackboneError(f"{path}: {NOT_SD} (another noise schedule); {USE_FOLDER}")


def _unet_config(shapes: Shapes) -> dict[str, Any]:
    """Configuration of the UNet, from the blocks on its way down."""
    # Of each level, for each layer: channels, and whether it has attention.
    levels: list[list[tuple[int, bool]]] = [[]]
    block = f"{_UNET}input_blocks."
    n_channels = shapes[f"{block}0.0.weight"][1]
    for i in range(1, _count(shapes, re.escape(block) + r"(\d+)\.")):
        if f"{block}{i}.0.op.weight" in shapes:
            levels.append([])
        else:
            channels = shapes[f"{block}{i}.0.out_layers.3.weight"][0]
            levels[-1].append((channels, f"{block}{i}.1.proj_in.weight" in shapes))
    if len({len(level) for level in levels}) != 1 or any(len(set(level)) > 1 for level in levels):
        raise ValueError("its UNet has levels of different kinds")
    if any(".transformer_blocks.1." in name for name in shapes):
        raise ValueError("its UNet has several transformer layers in a block, as in SDXL")
    widths = [level[0][0] for level in levels]
    attends = [level[0][1] for level in levels]
    inner = f"{block}1.1."
    linear = len(shapes[f"{inner}proj_in.weight"]) == 2
    config: dict[str, Any] = {
        "in_channels": n_channels,
        "out_channels": shapes[f"{_UNET}out.2.weight"][0],
        "down_block_types": [_block("Down", attention) for attention in attends],
        "up_block_types": [_block("Up", attention) for attention in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "cross_attention_dim": shapes[f"{inner}transformer_blocks.0.attn2.to_k.weight"][1],
        # Stable Diffusion 2 has heads of one width, 1 has one number of heads.
        "attention_head_dim": [width // _HEAD_WIDTH for width in widths] if linear else 8,
    }
    if linear:
        config["use_linear_projection"] = True
    return config


def _block(way: str, attention: bool) -> str:
    return f"{'CrossAttn' if attention else ''}{way}Block2D"


def _vae_config(shapes: Shapes) -> dict[str, Any]:
    """Configuration of the VAE, from its encoder."""
    down = f"{_VAE}encoder.down."
    n_levels = _count(shapes, re.escape(down) + r"(\d+)\.")
    widths = [shapes[f"{down}{i}.block.0.conv1.weight"][0] for i in range(n_levels)]
    return {
        "in_channels": shapes[f"{_VAE}encoder.conv_in.weight"][1],
        "out_channels": shapes[f"{_VAE}decoder.conv_out.weight"][0],
        "down_block_types": ["DownEncoderBlock2D"] * n_levels,
        "up_block_types": ["UpDecoderBlock2D"] * n_levels,
        "block_out_channels": widths,
        "layers_per_block": _count(shapes, re.escape(f"{down}0.block.") + r"(\d+)\."),
        "latent_channels": shapes[f"{_VAE}post_quant_conv.weight"][0],
        "scaling_factor": 0.18215,
    }


def _is_open_clip(shapes: Shapes) -> bool:
    return f"{_OPEN_CLIP_TEXT}positional_embedding" in shapes


def _text_shape(shapes: Shapes) -> tuple[int, int, int]:
    """Tokens L of a prompt, width D and vocabulary of the text encoder."""
    if _is_open_clip(shapes):
        length, width = shapes[f"{_OPEN_CLIP_TEXT}positional_embedding"]
        return length, width, shapes[f"{_OPEN_CLIP_TEXT}token_embedding.weight"][0]
    length, width = shapes[f"{_CLIP_TEXT}embeddings.position_embedding.weight"]
    return length, width, shapes[f"{_CLIP_TEXT}embeddings.token_embedding.weight"][0]


_OPEN_CLIP_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def _from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An open_clip text encoder under transformers' names, without its last layer: Stable
    Diffusion 2 takes what comes before it, through the final norm."""
    state = {name.removeprefix(_OPEN_CLIP_TEXT): tensor for name, tensor in state.items()}
    renamed = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
    }
    layer = r"transformer\.resblocks\.(\d+)\."
    n_layers = _count(state, layer) - 1
    for name, tensor in state.items():
        part, _, kind = name.rpartition(".")
        if part == "ln_final":
            renamed[f"final_layer_norm.{kind}"] = tensor
        elif (match := re.match(layer, name)) and int(match[1]) < n_layers:
            target = f"encoder.layers.{match[1]}."
            inner = part[match.end() :]
            if kind.startswith("in_proj_"):
                kind = kind.removeprefix("in_proj_")
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{target}self_attn.{letter}_proj.{kind}"] = third
            else:
                renamed[f"{target}{_OPEN_CLIP_NAMES.get(inner, inner)}.{kind}"] = tensor
    return renamed


def _count(names: Mapping[str, Any], pattern: str) -> int:
    """Number of members of a list of modules, from its names."""
    numbers = {int(match[1]) for name in names if (match := re.match(pattern, name))}
    return max(numbers, default=-1) + 1
