"""Places in object storage, as `s3://bucket/store`: paths that fsspec reads and writes.

A :class:`RemotePath` has the few methods of `pathlib.Path` that a store needs, and two that a path
has not: it reads many objects at once, and it puts an object only if nobody has changed it since
it was read. Objects appear whole or not at all, so there are no temporaries, folders or locks.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeVar

import fsspec

from cache.errors import StoreError
from cache.storage.objects import CONDITIONAL, Changed, ConditionalPuts

_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "s3fs", "gcsfs", "adlfs", "azure", "paramiko")
"""Packages whose errors say something of the server, not of this program."""
_HINTS = {
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
    "FSSPEC_S3_ANON=true reads what is public",
    "EndpointConnectionError": "check the network and AWS_ENDPOINT_URL",
    "ConnectTimeoutError": "check the network and AWS_ENDPOINT_URL",
    "PermissionError": "check the credentials and what they allow",
    "NoSuchBucket": "make the bucket first, or name another",
}


class RemotePath:
    """A place in object storage. Immutable but for what a transaction has seen."""

    def __init__(
        self,
        filesystem: fsspec.AbstractFileSystem,
        protocol: str,
        key: str,
        seen: dict[str, str | None] | None = None,
    ) -> None:
        """Use :func:`open_remote`. ``key`` is what the filesystem calls the place."""
        self.filesystem = filesystem
        self.protocol = protocol
        self.key = key
        self._seen = seen
        """In a transaction: the first version read of each object, None where there was none."""

    def __str__(self) -> str:
        # Of http, what the filesystem calls a place is the whole URL.
        return self.key if "://" in self.key else f"{self.protocol}://{self.key.lstrip('/')}"

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __deepcopy__(self, memo: Any) -> RemotePath:
        return self

    def __truediv__(self, name: str) -> RemotePath:
        key = f"{self.key}/{name}" if name else self.key
        return RemotePath(self.filesystem, self.protocol, key, self._seen)

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """All but the last part."""
        return RemotePath(
            self.filesystem, self.protocol, self.key.rpartition("/")[0] or self.key, self._seen
        )

    def resolve(self) -> RemotePath:
        """Itself: a URL is absolute."""
        return self

    def relative_to(self, root: RemotePath) -> PurePosixPath:
        """The path from ``root`` to here."""
        return PurePosixPath(self.key).relative_to(root.key)

    @property
    def in_transaction(self) -> bool:
        """Whether versions are remembered here."""
        return self._seen is not None

    def transaction(self) -> RemotePath:
        """The same place, from which reading remembers versions and writing depends on them."""
        return RemotePath(self.filesystem, self.protocol, self.key, {})

    def size(self) -> int | None:
        """Bytes of the object; None where there is none."""
        info = self._info()
        return None if info is None else int(info["size"])

    def entries(self) -> dict[str, int | None]:
        """Names right below here: bytes of an object, None for what is a folder."""
        with explained(self):
            try:
                found = self.filesystem.ls(self.key, detail=True)
            except (FileNotFoundError, NotADirectoryError) as error:
                _raise_missing_bucket(error)
                return {}
        here = self.key.strip("/")
        return {
            key.rpartition("/")[2]: None if entry["type"] == "directory" else entry["size"]
            for entry in found
            if (key := entry["name"].strip("/")) != here
        }

    def total_bytes(self) -> int:
        """Of all objects here and below."""
        with explained(self):
            try:
                return int(self.filesystem.du(self.key))
            except FileNotFoundError:
                return 0

    def read(self, limit: int) -> bytes | None:
        """The object's bytes; None where there is none, StoreError where it has over ``limit``."""
        info = self._info()
        if info is None:
            return None
        if info["size"] > limit:
            raise StoreError(f"{self}: is too large for a store's ({info['size']:,} bytes)")
        (data,) = self.read_ranges([(self, None, None)])
        return data

    def read_ranges(
        self, ranges: Sequence[tuple[RemotePath, int | None, int | None]]
    ) -> list[bytes | None]:
        """Parts of objects of this filesystem, several at a time: (object, start, end).

        A negative start counts from the end. None where there is no such object or part.
        """
        places, starts, ends = zip(*ranges, strict=True) if ranges else ((), (), ())
        with explained(self):
            found = self.filesystem.cat_ranges(
                [place.key for place in places], list(starts), list(ends), on_error="return"
            )
        results: list[bytes | None] = []
        for place, start, end, data in zip(places, starts, ends, found, strict=True):
            with explained(place):
                if isinstance(data, FileNotFoundError) or _is_beyond_end(data):
                    _raise_missing_bucket(data)
                    results.append(None)
                elif isinstance(data, BaseException):
                    raise data
                else:
                    _check_length(place, start, end, len(data))
                    results.append(bytes(data))
        return results

    @contextmanager
    def open(self) -> Iterator[Any]:
        """A binary file object that reads ahead. StoreError or FileNotFoundError."""
        if self.size() is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        with explained(self), self.filesystem.open(self.key, "rb", block_size=2**24) as file:
            yield file

    def write(self, data: bytes) -> str:
        """Put an object, in a transaction only if it is what it was when first read there.

        Gives the new version. Raises Changed where it is not, and StoreError where the server
        refuses.
        """
        puts = self.puts
        with explained(self, "write"):
            if self._seen is None:
                return puts.put(self.filesystem, self.key, data)
            if self.key not in self._seen:
                self._info()
            version = puts.put_if(self.filesystem, self.key, data, self._seen[self.key])
        self._seen[self.key] = version
        return version

    def version(self) -> str | None:
        """What was seen of the object in this transaction; it has been read, or sized."""
        assert self._seen is not None
        return self._seen[self.key]

    def remove(self) -> None:
        """Remove an object, if it is there."""
        with explained(self, "write"):
            try:
                self.filesystem.rm_file(self.key)
            except FileNotFoundError as error:
                _raise_missing_bucket(error)

    @property
    def puts(self) -> ConditionalPuts:
        """How objects are put here; StoreError where several writers would not be safe."""
        try:
            return CONDITIONAL[self.protocol]
        except KeyError:
            raise StoreError(
                f"{self}: stores are read from {self.protocol}://, not written; write to "
                f"{', '.join(f'{name}://' for name in CONDITIONAL)} or to a local folder, and copy"
            ) from None

    def _info(self) -> dict[str, Any] | None:
        info: dict[str, Any] | None
        with explained(self):
            try:
                info = self.filesystem.info(self.key)
            except (FileNotFoundError, NotADirectoryError) as error:
                _raise_missing_bucket(error)
                info = None
            if info is not None and info["type"] == "directory":
                info = None
            if self._seen is not None and self.key not in self._seen:
                version = None
                if info is not None:
                    version = self.puts.version(self.filesystem, self.key, info)
                self._seen[self.key] = version
        return info


