"""Finding model files and saying clearly what is wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from configs import preset_names


class BackboneError(ValueError):
    """A backbone that cannot be loaded; the message says which file and what to do."""


SD_FILES = [
    "*/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
    "null_prompt.safetensors",
    *(
        f"{folder}/{stem}{ending}"
        for folder, stem in (
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
        )
        for ending in (".safetensors", ".safetensors.index.json", "-*-of-*.safetensors")
    ),
]
"""What is taken from a hub repository: configurations and full-precision safetensors."""


MAX_JSON_BYTES = 16 * 2**20
"""Of a model's JSON file; the index of a checkpoint of many files has some 100 KB."""

CLIP_WEIGHTS = "open_clip_model.safetensors"
"""The name open_clip itself gives to a model's weights."""


def packaged_weights(name: str, part: Literal["sd", "clip"]) -> Path | None:
    """The folder of a built-in backbone's weights; None for any other name."""
    if name not in preset_names("architecture"):
        return None
    folder = Path(__file__).parents[1] / name / "weights" / part
    return folder if folder.is_dir() else None


def sd_folder(source: str, revision: str | None) -> Path:
    """The diffusers folder of a checkpoint: built in, local, or downloaded from the hub."""
    path = packaged_weights(source, "sd") or Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise BackboneError(f"{source}: is a file; give the diffusers folder it belongs to")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise BackboneError(
            f"{source}: no such folder; give a local diffusers folder or a hub id (owner/name)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=SD_FILES))
    except LocalEntryNotFoundError:
        why = "it is not in the local hub cache and the hub cannot be reached"
    except HfHubHTTPError as error:
        why = f"the hub refused it ({one_line(error)})"
    except OSError as error:
        why = f"the download failed ({one_line(error)})"
    raise BackboneError(
        f"{source}: {why}; download it elsewhere and set backbone.sd.source to the folder, "
        "or try --set backbone.weights=random"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. Raises BackboneError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BackboneError(f"{path}: is larger than {MAX_JSON_BYTES // 2**20} MiB")
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(
            f"{path}: missing; is this a complete diffusers folder? download it again"
        ) from None
    except BackboneError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{path}: not readable JSON ({one_line(error)})") from None
    if not isinstance(document, dict):
        raise BackboneError(f"{path}: must hold a JSON object")
    return document


def check_safetensors(folder: Path, stem: str) -> None:
    """Raise BackboneError unless a component's safetensors files are all there and whole.

    Every header is read, which finds missing and truncated files without loading a tensor.
    """
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        files = [single]
    elif index.is_file():
        files = _indexed_files(folder, index)
    elif any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise BackboneError(
            f"{folder}: holds only pickled weights, which can run code when opened; "
            "convert them to safetensors"
        )
    elif any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(p.name for p in folder.glob("*.safetensors")))
        raise BackboneError(
            f"{folder}: has no {single.name} (found {found}); rename or re-download"
        )
    else:
        raise BackboneError(f"{single}: missing; the download is incomplete, fetch it again")
    for path in files:
        check_safetensors_file(path)


def _indexed_files(folder: Path, index: Path) -> list[Path]:
    """The files that an index names: beside it, and nowhere else."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BackboneError(f"{index}: has no weight_map; fetch it again")
    for name in weight_map.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.-]*\.safetensors", name):
            raise BackboneError(
                f"{index}: names {str(name)[:60]!r}, which is no safetensors file beside it; "
                "fetch the checkpoint again"
            )
    return [folder / name for name in sorted(set(weight_map.values()))]


def check_safetensors_file(path: Path) -> None:
    """Raise BackboneError if one safetensors file is missing, truncated or something else."""
    if not path.is_file():
        raise BackboneError(f"{path}: missing; the download is incomplete, fetch it again")
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise BackboneError(
            f"{path}: truncated or not safetensors ({one_line(error)}); fetch it again"
        ) from None


def one_line(error: BaseException) -> str:
    """An exception's message without line breaks, cut to a readable length."""
    return " ".join(str(error).split())[:200] or type(error).__name__
