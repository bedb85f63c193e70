"""Features to records and back: casting, int8 quantisation, the test for finite values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cache.errors import NonFiniteError, StoreError
from cache.format.layout import INT8_HOLE, SCALE_SUFFIX, ArraySpec, ZarrArray

INT8_MAX = 127
PIECE = 2**15
"""Values that torch casts in one thread. Larger arrays it would share among threads of its own,
which then take the cores from those that compute the next batch."""

# The bits of positive and negative infinity; NaNs lie above them. Read as integers, the largest
# positive value shows in the signed maximum and the largest negative one in the unsigned maximum:
# no temporary, and twenty times faster than np.isfinite on float16.
_INFINITIES = {
    "float32": ("<i4", 0x7F800000, "<u4", 0xFF800000),
    "float16": ("<i2", 0x7C00, "<u2", 0xFC00),
}


def all_finite(values: np.ndarray) -> bool:
    """Whether a float32 or float16 array holds neither NaN nor infinity."""
    signed, positive, unsigned, negative = _INFINITIES[values.dtype.name]
    return bool(values.view(signed).max() < positive and values.view(unsigned).max() < negative)


def is_complete(values: bytes, array: ZarrArray) -> bool:
    """Whether a record holds a number everywhere that its array can hold: no hole, neither NaN
    nor infinity, no scale below zero."""
    numbers = np.frombuffer(values, array.numpy_dtype)
    if array.dtype == "int8":
        return bool((numbers != INT8_HOLE).all())
    if array.name.endswith(SCALE_SUFFIX) and bool((numbers < 0).any()):
        return False
    return all_finite(numbers)


class Encoder:
    """Turns one feature's values into the records of its arrays on disk."""

    def __init__(self, spec: ArraySpec) -> None:
        self._spec = spec
        self._dtype = spec.zarr_arrays[0].numpy_dtype
        self._scratch = np.empty(spec.shape, self._dtype)
        self._pieces = torch.from_numpy(self._scratch.reshape(-1)).split(PIECE)

    def __call__(self, values: np.ndarray, image_id: str) -> tuple[np.ndarray, ...]:
        """Records in the order of ``spec.zarr_arrays``; valid until the next call.

        ``values`` is float32, or already in the stored float dtype, and of the feature's shape.
        Raises StoreError for another shape or dtype, NonFiniteError for NaN, infinity or
        overflow.
        """
        spec = self._spec
        if values.shape != spec.shape:
            raise StoreError(
                f"{image_id}: {spec.name} has shape {values.shape}, the store holds {spec.shape}"
            )
        if values.dtype != np.float32 and (values.dtype != self._dtype or spec.dtype == "int8"):
            raise StoreError(f"{image_id}: {spec.name} is {values.dtype}, give float32")
        values = np.ascontiguousarray(values)
        if spec.dtype == "int8":
            if not all_finite(values):
                raise self._not_finite(values, image_id)
            return _quantised(values)
        if values.dtype == self._dtype:
            record = values
        else:
            # torch casts with vector instructions, numpy's float16 is nine times slower.
            given = torch.from_numpy(values.reshape(-1)).split(PIECE)
            for piece, theirs in zip(self._pieces, given, strict=True):
                piece.copy_(theirs)
            record = self._scratch
        if not all_finite(record):
            raise self._not_finite(values, image_id)
        return (record,)

    def _not_finite(self, values: np.ndarray, image_id: str) -> NonFiniteError:
        if all_finite(values):
            return NonFiniteError(
                f"{image_id}: {self._spec.name} reaches {np.abs(values).max():.6g}, too large for "
                f"{self._spec.dtype}; set extraction.store_dtype to float32"
            )
        return NonFiniteError(
            f"{image_id}: {self._spec.name} holds NaN or infinity; if it was computed in float16, "
            "set extraction.precision to bfloat16 or float32"
        )


def _quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 values [C, H, W] and float32 scales [C]; value = scale x int8."""
    scale = (np.abs(values).max(axis=(1, 2)) / np.float32(INT8_MAX)).astype("<f4")
    divisor = np.where(scale > 0, scale, np.float32(1))[:, None, None]
    steps = np.rint(values / divisor)
    return np.clip(steps, -INT8_MAX, INT8_MAX).astype("<i1"), scale


class Dequantiser:
    """Turns int8 records of one shape [C, H, W], and their scales [C], into float32."""

    def __init__(self, shape: Sequence[int]) -> None:
        # torch widens three times as fast as numpy, but takes no array that may not be written to.
        self._values = torch.empty(tuple(shape), dtype=torch.int8)
        self._scale = torch.empty(shape[0], 1, 1)

    def __call__(self, values: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
        """Write values times scales into a float32 array."""
        np.copyto(self._values.numpy(), values)
        np.copyto(self._scale.numpy(), scale[:, None, None])
        torch.from_numpy(out).copy_(self._values).mul_(self._scale)


def as_stored(spec: ArraySpec, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Float32 features [B, ...] of images of these names as a store gives them back.

    Raises NonFiniteError where it could not hold them.
    """
    encode, read = Encoder(spec), np.empty(values.shape, np.float32)
    for target, value, name in zip(read, values, names, strict=True):
        record, *scale = encode(value, name)
        if scale:
            Dequantiser(spec.shape)(record, scale[0], out=target)
        else:
            target[...] = record
    return read