StorePath: TypeAlias = Path | RemotePath
"""Where a store is."""

AnyPath = TypeVar("AnyPath", bound=Path | RemotePath)
"""For what gives a path of the kind it was given."""


@lru_cache(maxsize=64)
def open_remote(url: str) -> RemotePath:
    """The place that a URL names. Raises StoreError where its protocol cannot be had."""
    protocol, _, key = url.partition("://")
    parts = key.rstrip("/").split("/")
    if "::" in url or not parts[0] or not {"", ".", ".."}.isdisjoint(parts):
        raise StoreError(f"{url}: no place for a store; write s3://BUCKET/NAME")
    try:
        # A listing that is kept would not show what others write.
        filesystem, key = fsspec.core.url_to_fs(url.rstrip("/"), use_listings_cache=False)
    except ImportError as error:
        extra = "run `pip install s3fs`" if protocol in ("s3", "s3a") else str(error)
        raise StoreError(f"{url}: {protocol}:// needs a further package: {extra}") from None
    except ValueError:
        raise StoreError(
            f"{url}: no protocol {protocol}; give a local path, s3://BUCKET/NAME, or another "
            "that fsspec knows"
        ) from None
    return RemotePath(filesystem, protocol, key)


def _check_length(place: RemotePath, start: int | None, end: int | None, n_bytes: int) -> None:
    """Raise StoreError where more came than was asked for."""
    start = start or 0
    asked = -start if start < 0 else None if end is None else end - start
    if asked is not None and n_bytes > asked:
        raise StoreError(
            f"{place}: its server gives whole files only; copy the store to a disk, and read that"
        )


@contextmanager
def explained(place: RemotePath, doing: str = "read") -> Iterator[None]:
    """Turn what a server or its client refuses into one line that names the place."""
    try:
        yield
    except (StoreError, Changed):
        raise
    except Exception as error:
        known = isinstance(error, OSError) or type(error).__module__.startswith(_CLIENTS)
        if not known:
            raise
        kind = type(error).__name__
        hint = _HINTS.get(kind) or _HINTS.get(type(error.__cause__).__name__)
        if hint is None:
            hint = "run the same command again" + (
                ": committed shards are kept" if doing == "write" else ""
            )
        why = getattr(error, "strerror", None) or str(error) or kind
        raise StoreError(f"{place}: cannot {doing} ({' '.join(why.split())}); {hint}") from error


def _raise_missing_bucket(error: object) -> None:
    """An object that is not there is an answer; a bucket that is not there is a mistake."""
    cause = getattr(error, "__cause__", None)
    if isinstance(error, FileNotFoundError) and type(cause).__name__ == "NoSuchBucket":
        raise error


def _is_beyond_end(error: object) -> bool:
    """Whether a server says that an object ends before the range asked for."""
    response = getattr(getattr(error, "__cause__", None), "response", None)
    status = response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(response, dict) else 0
    return isinstance(error, OSError) and status == 416
