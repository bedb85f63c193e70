"""Frozen CLIP: the visual tower of an open_clip model."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.constants import HF_WEIGHTS_NAME
from open_clip.convert import convert_state_dict
from open_clip.factory import load_state_dict
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from torch import Tensor, nn

from configs import ClipConfig
from pipeline.networks.activation import UNKNOWN_ADVICE, activation_of, unknown_activation
from pipeline.networks.architecture import check_fits
from pipeline.networks.checkpoints import (
    CLIP_WEIGHTS,
    BackboneError,
    check_safetensors_file,
    conversion_command,
    one_line,
    packaged_weights,
    read_json,
)
from pipeline.networks.clip_config import FOLDER, HUB, ClipArchitecture, read_architecture
from pipeline.networks.digest import digest_named, digest_values, hash_tensors
from pipeline.networks.settings import clip_settings, plain
from pipeline.networks.stable_diffusion import RANDOM_SEED
from pipeline.networks.torchscript import is_torchscript, read_torchscript, torchscript_names

_log = logging.getLogger(__name__)

QUICK_GELU_HINT = "OpenAI's weights need QuickGELU: use the model name that ends in -quickgelu"

_OPENAI_SIZES = {"input_resolution", "context_length", "vocab_size"}
"""Sizes that OpenAI's TorchScript archives hold as tensors among the weights."""


@dataclass(frozen=True)
class ClipVision:
    """A frozen visual tower, float32 on the CPU, and how its input is normalised.

    `tokens` is the token map's shape (D, h, w), `embedding` the length E of the image embedding;
    `mean` and `std` are per RGB channel in [0, 1]. `activation` is that of the blocks, as
    `quick_gelu` or `gelu`; `aliases` are digests that older stores may hold in place of `digest`.
    """

    visual: nn.Module
    tokens: tuple[int, int, int]
    embedding: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    digest: str
    activation: str = "gelu"
    aliases: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Channels D of the token map."""
        return self.tokens[0]


def load_clip(config: ClipConfig, resolution: int, random_weights: bool = False) -> ClipVision:
    """Build the tower for square images of `resolution` pixels and load its weights.

    Position embeddings are interpolated where the weights were trained at another size, as
    open_clip does. Raises BackboneError for unknown names, missing or damaged files, weights
    that do not fit the model, and an activation that does not match the weights; logs a warning
    if nothing says which activation the weights need.
    """
    architecture = read_architecture(config.model)
    preprocess = dict(architecture.preprocess)
    weights: Path | None = None
    if not random_weights:
        weights, tag = _find_weights(config)
        preprocess |= {key: tag[key] for key in ("mean", "std") if key in tag}
    with torch.device("meta"):
        check_fits(build_clip(config, resolution), config.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = build_clip(config, resolution)
    trained: dict[str, Tensor] = {}
    if weights is not None:
        doubt = activation_doubt(config)
        if doubt:
            _log.warning("%s; %s", doubt, UNKNOWN_ADVICE)
        trained = _load_weights(model, weights, architecture)
    visual = model.visual.eval().requires_grad_(False)
    mean = _rgb(preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN), "mean", config.model)
    std = _rgb(preprocess.get("std", open_clip.OPENAI_DATASET_STD), "std", config.model)
    if min(std) <= 0:
        raise BackboneError(f"{config.model}: std is {list(std)}; it must be above zero")
    activation = activation_of(visual)
    digest, alias = _digests(visual, trained, architecture, activation, mean, std)
    tokens, embedding = clip_shapes(visual, resolution)
    return ClipVision(visual, tokens, embedding, mean, std, digest, activation, (alias,))


def _digests(
    visual: nn.Module,
    trained: Mapping[str, Tensor],
    architecture: ClipArchitecture,
    activation: str,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> tuple[str, str]:
    """The tower's digest, and the one that older stores hold.

    `trained` are tensors as they were before they were resized to the model's resolution: the last
    bits of interpolated ones may differ between machines.
    """
    hashed = hash_tensors(visual.state_dict())
    vision = architecture.model["vision_cfg"]
    settings = {
        "vision": clip_settings(vision),
        "activation": activation,
        "mean": plain(mean),
        "std": plain(std),
    }
    as_spelled = {
        "vision": {key: value for key, value in vision.items() if key != "image_size"},
        "quick_gelu": bool(architecture.model.get("quick_gelu", False)),
        "mean": mean,
        "std": std,
    }
    as_trained = hashed | hash_tensors(trained)
    return digest_values(as_trained.values(), settings), digest_named(hashed, as_spelled)


def build_clip(config: ClipConfig, resolution: int) -> CLIP | CustomTextCLIP:
    """The open_clip model with whatever weights it initialises to."""
    model = copy.deepcopy(read_architecture(config.model).model)
    patch = model["vision_cfg"].get("patch_size")
    if isinstance(patch, int) and patch < 1:
        raise BackboneError(f"{config.model}: patch_size is {patch}; it must be 1 or more")
    if isinstance(patch, int) and resolution % patch:
        raise BackboneError(
            f"backbone.resolution {resolution} is not a multiple of CLIP's patch size {patch}; "
            f"use {max(1, round(resolution / patch)) * patch}"
        )
    model["vision_cfg"]["image_size"] = resolution
    custom_text = model.pop("custom_text", False) or "hf_model_name" in model["text_cfg"]
    for section, key in (
        ("text_cfg", "hf_model_pretrained"),
        ("vision_cfg", "timm_model_pretrained"),
    ):
        if key in model[section]:
            model[section][key] = False
    try:
        return (CustomTextCLIP if custom_text else CLIP)(**model)
    except Exception as error:
        # open_clip has no error of its own for a configuration it cannot build.
        raise BackboneError(
            f"{config.model}: open_clip cannot build this model ({one_line(error)})"
        ) from None


def clip_features(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Token map [B, D, h, w] of the last block before `ln_post` (no CLS), and the embedding [B, E].

    `images` are normalised with the tower's own mean and standard deviation, [B, 3, R, R].
    """
    out = visual.forward_intermediates(
        images, indices=1, normalize_intermediates=False, output_fmt="NCHW"
    )
    return out["image_intermediates"][-1], out["image_features"]


