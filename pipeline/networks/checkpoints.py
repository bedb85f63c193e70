"""Finding model files and saying clearly what is wrong with them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import SafetensorError, safe_open

from configs import preset_names


class BackboneError(ValueError):
    """A backbone that cannot be loaded; the message says which file and what to do."""


SD_COMPONENTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
"""Stem of the weights' file names in each folder of a diffusers checkpoint."""

_SD_CONFIGS = [
    "*/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
    "null_prompt.safetensors",
]

VARIANTS = (None, "fp32", "fp16", "bf16")
"""Spellings of a file name by precision (`model.fp16.safetensors`), in order of preference."""


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
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise BackboneError(
            f"{source}: no such folder; give a local diffusers folder or a hub id (owner/name)"
        )
    try:
        return hub_folder(source, revision)
    except Exception as error:
        # The hub client and what it is built on raise many kinds; none is a fault of ours.
        raise BackboneError(
            f"{source}: {hub_reason(error)}; download it elsewhere and set backbone.sd.source to "
            "the folder, or try --set backbone.weights=random"
        ) from None


def hub_reason(error: Exception) -> str:
    """Why something of the hub could not be had, in a line; the hub client's own texts are long."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return "it is not in the local hub cache and the hub cannot be reached"
    if isinstance(error, HfHubHTTPError):
        return f"the hub refused it ({one_line(error)})"
    return f"the download failed ({one_line(error)})"


def hub_folder(source: str, revision: str | None, local_files_only: bool = False) -> Path:
    """A hub repository's diffusers folder in the hub's cache, downloaded if it is not there.

    Of each component's weights the first variant that the repository has, and no pickles. Raises
    what the hub client raises.
    """
    from huggingface_hub import snapshot_download

    def download(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                source,
                revision=revision,
                allow_patterns=patterns,
                local_files_only=local_files_only,
            )
        )

    folder = download([*_SD_CONFIGS, *_weight_patterns(SD_COMPONENTS, None)])
    for variant in VARIANTS[1:]:
        missing = [
            part
            for part, stem in SD_COMPONENTS.items()
            if (folder / part).is_dir() and find_weights(folder / part, stem) is None
        ]
        if missing:
            download(_weight_patterns(missing, variant))
    return folder


def _weight_patterns(parts: Iterable[str], variant: str | None) -> list[str]:
    """Patterns of the safetensors files of components, in one variant."""
    patterns = []
    for part in parts:
        single, index = _weight_names(SD_COMPONENTS[part], variant)
        stem = single.removesuffix(".safetensors")
        patterns += [f"{part}/{single}", f"{part}/{index}", f"{part}/{stem}-*-of-*.safetensors"]
        if variant is not None:  # as diffusers named them before 0.31
            patterns.append(f"{part}/{SD_COMPONENTS[part]}-*-of-*.{variant}.safetensors")
    return patterns


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


def check_safetensors(folder: Path, stem: str) -> str | None:
    """Raise BackboneError unless a component's safetensors files are all there and whole.

    Every header is read, which finds missing and truncated files without loading a tensor.
    Returns the variant to load: None for the files without one, which are preferred, or "fp16".
    """
    weights = find_weights(folder, stem)
    if weights is None:
        raise BackboneError(_why_no_weights(folder, stem))
    whole = weights.single.is_file()
    for path in [weights.single] if whole else _indexed_files(folder, weights.shard_index):
        check_safetensors_file(path)
    return weights.variant


class WeightFiles(NamedTuple):
    """Safetensors files of a component: one single file, or the index of several."""

    variant: str | None
    single: Path
    shard_index: Path


def find_weights(folder: Path, stem: str) -> WeightFiles | None:
    """The preferred variant of the weights in a folder, None if it has no safetensors files."""
    for variant in VARIANTS:
        single, index = (folder / name for name in _weight_names(stem, variant))
        if single.is_file() or index.is_file():
            return WeightFiles(variant, single, index)
    return None


def _weight_names(stem: str, variant: str | None) -> tuple[str, str]:
    """Names of the single safetensors file and of the index of several, as diffusers has them."""
    if variant is None:
        return f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    return f"{stem}.{variant}.safetensors", f"{stem}.safetensors.index.{variant}.json"


def _why_no_weights(folder: Path, stem: str) -> str:
    """What a folder without usable safetensors files holds instead, and what to do."""
    target = folder / f"{stem}.safetensors"
    for variant in VARIANTS:
        dotted = f".{variant}" if variant else ""
        pickles = [folder / f"{stem}{dotted}.bin"]
        if not pickles[0].is_file():
            pickles = sorted(folder.glob(f"{stem}{dotted}-*-of-*.bin"))
        if pickles:
            return (
                f"{folder}: holds only pickled weights, which can run code when opened; convert "
                f"them to safetensors: {conversion_command(pickles, target)}"
            )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return (
            f"{folder}: holds only pickled weights, which can run code when opened, and none "
            f"named {stem}.bin; convert them to {target.name}"
        )
    found = ", ".join(sorted(p.name for p in folder.glob("*.safetensors")))
    if found:
        return f"{folder}: has no {target.name} (found {found}); rename or re-download"
    return f"{target}: missing; the download is incomplete, fetch it again"


def conversion_command(pickles: Sequence[Path], target: Path, trusted: bool = False) -> str:
    """A shell command that makes one safetensors file of pickled tensors.

    It refuses pickles that hold anything else, unless they are `trusted`: those may run code.
    """
    files = json.dumps([str(path) for path in pickles], ensure_ascii=False)
    code = (
        "import torch; from safetensors.torch import save_file; "
        f'parts = [torch.load(f, "cpu", weights_only={not trusted}) for f in {files}]; '
        "save_file({k: v.clone(memory_format=torch.contiguous_format) for p in parts "
        'for k, v in p.get("state_dict", p).items() if torch.is_tensor(v)}, '
        f'{json.dumps(str(target), ensure_ascii=False)}, {{"format": "pt"}})'
    )
    return f"python -c {shlex.quote(code)}"


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
