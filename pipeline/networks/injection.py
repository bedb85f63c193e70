"""CLIP-to-SD injection: a 1x1 convolution per site, resized to the block's output and added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from configs import ExtractionConfig
from configs.base import RANDOM
from pipeline.networks.digest import digest_tensors
from pipeline.networks.saving import save_tensors
from pipeline.networks.unet import Inject


class InjectionError(ValueError):
    """An injection file that cannot be used with this backbone."""


class Injection(nn.Module):
    """Learnable maps from CLIP's token map to the UNet's blocks (paper, section 4).

    Args:
        clip_width: channels D of the token map.
        channels: block channels C by site, for the sites that are injected.
    """

    def __init__(self, clip_width: int, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.clip_width = clip_width
        self.channels = dict(channels)
        self._convs = nn.ModuleDict(
            {_module_name(site): nn.Conv2d(clip_width, c, 1) for site, c in channels.items()}
        )

    @property
    def sites(self) -> tuple[str, ...]:
        """The injected sites, as `down.0` or `up.2`."""
        return tuple(self.channels)

    def __getitem__(self, site: str) -> nn.Module:
        """The convolution of one site."""
        return self._convs[_module_name(site)]

    def project(self, tokens: Tensor) -> dict[str, Tensor]:
        """Token map [B, D, h, w] to [B, C, h, w] per site, at CLIP's resolution."""
        return {site: self[site](tokens) for site in self.channels}

    def state(self) -> dict[str, Tensor]:
        """Tensors under the names of the file format: `down.0.weight`, `down.0.bias`, …"""
        return {
            f"{site}.{kind}": getattr(self[site], kind).detach()
            for site in self.channels
            for kind in ("weight", "bias")
        }

    def digest(self) -> str:
        """SHA-256 of the tensors: what the recipe records."""
        return digest_tensors(self.state())

    def save(self, path: str | Path) -> None:
        """Write the tensors as a safetensors file that `load_injection` reads; a file that was
        there is replaced as a whole. Raises OSError."""
        save_tensors(Path(path), self.state())


def load_injection(path: str | Path, clip_width: int, channels: Mapping[str, int]) -> Injection:
    """Read an injection file and check it against the backbone it is meant for.

    Args:
        clip_width: channels of CLIP's token map.
        channels: channels of every site the UNet has.

    Raises:
        InjectionError: no such file, not safetensors, an unknown site, a wrong shape, half a
            site, or values that are not finite.
    """
    tensors = _read(path)
    sites: dict[str, int] = {}
    for name in tensors:
        site, _, kind = name.rpartition(".")
        if site not in channels or kind not in ("weight", "bias"):
            valid = f"{', '.join(channels)} with .weight and .bias"
            raise InjectionError(f"{path}: unknown tensor {name!r}; this UNet's sites are {valid}")
        sites[site] = channels[site]
    if not sites:
        raise InjectionError(f"{path}: holds no injection site")
    # All is checked before a module is made: a tensor of no values may have any shape.
    for site, c in sites.items():
        for kind, shape in (("weight", (c, clip_width, 1, 1)), ("bias", (c,))):
            _check(tensors.get(f"{site}.{kind}"), shape, f"{path}: {site}.{kind}")
    injection = Injection(clip_width, {site: c for site, c in channels.items() if site in sites})
    with torch.no_grad():
        for site in injection.channels:
            for kind in ("weight", "bias"):
                getattr(injection[site], kind).copy_(tensors[f"{site}.{kind}"].float())
    return injection.eval().requires_grad_(False)


def random_injection(clip_width: int, channels: Mapping[str, int], seed: int) -> Injection:
    """Untrained convolutions at all sites, initialised as torch does, seeded.

    The released code's: its features are detached, so its convolutions keep these weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Injection(clip_width, channels).eval().requires_grad_(False)


def configured_injection(
    extraction: ExtractionConfig, clip_width: int, channels: Mapping[str, int]
) -> Injection | None:
    """What `extraction.injection` names, or None for plain SD. Raises as `load_injection`."""
    if extraction.injection is None:
        return None
    if extraction.injection == RANDOM:
        return random_injection(clip_width, channels, extraction.seed)
    return load_injection(extraction.injection, clip_width, channels)


def recorded_injection(extraction: ExtractionConfig) -> str | None:
    """What a recipe records of `extraction.injection`: the digest of a file, `random`, or None.

    `random` needs no digest: seed and networks are in the recipe. Raises InjectionError for an
    unreadable file.
    """
    if extraction.injection is None or extraction.injection == RANDOM:
        return None if extraction.injection is None else RANDOM
    return open_injection(extraction.injection).digest()


def open_injection(path: str | Path) -> Injection:
    """An injection as its file describes it, without a backbone to check it by.

    Raises InjectionError as `load_injection` does.
    """
    weights = {
        name.removesuffix(".weight"): tensor
        for name, tensor in _read(path).items()
        if name.endswith(".weight") and tensor.ndim == 4
    }
    if not weights:
        raise InjectionError(f"{path}: holds no injection site")
    width = next(iter(weights.values())).shape[1]
    return load_injection(path, width, {site: t.shape[0] for site, t in weights.items()})


def adder(projected: Mapping[str, Tensor], rows: Sequence[int] | Tensor | None = None) -> Inject:
    """The driver's `inject` callback for projected token maps [B, C, h, w].

    `rows` picks the token maps that belong to the UNet's batch, where several noise draws share
    an image.
    """

    def inject(site: str, output: Tensor) -> Tensor:
        tokens = projected.get(site)
        if tokens is None:
            return output
        if rows is not None:
            tokens = tokens[rows]
        return output + F.interpolate(
            tokens, size=output.shape[-2:], mode="bilinear", align_corners=False
        )

    return inject


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(str(path))
    except FileNotFoundError:
        raise InjectionError(f"{path}: no such injection file") from None
    except Exception as error:
        # Besides SafetensorError, what torch makes of types and shapes that only the header knows.
        raise InjectionError(f"{path}: not a readable safetensors file ({error})") from None


def _module_name(site: str) -> str:
    # ModuleDict keys may not contain dots.
    return site.replace(".", "_")


def _check(value: Tensor | None, shape: tuple[int, ...], at: str) -> None:
    """Raise InjectionError unless a tensor can be that of a convolution of this shape."""
    if value is None:
        raise InjectionError(f"{at} is missing")
    if tuple(value.shape) != shape:
        raise InjectionError(
            f"{at} has shape {list(value.shape)}, this backbone needs {list(shape)}"
        )
    if not value.numel() or value.is_complex():
        raise InjectionError(f"{at} holds no real numbers")
    if not torch.isfinite(value.float()).all():
        raise InjectionError(f"{at} holds values that are not finite")
