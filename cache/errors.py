"""Everything the store refuses; each message is one line that says what, where and what to do."""

from __future__ import annotations

import errno

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


_TRANSIENT = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
    errno.ENODEV,
    errno.ENOLINK,
    errno.ENOTCONN,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENETRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ESHUTDOWN,
    getattr(errno, "EREMOTEIO", errno.EIO),
}


def is_transient(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, is a fault of a disk, mount or network that may
    pass by itself: EIO, ESTALE, ETIMEDOUT and the like, but not a full disk or a missing file."""
    while error is not None:
        if isinstance(error, TimeoutError | ConnectionError):
            return True
        if isinstance(error, OSError) and error.errno in _TRANSIENT:
            return True
        error = error.__cause__
    return False