@torch.no_grad()
def clip_shapes(visual: Any, resolution: int) -> tuple[tuple[int, int, int], int]:
    """Shape (D, h, w) of the token map and length E of the embedding, by running it once."""
    if not hasattr(visual, "forward_intermediates"):
        raise BackboneError(f"{type(visual).__name__} gives no token map; use a vision transformer")
    device = next(visual.parameters()).device
    try:
        tokens, embedding = clip_features(
            visual, torch.zeros(1, 3, resolution, resolution, device=device)
        )
        _, width, height, breadth = tokens.shape
    except Exception as error:
        # Whatever a module makes of a setting that nobody has tried.
        raise BackboneError(
            f"{type(visual).__name__} gives no token map ({one_line(error)}); "
            "use a vision transformer"
        ) from None
    return (width, height, breadth), embedding.shape[1]


def _rgb(values: Any, key: str, where: str) -> tuple[float, float, float]:
    """Three finite numbers. Raises BackboneError."""
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        red = green = blue = math.nan
    if not all(map(math.isfinite, (red, green, blue))):
        raise BackboneError(f"{where}: {key} must be three numbers, for RGB")
    return red, green, blue


def known_weights(config: ClipConfig) -> tuple[Path | None, dict[str, Any]]:
    """The local file of the weights, or None and what open_clip knows about their tag.

    Nothing is downloaded. Raises BackboneError where there is neither, and where the model's
    activation is not the one the weights were trained with.
    """
    architecture = read_architecture(config.model, download=False)
    if not config.pretrained:
        return _weights_of_model(config.model)
    packaged = packaged_weights(config.pretrained, "clip")
    path = packaged / CLIP_WEIGHTS if packaged else Path(config.pretrained).expanduser()
    if path.is_file():
        _check_quick_gelu_of_file(path, architecture)
        return path, {}
    tag = open_clip.get_pretrained_cfg(config.model, config.pretrained)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(config.model)) or "none"
        raise BackboneError(
            f"{config.pretrained}: neither a file nor a tag of {config.model} (tags: {tags})"
        )
    _check_quick_gelu(
        architecture, bool(tag.get("quick_gelu", False)), f"tag {config.pretrained!r}"
    )
    return None, tag


def _weights_of_model(name: str) -> tuple[Path | None, dict[str, Any]]:
    """The weights beside the configuration of a hub repository or a folder, as `known_weights`."""
    if name.startswith(HUB):
        return None, {"hf_hub": f"{name.removeprefix(HUB)}/"}
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER)).expanduser()
        for file in (CLIP_WEIGHTS, HF_WEIGHTS_NAME):
            if (folder / file).is_file():
                return folder / file, {}
        raise BackboneError(f"{name}: holds neither {CLIP_WEIGHTS} nor {HF_WEIGHTS_NAME}")
    raise BackboneError(
        "backbone.clip.pretrained is not set: give an open_clip tag or a local weights file, "
        "or set backbone.weights=random"
    )


def activation_doubt(config: ClipConfig) -> str | None:
    """What nothing says about the activation that the weights need; None if something does.

    Raises BackboneError as `known_weights` does.
    """
    path, _ = known_weights(config)
    if path is None or _needs_quick_gelu(path) is not None:
        return None
    architecture = read_architecture(config.model)
    return unknown_activation(path, architecture.name, architecture.model)


