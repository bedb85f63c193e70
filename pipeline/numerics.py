"""What narrower types cost: errors of every array on a sample of the dataset.

The reference is the same images computed in float32. Against it stand the other compute types,
each with everything else unchanged, and the store's types, by the store's own encoding of the
float32 features. Errors are relative to the RMS of the array's reference over the sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cache import ArraySpec, NonFiniteError
from cache.format.encoding import as_stored
from cache.units import printable
from configs import Config
from pipeline.datasets.base import Dataset, DatasetError
from pipeline.job import load_networks, open_configured
from pipeline.networks.checkpoints import one_line
from pipeline.pictures.images import ImageError, network_input

SAMPLE = 8
"""Images, where nothing is said."""
FLOAT16_MAX = 65504.0
TOLERATED = 0.01
"""RMS error that the advice calls small: that of an int8 store is about as large."""

PRECISIONS = ("float32", "bfloat16", "float16")
STORE_DTYPES = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Loss:
    """How far one array's values are from the reference, relative to the reference's RMS."""

    finite: bool
    """Whether all values are; where they are not, there is no error to give."""
    rms: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class ArrayNumerics:
    """One array: its largest magnitude in float32, and its loss by type."""

    largest: float | None
    """None where float32 itself is not finite."""
    precision: Mapping[str, Loss]
    """Computed in this type; a type that cannot run here is missing."""
    store_dtype: Mapping[str, Loss]
    """Stored by a store of this type; latents and descriptors are float32 in each."""


@dataclass(frozen=True)
class Numerics:
    """All arrays of a configuration on a sample of its images."""

    config: str
    device: str
    images: tuple[str, ...]
    left_out: Mapping[str, str]
    """Images of the sample that cannot be read, and why."""
    not_run: Mapping[str, str]
    """Compute types that this device cannot run, and why."""
    arrays: Mapping[str, ArrayNumerics]
    asked_precision: str
    asked_store_dtype: str

    @property
    def sound(self) -> bool:
        """Whether the types that the configuration asks for keep every value finite."""
        return self.asked_precision not in self.not_run and all(
            array.largest is not None
            and array.precision[self.asked_precision].finite
            and array.store_dtype[self.asked_store_dtype].finite
            for array in self.arrays.values()
        )

    @property
    def advice(self) -> str:
        """One line: which types to use."""
        broken = [name for name, array in self.arrays.items() if array.largest is None]
        if broken:
            return f"{broken[0]} is not finite in float32: the weights or the injection are damaged"
        candidates = [name for name in PRECISIONS[1:] if self._worst("precision", name) is not None]
        best = min(candidates, key=lambda name: self._worst("precision", name) or 0, default=None)
        error = None if best is None else self._worst("precision", best)
        if best is None or error is None or error > TOLERATED:
            compute = "keep extraction.precision=float32"
        else:
            compute = f"extraction.precision={best} costs at most {error:.1e}"
        overflows = [
            name
            for name, array in self.arrays.items()
            if "float16" in array.precision and not array.precision["float16"].finite
        ]
        if overflows:
            compute += f" (float16 overflows in {overflows[0]})"
        dtypes = [name for name in STORE_DTYPES if self._worst("store_dtype", name) is not None]
        kept = [name for name in dtypes if (self._worst("store_dtype", name) or 0) <= TOLERATED]
        smallest = kept[-1] if kept else "float32"
        stored = self._worst("store_dtype", smallest) or 0.0
        return f"{compute}; extraction.store_dtype={smallest} costs at most {stored:.1e}"

    def _worst(self, kind: str, dtype: str) -> float | None:
        """The largest RMS error over arrays; None where some array is not finite or not there."""
        losses = [getattr(array, kind).get(dtype) for array in self.arrays.values()]
        if any(loss is None or loss.rms is None for loss in losses):
            return None
        return max(loss.rms for loss in losses)

    def as_json(self) -> dict[str, Any]:
        """One plain object."""
        return {**asdict(self), "sound": self.sound, "advice": self.advice}

    def as_text(self) -> str:
        """A table, RMS error and in brackets the largest one, and below it the advice."""
        columns = [("precision", name) for name in PRECISIONS[1:] if name not in self.not_run]
        columns += [("store_dtype", name) for name in STORE_DTYPES]
        heads = [
            ("computed in " if kind == "precision" else "stored as ") + n for kind, n in columns
        ]
        rows = [["array", "largest", "/ 65504", *heads]]
        for name, array in self.arrays.items():
            largest = "not finite" if array.largest is None else f"{array.largest:.4g}"
            share = "" if array.largest is None else f"{array.largest / FLOAT16_MAX:.1e}"
            losses = [_cell(getattr(array, kind)[dtype]) for kind, dtype in columns]
            rows.append([name, largest, share, *losses])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{len(self.images)} images of {self.config} on {self.device}: error of every array, "
            "relative to its RMS in float32: RMS (largest)"
        ]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines += [f"left out {name}: {why}" for name, why in self.left_out.items()]
        lines += [f"{name} cannot run here: {why}" for name, why in self.not_run.items()]
        lines.append(f"do: {self.advice}")
        return "\n".join(map(printable, lines))


def measure_numerics(config: Config, n_images: int = SAMPLE) -> Numerics:
    """Compute a sample, evenly from the whole dataset, in every type.

    Raises BackboneError, DatasetError, InjectionError or ExtractionError; DatasetError also where
    no image of the sample can be read.
    """
    references: dict[str, np.ndarray] = {}
    precision: dict[str, dict[str, Loss]] = {}
    stored: dict[str, dict[str, Loss]] = {}
    not_run: dict[str, str] = {}
    dataset = open_configured(config)  # Before weights are downloaded.
    # Three networks are loaded, and three stores have specs of their own: one of each in turn.
    for dtype, store_dtype in zip(PRECISIONS, STORE_DTYPES, strict=True):
        networks = load_networks(_with(config, precision=dtype, store_dtype=store_dtype))
        if not references:
            ids, squares, sha256s, left_out = _sample(config, dataset, n_images)
            device = str(networks.extractor.device)
        names = [spec.name for spec in networks.specs]
        try:
            found = networks.extractor(squares, sha256s, names)
        except (RuntimeError, NotImplementedError) as error:
            if dtype == "float32":
                raise
            not_run[dtype] = one_line(error)
        else:
            references = references or found
            for name in names:
                precision.setdefault(name, {})[dtype] = loss(found[name], references[name])
        for spec in networks.specs:
            values = round_trip(references[spec.name], spec, ids)
            stored.setdefault(spec.name, {})[store_dtype] = (
                Loss(False) if values is None else loss(values, references[spec.name])
            )
    arrays = {}
    for name, reference in references.items():
        largest = float(np.abs(reference).max())
        arrays[name] = ArrayNumerics(
            largest if np.isfinite(largest) else None, precision[name], stored[name]
        )
    return Numerics(
        config.name,
        device,
        tuple(ids),
        left_out,
        not_run,
        arrays,
        config.extraction.precision,
        config.extraction.store_dtype,
    )


def loss(values: np.ndarray, reference: np.ndarray) -> Loss:
    """The relative error of values [B, ...] against float32 ones of the same shape."""
    if not (np.isfinite(values).all() and np.isfinite(reference).all()):
        return Loss(False)
    exact = reference.astype(np.float64)
    error = values.astype(np.float64) - exact
    scale = float(np.sqrt(np.mean(exact**2))) or 1.0
    return Loss(True, float(np.sqrt(np.mean(error**2))) / scale, float(np.abs(error).max()) / scale)


def round_trip(features: np.ndarray, spec: ArraySpec, ids: Sequence[str]) -> np.ndarray | None:
    """Float32 features [B, ...] as a store gives them back; None where it refuses one."""
    try:
        return as_stored(spec, features, ids)
    except NonFiniteError:
        return None


def _with(config: Config, **keys: str) -> Config:
    extraction = config.extraction.model_copy(update=keys)
    return config.model_copy(update={"extraction": extraction})


def _sample(
    config: Config, dataset: Dataset, n_images: int
) -> tuple[list[str], np.ndarray, list[str], dict[str, str]]:
    """Ids, squares [B, C, R, R], content hashes, and what could not be read."""
    resolution, extraction = config.backbone.resolution, config.extraction
    ids, squares, sha256s = [], [], []
    left_out: dict[str, str] = {}
    for image_id in _evenly(dataset, n_images):
        try:
            data = dataset.read(image_id)
            picture = dataset.decode(image_id, data)
            square = network_input(picture, resolution, extraction.pad, extraction.clip_input)
        except (OSError, ImageError) as error:
            left_out[image_id] = one_line(error)
            continue
        ids.append(image_id)
        squares.append(square)
        sha256s.append(hashlib.sha256(data).hexdigest())
    if not ids:
        raise DatasetError(
            f"{dataset.name}: none of the {len(left_out)} sampled images can be read, first "
            f"{next(iter(left_out), 'none')}; take more of them by --images"
        )
    return ids, np.stack(squares), sha256s, left_out


def _evenly(dataset: Dataset, n_images: int) -> list[str]:
    ids = dataset.ids
    n_images = min(n_images, len(ids))
    return [ids[i * len(ids) // n_images] for i in range(n_images)]


def _cell(loss: Loss) -> str:
    return "not finite" if loss.rms is None else f"{loss.rms:.1e} ({loss.max:.1e})"
