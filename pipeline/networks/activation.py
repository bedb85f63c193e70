"""The non-linearity of a vision transformer's blocks, and weights that do not say theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from configs import preset_names

_NAMES = {
    "QuickGELU": "quick_gelu",
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "SiLU": "silu",
    "ReLU": "relu",
}
"""By class name: torch, open_clip and timm each have classes of their own."""


def activation_of(visual: nn.Module) -> str:
    """`gelu`, `quick_gelu`, `gelu_tanh`, `silu` or `relu`, as the modules of a tower compute it.

    Several are joined by `+`.
    """
    found = set()
    for module in visual.modules():
        name = _NAMES.get(type(module).__name__)
        if name == "gelu" and getattr(module, "approximate", "none") == "tanh":
            name = "gelu_tanh"
        if name is not None:
            found.add(name)
    return "+".join(sorted(found))


UNKNOWN_ADVICE = (
    'if it was, set "quick_gelu": true in the .json model configuration or use the model name that '
    "ends in -quickgelu; if not, set it to false there or in open_clip_config.json beside the file"
)


def unknown_activation(weights: Path, name: str, model: Mapping[str, Any]) -> str | None:
    """A sentence if only a default decides what is computed with weights that say nothing.

    A model configuration that has `quick_gelu`, a name that ends in -quickgelu and the built-in
    architectures are no defaults, and timm's towers have no choice.

    Args:
        weights: a local file that does not tell its activation, by its name or otherwise.
        name: of the model, as configured.
        model: its open_clip configuration.
    """
    chosen = "quick_gelu" in model or "quickgelu" in name.lower()
    if chosen or name in preset_names("architecture") or model["vision_cfg"].get("timm_model_name"):
        return None
    return (
        f"{weights}: does not say whether it was trained with QuickGELU, as OpenAI's weights were; "
        "GELU is used"
    )