def _find_weights(config: ClipConfig) -> tuple[Path, dict[str, Any]]:
    """The weights file, and what open_clip knows about its tag (empty for a local file)."""
    path, tag = known_weights(config)
    if path is not None:
        return path, tag
    try:
        return Path(open_clip.download_pretrained(tag)), tag
    except Exception as error:
        # The hub client and urllib raise many kinds; all mean that the weights are not here.
        raise BackboneError(
            f"{weights_label(config)}: weights cannot be downloaded ({one_line(error)}); "
            "set backbone.clip.pretrained to a local file, or backbone.weights=random"
        ) from None


def weights_label(config: ClipConfig) -> str:
    """What to call a model and its weights where people read."""
    return f"{config.model}/{config.pretrained}" if config.pretrained else config.model


def _check_quick_gelu_of_file(path: Path, architecture: ClipArchitecture) -> None:
    needed = _needs_quick_gelu(path)
    if needed is not None:
        _check_quick_gelu(architecture, needed, str(path))


def _needs_quick_gelu(path: Path) -> bool | None:
    """Whether a local file's weights were trained with QuickGELU, by the configuration beside
    it, by its name or by its format; None if none of them says so."""
    beside = path.parent / "open_clip_config.json"
    if beside.is_file():
        model = read_json(beside).get("model_cfg", {})
        return isinstance(model, dict) and bool(model.get("quick_gelu", False))
    return True if "openai" in path.stem.lower() or _is_openai_archive(path) else None


def _is_openai_archive(path: Path) -> bool:
    """Whether a file is TorchScript as OpenAI published it, which no other CLIP is."""
    return is_torchscript(path) and torchscript_names(path) >= _OPENAI_SIZES


def _check_quick_gelu(architecture: ClipArchitecture, weights_need: bool, weights: str) -> None:
    model_has = bool(architecture.model.get("quick_gelu", False))
    if model_has != weights_need:
        words = {True: "QuickGELU", False: "GELU"}
        raise BackboneError(
            f"{architecture.name} uses {words[model_has]} but {weights} was trained with "
            f"{words[weights_need]}; {QUICK_GELU_HINT if weights_need else 'use the plain name'}"
        )


def _load_weights(
    model: CLIP | CustomTextCLIP, path: Path, architecture: ClipArchitecture
) -> dict[str, Tensor]:
    """Load a file; returns the visual tower's tensors that had to be resized, as they were."""
    try:
        return _fill(model, _read_state(path))
    except BackboneError:
        raise
    except pickle.UnpicklingError:
        command = conversion_command([path], path.with_suffix(".safetensors"), trusted=True)
        raise BackboneError(
            f"{path}: holds pickled objects, which can run code when opened; if you trust its "
            f"publisher, convert it to safetensors: {command}"
        ) from None
    except Exception as error:
        # torch and open_clip raise KeyError, RuntimeError and others here.
        raise BackboneError(
            f"{path}: cannot be loaded into {architecture.name} ({one_line(error)})"
        ) from None


def _read_state(path: Path) -> dict[str, Any]:
    """The tensors of a weights file by name. Raises BackboneError, and what torch raises."""
    if path.suffix == ".safetensors":
        check_safetensors_file(path)
    elif is_torchscript(path):
        return read_torchscript(path)
    else:
        _check_archive(path)
    return load_state_dict(str(path), weights_only=True)


def _fill(model: CLIP | CustomTextCLIP, state: dict[str, Any]) -> dict[str, Tensor]:
    """What `open_clip.load_checkpoint` does with a file's tensors, but in float32: position
    embeddings in float16 it cannot resize. Raises whatever torch and open_clip raise.

    Returns the visual tower's tensors that were resized, as they were in the file.
    """
    own = model.state_dict().keys()
    state = {
        name: t.float() if torch.is_tensor(t) and t.is_floating_point() else t
        for name, t in state.items()
        # A TorchScript archive has these beside the weights.
        if name in own or not (name in _OPENAI_SIZES or name.endswith("attn_mask"))
    }
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        own = getattr(model, name, None)
        if name in state and own is not None:
            state[name] = state[name].reshape(own.shape)
    before = {name: t for name, t in state.items() if name.startswith(_VISUAL)}
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    model.load_state_dict(state, strict=True)
    return {
        name.removeprefix(_VISUAL): tensor
        for name, tensor in before.items()
        if tensor.shape != state[name].shape
    }


_VISUAL = "visual."


def _check_archive(path: Path) -> None:
    """Refuse what `torch.save` did not write, and what unpacks to more than its own size."""
    if path.suffix in (".npz", ".npy"):
        raise BackboneError(f"{path}: NumPy files are not read; convert them to safetensors")
    if not zipfile.is_zipfile(path):
        return  # An old PyTorch file, which holds its tensors as they are.
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BackboneError(f"{path}: damaged archive ({one_line(error)})") from None
    if unpacked > path.stat().st_size:
        raise BackboneError(
            f"{path}: is compressed, which torch.save never does; convert it to safetensors"
        )
