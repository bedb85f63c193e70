"""Where the weights of a backbone lie on this machine. Nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

import timm
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_WEIGHTS_NAME

from configs import ClipConfig, SDConfig, TimmConfig
from pipeline.networks.checkpoints import (
    CLIP_WEIGHTS,
    SD_COMPONENTS,
    BackboneError,
    check_safetensors,
    check_safetensors_file,
    hub_folder,
    packaged_weights,
    sd_folder,
)
from pipeline.networks.clip import known_weights, weights_label
from pipeline.networks.single_file import single_file, single_file_architecture
from pipeline.networks.stable_diffusion import sd_architecture

_CLIP_DOWNLOADS = Path("~/.cache/clip")
"""Where open_clip keeps what does not come from the hub."""


def sd_folder_here(config: SDConfig) -> Path:
    """The diffusers folder (built in, local, or in the hub's cache) or the single file.

    Every file that stage 1 reads is there and whole. Raises BackboneError.
    """
    if (file := single_file(config.source)) is not None:
        single_file_architecture(file)
        return file
    if packaged_weights(config.source, "sd") or Path(config.source).expanduser().exists():
        folder = sd_folder(config.source, config.revision)
    else:
        try:
            folder = hub_folder(config.source, config.revision, local_files_only=True)
        except Exception:
            # The hub client raises many kinds; all mean that the checkpoint is not here.
            raise _not_here(config.source, "backbone.sd.source") from None
    sd_architecture(SDConfig(source=str(folder)))  # reads its configuration files
    for name in ("unet", "vae"):
        check_safetensors(folder / name, SD_COMPONENTS[name])
    if (folder / "text_encoder").is_dir():
        check_safetensors(folder / "text_encoder", SD_COMPONENTS["text_encoder"])
        if not (folder / "tokenizer").is_dir():
            raise BackboneError(f"{folder / 'tokenizer'}: missing; download the whole checkpoint")
    elif not (folder / "null_prompt.safetensors").is_file():
        raise BackboneError(
            f"{folder}: has neither text_encoder/ nor null_prompt.safetensors; "
            "download the whole checkpoint"
        )
    return folder


def clip_weights(config: ClipConfig) -> Path:
    """CLIP's weights: built in, local, or where open_clip keeps those of a tag.

    Raises BackboneError; also for an activation that is not that of the weights.
    """
    path, tag = known_weights(config)
    if path is None and tag.get("hf_hub"):
        repository, name = os.path.split(tag["hf_hub"])
        if name:
            names = [str(Path(name).with_suffix(".safetensors")), name]
        else:
            names = [CLIP_WEIGHTS, HF_WEIGHTS_NAME]
        path = next((kept for file in names if (kept := _cached(repository, file))), None)
    elif path is None and tag.get("url"):
        kept = _CLIP_DOWNLOADS.expanduser() / Path(tag["url"]).name
        path = kept if kept.is_file() else None
    if path is None:
        raise _not_here(weights_label(config), "backbone.clip.pretrained")
    if path.suffix == ".safetensors":
        check_safetensors_file(path)
    return path


def timm_weights(config: TimmConfig) -> Path:
    """A timm model's weights: a local file, or in the hub's cache. Raises BackboneError."""
    path = None if config.pretrained is None else config.pretrained.expanduser()
    if path is None:
        known = timm.get_pretrained_cfg(config.model, allow_unregistered=True)
        if known is not None and known.hf_hub_id:
            repository, _, revision = known.hf_hub_id.partition("@")
            file = known.hf_hub_filename or "model.safetensors"
            path = _cached(repository, file, revision or None)
    if path is None:
        raise _not_here(config.model, "backbone.timm.pretrained")
    check_safetensors_file(path)
    return path


def _cached(repository: str, file: str, revision: str | None = None) -> Path | None:
    """A file of the hub's cache, None where it is not there."""
    path = try_to_load_from_cache(repository, file, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _not_here(what: str, key: str) -> BackboneError:
    return BackboneError(
        f"{what} is not on this machine; reach the hub once, or copy the files here and set "
        f"{key}, or set backbone.weights=random"
    )
