"""The recipe: everything that changes a number in the store, and its fingerprint."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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
    aliases: Mapping[str, Sequence[Json]] = field(default_factory=dict, compare=False, repr=False)
    """By field, other values that mean the same: digests that older stores hold, or None where
    older stores lack the field. No part of the fingerprint."""

    def __post_init__(self) -> None:
        _refuse_other_keys(self.fields, "recipe")
        try:
            plain = json.loads(_canonical(self.fields))
        except (TypeError, ValueError) as error:
            raise StoreError(f"recipe: not plain JSON ({error})") from error
        object.__setattr__(self, "fields", plain)
        aliases = {name: tuple(same) for name, same in self.aliases.items() if same}
        object.__setattr__(self, "aliases", aliases)

    @classmethod
    def recorded(cls, fields: Mapping[str, Json], provenance: object) -> Recipe:
        """The recipe of a document, with the aliases that the provenance beside it names.

        Aliases that make no sense are ignored. Raises StoreError as the constructor does.
        """
        named = provenance.get("aliases") if isinstance(provenance, Mapping) else None
        aliases = {
            name: same
            for name, same in (named.items() if isinstance(named, Mapping) else ())
            if isinstance(same, list) and all(a is None or isinstance(a, str) for a in same)
        }
        return cls(fields, aliases)

    def updated(
        self, fields: Mapping[str, Json], aliases: Mapping[str, Sequence[Json]] = {}
    ) -> Recipe:
        """This recipe with other values of some fields, which have these aliases."""
        kept = {name: same for name, same in self.aliases.items() if name not in fields}
        return Recipe({**self.fields, **fields}, {**kept, **aliases})

    def spellings(self) -> Iterator[Recipe]:
        """Every recipe that means the same by an alias, this one first."""
        names = list(self.aliases)
        choices = [(self.fields.get(name), *self.aliases[name]) for name in names]
        for values in itertools.product(*choices):
            chosen = dict(zip(names, values, strict=True))
            missing = {name for name, value in chosen.items() if value is None}
            fields = {**self.fields, **chosen}
            yield Recipe({k: v for k, v in fields.items() if k not in missing}, self.aliases)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the canonical JSON: sorted keys, no spaces, UTF-8, floats as repr."""
        return hashlib.sha256(_canonical(self.fields)).hexdigest()

    def spelled_as(self, other: Recipe) -> Recipe:
        """The other recipe, which means the same, with all that this one knows of its aliases."""
        aliases = {name: (self.fields.get(name), *same) for name, same in self.aliases.items()}
        return Recipe(other.fields, aliases)

    def differences(self, requested: Recipe) -> list[str]:
        """One line per field that differs, nested fields with dotted names.

        A value and an alias that the other recipe has for it do not differ.
        """
        ours, theirs = dict(_flat(self.fields)), dict(_flat(requested.fields))
        return [
            f"{name}: store has {ours.get(name, 'nothing')}, "
            f"requested {theirs.get(name, 'nothing')}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
            and not self._means(name, requested)
            and not requested._means(name, self)
        ]

    def _means(self, name: str, other: Recipe) -> bool:
        """Whether the other recipe's value of a field is one of this one's aliases for it."""
        return other.fields.get(name) in self.aliases.get(name, ())


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
