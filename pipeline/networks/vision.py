"""One frozen vision transformer of timm, for the baselines B-DINO and B-DINOv2."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from configs import BackboneConfig, TimmConfig
from pipeline.networks.architecture import check_fits, check_numbers
from pipeline.networks.backbone import compute_in
from pipeline.networks.checkpoints import (
    BackboneError,
    check_safetensors_file,
    conversion_command,
    hub_reason,
    one_line,
    read_json,
)
from pipeline.networks.digest import digest_named, digest_values, hash_tensors
from pipeline.networks.settings import timm_names, timm_settings
from pipeline.networks.stable_diffusion import RANDOM_SEED
from pipeline.networks.transfer import to_device

_PATCHES = "patch_embed.proj.weight"
_POSITIONS = "pos_embed"


@dataclass(frozen=True)
class VisionGeometry:
    """Shapes per image: token map (D, h, w), and length of the descriptor."""

    tokens: tuple[int, int, int]
    pooled: int


@dataclass(frozen=True)
class VisionTower:
    """A frozen transformer on `device`, computing in `dtype`; every result is float32.

    `mean` and `std` are per RGB channel in [0, 1]; `digest` is that of the trained weights and of
    what is done with them, `aliases` those that older stores may hold in its place.
    """

    model: nn.Module
    geometry: VisionGeometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    device: torch.device
    dtype: torch.dtype
    aliases: tuple[str, ...] = ()

    @torch.inference_mode()
    def encode(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Token map [B, D, h, w] and descriptor [B, D] of uint8 squares [B, 3, R, R]."""
        mean, std = (
            to_device(torch.tensor(values), self.device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )
        pixels = (to_device(squares, self.device).float() / 255.0 - mean) / std
        tokens, pooled = vision_features(self.model, pixels.to(self.dtype))
        return tokens.float().contiguous(), pooled.float().contiguous()


def load_vision(
    config: BackboneConfig, device: str = "cpu", precision: str = "float32"
) -> VisionTower:
    """Load the transformer of `config.timm` for squares of `config.resolution` pixels.

    Position embeddings are interpolated where the weights were trained at another size, as timm
    does (bicubic, antialiased). Raises BackboneError for unknown names, a resolution that is no
    multiple of the patch, missing, pickled or damaged files, and weights that do not fit.
    """
    architecture = _read_architecture(_timm(config))
    blank = build_vision(config)
    geometry = vision_geometry(blank, config.resolution)
    target, dtype = compute_in(device, precision)
    if config.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            model = _create(architecture, config.resolution)
        tensors = {}
    else:
        path = _find_weights(_timm(config), architecture)
        tensors = _read_weights(path, blank)
        try:
            model = _create(architecture, config.resolution, tensors)
        except Exception as error:
            # timm and torch raise KeyError, RuntimeError and others here.
            raise BackboneError(
                f"{path}: cannot be loaded into {architecture.name} ({one_line(error)})"
            ) from None
    mean, std = (architecture.statistics(model, key) for key in ("mean", "std"))
    digest, aliases = _digests(model.state_dict(), tensors, architecture, mean, std)
    model.eval().requires_grad_(False)
    nn.Module.to(model, target, dtype)
    return VisionTower(model, geometry, mean, std, digest, target, dtype, aliases)


def _digests(
    state: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    architecture: _Architecture,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple[str, tuple[str, ...]]:
    """The tower's digest, and those that older stores may hold.

    `state` are the model's tensors, `trained` those of the file: what was interpolated counts as
    it was trained, because the last bits of the result may differ between machines.
    """
    hashed = hash_tensors(state)
    interpolated = {
        name
        for name, tensor in trained.items()
        if name in state and tensor.numel() != state[name].numel()
    }
    in_file = hash_tensors(
        {name: trained[name].float() for name in {*interpolated, _POSITIONS} & trained.keys()}
    )
    as_trained = hashed | {name: in_file[name] for name in interpolated}
    settings = timm_settings(architecture.name, architecture.arguments, mean, std)
    # Older digests have timm's name as it was configured, and of the file only the positions.
    named = hashed | {name: value for name, value in in_file.items() if name == _POSITIONS}
    as_spelled = {"model_args": architecture.arguments, "mean": mean, "std": std}
    aliases = tuple(
        digest_named(named, {"architecture": name, **as_spelled})
        for name in timm_names(architecture.name)
    )
    return digest_values(as_trained.values(), settings), aliases


def vision_features(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Patch tokens [B, D, h, w] and descriptor [B, D], both after the final norm.

    `images` are normalised with the model's own mean and standard deviation, [B, 3, R, R]. The
    tokens are without CLS and registers. The descriptor is CLS; where there is none, or where the
    final norm comes after the pooling, it is the model's own pooling.

    `forward_intermediates` serves all of timm's transformers and gives map and sequence in one
    pass; timm keeps `get_intermediate_layers` for old callers only.
    """
    sequence, [tokens] = model.forward_intermediates(
        images, indices=1, norm=True, output_fmt="NCHW"
    )
    has_cls = getattr(model, "cls_token", None) is not None
    pools_first = not isinstance(getattr(model, "fc_norm", nn.Identity()), nn.Identity)
    if has_cls and not pools_first:
        return tokens, sequence[:, 0]
    return tokens, model.forward_head(sequence, pre_logits=True)


def build_vision(config: BackboneConfig) -> nn.Module:
    """The architecture on torch's `meta` device: shapes without weights. Raises BackboneError."""
    architecture = _read_architecture(_timm(config))
    name, resolution = architecture.name, config.resolution
    try:
        with torch.device("meta"):
            model = _create(architecture, resolution).eval()
    except Exception as error:
        # timm has no error of its own for what it cannot build.
        raise BackboneError(
            f"{name}: timm cannot build it for squares of {resolution} pixels ({one_line(error)}); "
            "use a vision transformer"
        ) from None
    if not all(
        hasattr(model, part) for part in ("forward_intermediates", "num_prefix_tokens", "blocks")
    ):
        raise BackboneError(f"{name}: is not a vision transformer of one grid of tokens")
    check_fits(model, name)
    patch = max(model.patch_embed.patch_size)
    if resolution % patch:
        raise BackboneError(
            f"backbone.resolution {resolution} is not a multiple of {name}'s patch size {patch}; "
            f"use {max(1, round(resolution / patch)) * patch}"
        )
    return model


@torch.no_grad()
def vision_geometry(blank: nn.Module, resolution: int) -> VisionGeometry:
    """Shapes that a model on the `meta` device gives, by running it once. Raises BackboneError."""
    try:
        tokens, pooled = vision_features(
            blank, torch.zeros(1, 3, resolution, resolution, device="meta")
        )
        _, width, height, breadth = tokens.shape
        return VisionGeometry((width, height, breadth), pooled.shape[1])
    except Exception as error:
        # What a module makes of a shape it does not expect.
        raise BackboneError(
            f"{type(blank).__name__} gives no token map ({one_line(error)}); "
            "use a vision transformer"
        ) from None


@dataclass(frozen=True)
class _Architecture:
    """A timm name and, of a JSON configuration, its arguments and its `pretrained_cfg`."""

    name: str
    arguments: Mapping[str, Any]
    trained: Mapping[str, Any]
    source: str

    def statistics(self, model: Any, key: str) -> tuple[float, ...]:
        """`mean` or `std` of the pixels the weights were trained on. Raises BackboneError."""
        values = self.trained.get(key, model.pretrained_cfg[key])
        try:
            numbers = tuple(float(value) for value in values)
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) != 3:
            raise BackboneError(f"{self.source}: {key} must be three numbers, for RGB")
        return numbers


def _timm(config: BackboneConfig) -> TimmConfig:
    if config.timm is None:
        raise BackboneError(f"{config.label}: holds sd and clip, not a timm model")
    return config.timm


def _read_architecture(config: TimmConfig) -> _Architecture:
    """A timm name, or a JSON file as timm saves it: `architecture`, `model_args`, ..."""
    if not config.model.endswith(".json"):
        _check_name(config.model, config.model)
        return _Architecture(config.model, {}, {}, config.model)
    document = read_json(Path(config.model).expanduser())
    name, arguments = document.get("architecture"), document.get("model_args", {})
    trained = document.get("pretrained_cfg", {})
    if not isinstance(name, str) or not all(isinstance(d, dict) for d in (arguments, trained)):
        raise BackboneError(
            f"{config.model}: not a timm configuration (architecture, and mappings "
            "model_args and pretrained_cfg)"
        )
    check_numbers(document, config.model)
    _check_name(name, config.model)
    return _Architecture(name, arguments, trained, config.model)


def _check_name(name: str, where: str) -> None:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=1)
        hint = f"; did you mean {near[0]}?" if near else " (`timm.list_models()` lists them)"
        prefix = "" if where == name else f"{where}: "
        raise BackboneError(f"{prefix}{name}: timm has no model of that name{hint}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
    tag = name.partition(".")[2]
    if tag and tag not in tags:
        known = ", ".join(tags) or "none"
        raise BackboneError(f"{name}: timm knows no weights of that tag (tags: {known})")


def _create(
    architecture: _Architecture, resolution: int, tensors: Mapping[str, Tensor] | None = None
) -> Any:
    """timm's model; `tensors` are adapted to it by timm and then have to fit exactly."""
    # Without a classifier in the description of the weights, timm stays strict.
    described = {} if tensors is None else {"state_dict": dict(tensors), "num_classes": 0}
    model: Any = timm.create_model(
        architecture.name,
        pretrained=tensors is not None,
        pretrained_cfg_overlay=described,
        **{
            **architecture.arguments,
            "num_classes": 0,
            "img_size": resolution,
            "checkpoint_path": None,
        },
    )
    model.pretrained_cfg.pop("state_dict", None)
    return model


def _find_weights(config: TimmConfig, architecture: _Architecture) -> Path:
    """The local file, or that of the hub for timm's name."""
    advice = "set backbone.timm.pretrained to a local safetensors file, or backbone.weights=random"
    if config.pretrained is not None:
        path = config.pretrained.expanduser()
        if not path.is_file():
            raise BackboneError(
                f"backbone.timm.pretrained: {path}: no such file; give a safetensors file, "
                "or null for timm's own weights from the hub"
            )
        return path
    if config.model.endswith(".json"):
        raise BackboneError(f"backbone.timm.pretrained is not set for {config.model}: {advice}")
    known = timm.get_pretrained_cfg(architecture.name)
    file = (known and known.hf_hub_filename) or "model.safetensors"
    if known is None or not known.hf_hub_id or not file.endswith(".safetensors"):
        raise BackboneError(f"{architecture.name}: timm has no safetensors on the hub; {advice}")
    from huggingface_hub import hf_hub_download

    repository, _, revision = known.hf_hub_id.partition("@")
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except Exception as error:
        # The hub client raises many kinds; all mean that the weights are not here.
        raise BackboneError(f"{architecture.name}: {hub_reason(error)}; {advice}") from None


def _read_weights(path: Path, blank: Any) -> dict[str, Tensor]:
    """The tensors of a file, without a classifier, if they are for patches of this size."""
    if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".tar"):
        raise BackboneError(
            f"{path}: pickled weights can run code when opened; convert them to safetensors: "
            f"{conversion_command([path], path.with_suffix('.safetensors'))}"
        )
    check_safetensors_file(path)
    heads = blank.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    tensors = {
        name: tensor
        for name, tensor in load_file(path).items()
        if name.rpartition(".")[0] not in heads
    }
    if not tensors:
        raise BackboneError(f"{path}: holds no weights")
    # timm would resample these without a word.
    theirs, ours = tensors.get(_PATCHES), blank.state_dict().get(_PATCHES)
    if theirs is not None and ours is not None and theirs.shape != ours.shape:
        raise BackboneError(
            f"{path}: its patch embedding is {tuple(theirs.shape)}, but the model's is "
            f"{tuple(ours.shape)}; the weights are of another model"
        )
    return tensors
