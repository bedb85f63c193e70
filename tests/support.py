"""Small bridges between the tests' own data and the product's types."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.networks.injection import Injection


def as_module(weights: Mapping[str, Tensor], channels: Mapping[str, int]) -> Injection:
    """File-format tensors as a module whose parameters can be trained."""
    sites = [site for site in channels if f"{site}.weight" in weights]
    module = Injection(32, {site: channels[site] for site in sites})
    with torch.no_grad():
        for site in sites:
            for kind in ("weight", "bias"):
                getattr(module[site], kind).copy_(weights[f"{site}.{kind}"])
    return module
