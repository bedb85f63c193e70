"""Everything the store refuses; each message is one line that says what, where and what to do."""

from __future__ import annotations

VERIFY_HINT = "run `sketchfusion cache verify` on the store"


class StoreError(Exception):
    """Base of every error of this package."""


class NotAStore(StoreError):
    """The folder holds no feature store."""


class RecipeMismatch(StoreError):
    """The store was made with another recipe than the one asked for."""


class NonFiniteError(StoreError):
    """A feature holds NaN or infinity, or overflows the dtype it is stored in."""


class DamagedStore(StoreError):
    """A file of the store is missing, cut short or changed."""


class CorruptShard(DamagedStore):
    """A shard, its index or one of its records is damaged."""


class UnknownImage(StoreError):
    """The store does not list this image."""


class NotCommitted(StoreError):
    """The store lists this image, but the array asked for is not computed yet."""


class QuarantinedImage(StoreError):
    """The image could not be computed; the store holds the reason instead of features."""
