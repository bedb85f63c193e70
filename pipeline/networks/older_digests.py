"""What stores called their networks before version 2 of the digests (docs/store-format.md).

Those digests took in the names of tensors, configurations as they were spelled, and the last bits
of the noise schedule. They are computed from hashes that are there anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.networks.digest import TensorHash, digest_named, digest_tensors, hash_tensors
from pipeline.networks.settings import SCHEDULER_DEFAULTS, scheduler_settings

_IDLE_KEYS = {"sample_size", "transformers_version", "torch_dtype", "dtype", "architectures"}

_TEXT_PREFIX = "text_model."
"""Begins every name of a text encoder's tensors up to transformers 4."""


def older_model_digest(tensors: Mapping[str, TensorHash], config: Mapping[str, Any]) -> str:
    """The former digest of a model of diffusers or transformers.

    `config` is the content of its `config.json`.
    """
    spelled = {
        key: value
        for key, value in config.items()
        if key not in _IDLE_KEYS and not key.startswith("_")
    }
    return digest_named(tensors, spelled)


def older_prompt_digests(
    encoder: Mapping[str, TensorHash], token_ids: Tensor, config: Mapping[str, Any]
) -> tuple[str, str]:
    """The former digests of a prompt [1, L]: with the names of transformers 4, and of 5."""
    named = {name.removeprefix(_TEXT_PREFIX): value for name, value in encoder.items()}
    tokens = hash_tensors({"token_ids": token_ids})
    four, five = (
        older_model_digest({prefix + name: v for name, v in named.items()} | tokens, config)
        for prefix in (_TEXT_PREFIX, "")
    )
    return four, five


def older_schedule_digests(alphas_cumprod: Tensor, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The former digests of a noise schedule, whichever processor computed it.

    `alphas_cumprod` is what this machine makes of `config`, float32 [T].
    """
    found = [alphas_cumprod]
    full = {**SCHEDULER_DEFAULTS, **scheduler_settings(config)}
    if (
        full["beta_schedule"] in ("linear", "scaled_linear")
        and full["trained_betas"] is None
        and not full["rescale_betas_zero_snr"]
    ):
        found += [_cumulative_alphas(full, fused) for fused in (True, False)]
    return tuple(dict.fromkeys(digest_tensors({"alphas_cumprod": alphas}) for alphas in found))


def _cumulative_alphas(full: Mapping[str, Any], fused: bool) -> Tensor:
    """What torch computes, float32 [T], on a processor with or without fused multiply-add.

    Fused, the sum of `linspace` is rounded once; otherwise its product is rounded before.
    """
    n, scaled = full["num_train_timesteps"], full["beta_schedule"] == "scaled_linear"
    start, end = (
        np.float32(full[key] ** 0.5 if scaled else full[key]) for key in ("beta_start", "beta_end")
    )
    step = (end - start) / np.float32(max(n - 1, 1))
    wide = np.float64 if fused else np.float32
    index = np.arange(n)
    rising = wide(start) + wide(step) * index.astype(np.float32)
    falling = wide(end) - wide(step) * (n - 1 - index).astype(np.float32)
    betas = np.where(index < n // 2, rising, falling).astype(np.float32)
    alphas = np.float32(1) - (betas * betas if scaled else betas)
    return torch.from_numpy(np.cumprod(alphas.astype(np.float64)).astype(np.float32))
