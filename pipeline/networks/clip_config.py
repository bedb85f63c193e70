"""Configurations of open_clip models: built in, named by open_clip, in a file or on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
import yaml
from huggingface_hub import hf_hub_download

from configs import preset_names, preset_text
from pipeline.networks.architecture import check_numbers
from pipeline.networks.checkpoints import BackboneError, hub_reason, read_json

HUB, FOLDER = "hf-hub:", "local-dir:"
"""How open_clip spells a model that is a hub repository or a folder like one."""
_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class ClipArchitecture:
    """An open_clip model configuration, and how its images are normalised if it says so."""

    name: str
    model: dict[str, Any]
    preprocess: dict[str, Any]


def read_architecture(name: str, download: bool = True) -> ClipArchitecture:
    """A built-in name, an open_clip name, or a JSON model configuration.

    The configuration is given by its path, or by the folder (`local-dir:`) or hub repository
    (`hf-hub:`) that holds it. Nothing is fetched from the hub if `download` is false.
    """
    if name in preset_names("architecture"):
        model = yaml.safe_load(preset_text(f"architectures/{name}.yaml")).get("clip")
        if model:
            return ClipArchitecture(name, model, {})
    if name.startswith(HUB):
        return _read_model_config(_hub_config(name, download), name)
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER)).expanduser()
        return _read_model_config(folder / _CONFIG, name)
    if name.endswith(".json"):
        return _read_model_config(Path(name).expanduser(), name)
    model = open_clip.get_model_config(name)
    if model is None:
        raise BackboneError(
            f"{name}: open_clip has no model of that name (`open_clip.list_models()` lists them); "
            "or give the path of a .json model configuration"
        )
    return ClipArchitecture(name, model, {})


def _hub_config(name: str, download: bool) -> Path:
    """The configuration of a model on the hub, in the hub's cache. Raises BackboneError."""
    elsewhere = f"download the repository elsewhere and set backbone.clip.model to {FOLDER}PATH"
    repository = name.removeprefix(HUB)
    try:
        return Path(hf_hub_download(repository, _CONFIG, local_files_only=not download))
    except Exception as error:
        # The hub client raises many kinds; all mean that the configuration is not here.
        if not download:
            raise BackboneError(
                f"{name} is not on this machine; reach the hub once, or {elsewhere}"
            ) from None
        raise BackboneError(f"{name}: {hub_reason(error)}; {elsewhere}") from None


def _read_model_config(path: Path, name: str) -> ClipArchitecture:
    """An open_clip JSON configuration. Raises BackboneError; `name` is what the user gave."""
    if name.startswith(FOLDER) and not path.is_file():
        raise BackboneError(f"{name}: no {_CONFIG} in that folder; give the folder of a model")
    document = read_json(path)
    model = document.get("model_cfg", document)
    if not isinstance(model, dict) or not all(
        isinstance(model.get(key), dict) for key in ("vision_cfg", "text_cfg")
    ):
        raise BackboneError(f"{name}: not an open_clip configuration (vision_cfg and text_cfg)")
    check_numbers(document, name)
    _check_towers(model, name)
    preprocess = document.get("preprocess_cfg", {})
    if not isinstance(preprocess, dict):
        raise BackboneError(f"{name}: preprocess_cfg must be a mapping, of mean and std")
    return ClipArchitecture(name, model, preprocess)


def _check_towers(model: dict[str, Any], where: str) -> None:
    """Refuse a file that names towers elsewhere: building it would fetch what the file names."""
    if "hf_model_name" in model["text_cfg"]:
        raise BackboneError(
            f"{where}: its text tower is a hub model, which is not fetched for a file; "
            "use the open_clip name of the model"
        )
    trunk = model["vision_cfg"].get("timm_model_name")
    if trunk and not (isinstance(trunk, str) and timm.is_model(trunk)):
        raise BackboneError(f"{where}: timm has no model {str(trunk)[:60]!r}; use one of its names")
