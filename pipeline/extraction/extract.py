"""From squares of pixels to feature arrays: VAE and CLIP once per image, UNet per noise draw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from configs import ExtractionConfig
from pipeline.extraction.arrays import (
    CLIP_POOLED,
    CLIP_TOKENS,
    LATENT,
    layer_array,
    prefix_array,
    wanted_layers,
    wants_prefix,
)
from pipeline.networks.backbone import Backbone
from pipeline.networks.checkpoints import one_line
from pipeline.networks.injection import Injection
from pipeline.networks.noise import POSTERIOR, draw_noise
from pipeline.networks.prefix import features_and_prefix
from pipeline.networks.transfer import Download, Downloader, to_device


class ExtractionError(RuntimeError):
    """The accelerator could not compute even one image."""


class Computing(Protocol):
    """Features that are being computed."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Float32 arrays [B, ...] by name; waits until they are there."""
        ...


class BaseExtractor(ABC):
    """Computes the arrays of batches of images.

    Args:
        device: where the networks are.
        batch_size: images in one pass.
    """

    takes_latents = False
    """Whether stored latents may do instead of pixels where only UNet layers are asked for."""

    def __init__(self, device: torch.device, batch_size: int) -> None:
        self.device = device
        self.batch_size = batch_size
        self.n_ahead = 1 if device.type == "cuda" else 0
        """Batches worth starting before the features of an earlier one are taken."""

    @abstractmethod
    def start(
        self, squares: np.ndarray, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> Computing:
        """Begin to compute, of uint8 squares [B, C, R, R] and their files' content hashes.

        C is 3, or 6 if CLIP has a square of its own (`network_input`).

        Raises ExtractionError if a single image does not fit into memory.
        """

    def start_from_latents(
        self, latents: Tensor, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> Computing:
        """The same of stored latents [B, 4, h, w], if `takes_latents`."""
        raise NotImplementedError

    def __call__(
        self, squares: np.ndarray, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """The features of `start`, when they are there."""
        return self.start(squares, sha256s, arrays).arrays()


class BoundedExtractor(BaseExtractor):
    """Computes in passes that fit into the device's memory.

    Args:
        batch_size: images in one pass; halved, for good, whenever the device runs out of memory.
    """

    def __init__(self, device: torch.device, batch_size: int) -> None:
        super().__init__(device, batch_size)
        self._downloader = Downloader(device)

    def _in_passes(
        self, n_images: int, compute: Callable[[slice], Mapping[str, Tensor]]
    ) -> Computing:
        """Run slices of at most `batch_size` images, halving it when memory runs out."""
        passes: list[Download] = []
        done = 0
        while done < n_images:
            part = slice(done, done + self.batch_size)
            try:
                passes.append(self._downloader.start(compute(part)))
            except TorchDynamoException as error:
                raise ExtractionError(
                    f"extraction.compile: the networks cannot be compiled here ({one_line(error)});"
                    " set extraction.compile=false"
                ) from error
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
                continue
            done = part.stop
        return passes[0] if len(passes) == 1 else _Passes(passes)

    def _halve(self, error: RuntimeError) -> None:
        if self.batch_size == 1:
            raise ExtractionError(
                f"one image does not fit into the memory of {self.device}: use a smaller "
                "backbone.resolution or extraction.precision=bfloat16"
            ) from error
        self.batch_size //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class Computed:
    """Features that are there."""

    features: dict[str, np.ndarray]

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Computing.arrays`."""
        return self.features


@dataclass(frozen=True)
class _Passes:
    """The passes of one batch."""

    passes: Sequence[Download]

    def arrays(self) -> dict[str, np.ndarray]:
        found = [one.arrays() for one in self.passes]
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


class Extractor(BoundedExtractor):
    """Runs VAE, CLIP and UNet.

    Args:
        backbone: the frozen networks.
        extraction: timesteps, layers, prefix, ensemble, seed.
        injection: convolutions to inject, or None for plain SD.
        batch_size: UNet samples (images x noise draws) in one pass; halved, for good, whenever
            the device runs out of memory.
    """

    def __init__(
        self,
        backbone: Backbone,
        extraction: ExtractionConfig,
        injection: Injection | None,
        batch_size: int,
    ) -> None:
        super().__init__(backbone.device, batch_size)
        self.backbone = backbone
        self.extraction = extraction
        self.injection = injection
        # Stored latents are the posterior's means.
        self.takes_latents = injection is None and extraction.latent == "mean"
        if injection is not None:
            injection.to(backbone.device, backbone.dtype)

    def start(
        self, squares: np.ndarray, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> Computing:
        """See `BaseExtractor.start`."""
        return self._in_passes(
            len(squares), lambda part: self._from_pixels(squares[part], sha256s[part], arrays)
        )

    def start_from_latents(
        self, latents: Tensor, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> Computing:
        """The same for layers and prefixes alone, of stored latents [B, 4, h, w]: no VAE, no CLIP.

        For plain SD only: an injection needs CLIP's tokens as they were computed, and the store
        may have rounded them. Raises as above.
        """

        def compute(part: slice) -> dict[str, Tensor]:
            z0 = to_device(latents[part], self.device)
            features = self._layers(z0, None, sha256s[part], arrays, {})
            return {name: features[name] for name in arrays}

        return self._in_passes(len(latents), compute)

    def _from_pixels(
        self, squares: np.ndarray, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> dict[str, Tensor]:
        # Channels first in memory too: on the CPU, group normalisation of a channels-last view
        # is up to fifty times less exact.
        backbone = self.backbone
        pixels = to_device(torch.from_numpy(np.ascontiguousarray(squares)), self.device)
        found: dict[str, Tensor] = {}
        projected: dict[str, Tensor] = {}
        if self.injection is not None or CLIP_TOKENS in arrays or CLIP_POOLED in arrays:
            tokens, pooled = backbone.encode_clip(pixels[:, -3:])
            found |= {CLIP_TOKENS: tokens, CLIP_POOLED: pooled}
            if self.injection is not None:
                with torch.inference_mode():
                    projected = self.injection.project(tokens.to(backbone.dtype))
        deviation = None
        if self.extraction.latent == "sample":
            z0, deviation = backbone.encode_posterior(pixels[:, :3])
        else:
            z0 = backbone.encode_latents(pixels[:, :3])
        found[LATENT] = z0
        found |= self._layers(z0, deviation, sha256s, arrays, projected)
        return {name: found[name] for name in arrays}

    def _layers(
        self,
        z0: Tensor,
        deviation: Tensor | None,
        sha256s: Sequence[str],
        arrays: Sequence[str],
        projected: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """The layers and prefixes among `arrays`, timestep by timestep.

        Every draw starts from `z0` or, with a `deviation` of the same shape, from a sample of
        its own.
        """
        found: dict[str, Tensor] = {}
        for timestep in self.extraction.timesteps:
            layers = wanted_layers(arrays, timestep)
            site = self.extraction.prefix if wants_prefix(arrays, timestep) else None
            if layers or site:
                features, prefixes = self._all_draws(
                    z0, deviation, sha256s, timestep, layers, site, projected
                )
                found |= {layer_array(timestep, layer): v for layer, v in features.items()}
                found |= prefixes
        return found

    def _all_draws(
        self,
        z0: Tensor,
        deviation: Tensor | None,
        sha256s: Sequence[str],
        timestep: int,
        layers: Sequence[str],
        site: str | None,
        projected: dict[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mean over the ensemble's noise draws, in float32, as layer -> [B, C, h, w].

        Beside it, where `site` is given, each draw's prefix there, by array name and on the CPU.

        Images and draws are folded into one list, image by image, and cut into passes of at most
        `batch_size`: the device's memory does not grow with the ensemble.
        """
        n_draws = self.extraction.ensemble
        shape = tuple(z0.shape[1:])
        sums: dict[str, Tensor] = {}
        prefixes: dict[str, Tensor] = {}
        samples = [(row, draw) for row in range(len(z0)) for draw in range(n_draws)]
        for start in range(0, len(samples), self.batch_size):
            chunk = samples[start : start + self.batch_size]
            seed = self.extraction.seed
            noise = torch.stack(
                [draw_noise(shape, seed, sha256s[row], timestep, draw) for row, draw in chunk]
            )
            rows = to_device(torch.tensor([row for row, _ in chunk]), z0.device)
            latents = z0[rows]
            if deviation is not None:
                sampled = torch.stack(
                    [
                        draw_noise(shape, seed, sha256s[row], timestep, draw, POSTERIOR)
                        for row, draw in chunk
                    ]
                )
                latents = latents + deviation[rows] * to_device(sampled, z0.device)
            if site is None:
                features = self.backbone.unet_features(
                    latents, noise, timestep, layers, projected, rows
                )
            else:
                features, parts = features_and_prefix(
                    self.backbone, latents, noise, timestep, layers, site, projected, rows
                )
                for part, values in parts.items():
                    for (row, draw), value in zip(chunk, values.cpu(), strict=True):
                        name = prefix_array(timestep, site, draw, part)
                        whole = prefixes.setdefault(name, value.new_empty((len(z0), *value.shape)))
                        whole[row] = value
            if n_draws == 1 and len(chunk) == len(samples):
                return features, prefixes
            for layer, values in features.items():
                total = sums.setdefault(layer, values.new_zeros((len(z0), *values.shape[1:])))
                # Row by row: index_add_ would add in an unspecified order on CUDA.
                for (row, _), value in zip(chunk, values, strict=True):
                    total[row] += value
        return {layer: total / n_draws for layer, total in sums.items()}, prefixes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is a device's way of saying that its memory is full."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return any(
        sign in message for sign in ("out of memory", "can't allocate memory", "alloc_failed")
    )


def auto_batch_size(device: torch.device, resolution: int) -> int:
    """UNet samples per pass: by the square's pixels, and on CUDA by the card's whole memory.

    It depends on the kind of machine only, never on what happens to be free, so that workers on
    equal machines make equal bytes.
    """
    if device.type != "cuda":
        pixels = 16 * 96 * 96
        return max(1, min(16, pixels // resolution**2))
    total = torch.cuda.get_device_properties(device).total_memory
    # About 3 KiB per pixel for the VAE encoder's widest activations in float32, with headroom.
    return max(1, min(128, total // (resolution**2 * 8192)))
