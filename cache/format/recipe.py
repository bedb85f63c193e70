"""The recipe: everything that changes a number in the store, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cache.errors import StoreError
from cache.format.checksums import Json


@dataclass(frozen=True)
class Recipe:
    """What the features of a store were computed with, as plain JSON.

    Two stores with equal fingerprints hold equal features for equal images. Device, batch size,
    paths and versions do not belong here. Values are JSON values with string keys; numbers must
    be finite. Tuples become lists. Raises StoreError for anything else.
    """

    fields: Mapping[str, Json]

    def __post_init__(self) -> None:
        _refuse_other_keys(self.fields, "recipe")
        try:
            plain = json.loads(_canonical(self.fields))
        except (TypeError, ValueError) as error:
            raise StoreError(f"recipe: not plain JSON ({error})") from error
        object.__setattr__(self, "fields", plain)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the canonical JSON: sorted keys, no spaces, UTF-8, floats as repr."""
        return hashlib.sha256(_canonical(self.fields)).hexdigest()

    def differences(self, requested: Recipe) -> list[str]:
        """One line per field that differs, nested fields with dotted names."""
        ours, theirs = dict(_flat(self.fields)), dict(_flat(requested.fields))
        return [
            f"{name}: store has {ours.get(name, 'nothing')}, "
            f"requested {theirs.get(name, 'nothing')}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]


def _canonical(fields: Mapping[str, Json]) -> bytes:
    return json.dumps(
        fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _flat(fields: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and their values as JSON text; an empty mapping counts as a value."""
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, sort_keys=True, ensure_ascii=False)


def _refuse_other_keys(value: object, where: str) -> None:
    """JSON would silently turn the keys 1, True and None into strings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise StoreError(f"{where}: key {key!r} is not a string")
            _refuse_other_keys(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_other_keys(inner, where)
