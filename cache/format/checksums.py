"""Canonical JSON, and the CRC-32C that seals documents and records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

import google_crc32c
import numpy as np

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

SEAL = "checksum"


def canonical_json(value: Json) -> bytes:
    """ASCII JSON with sorted keys and no spaces; NaN and infinity raise ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def crc32c_of(data: bytes | np.ndarray) -> int:
    """CRC-32C of bytes or of a contiguous array's memory."""
    return int(google_crc32c.value(data))


def crc32c_hex(data: bytes | np.ndarray) -> str:
    """CRC-32C as eight hex digits, the form in which documents hold it."""
    return f"{crc32c_of(data):08x}"


def sealed(document: Mapping[str, Json]) -> dict[str, Json]:
    """The document with a ``checksum`` over the canonical JSON of everything else in it."""
    body = {key: value for key, value in document.items() if key != SEAL}
    return {**body, SEAL: crc32c_hex(canonical_json(body))}


def seal_holds(document: Mapping[str, Json]) -> bool:
    """Whether ``document`` carries the checksum that `sealed` would give it."""
    return document.get(SEAL) == sealed(document)[SEAL]
