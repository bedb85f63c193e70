"""Putting an object only if nobody has changed it: what replaces a lock in object storage.

A reader notes an object's version. A writer puts the object on condition that it still has that
version, or that there is still none, and the server decides between two who ask at once.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from typing import Any, Protocol

from cache.errors import StoreError

MAX_PUT_BYTES = 5 * 2**30
"""Of one request, and only a put of one request can be conditional everywhere."""


class Changed(Exception):
    """Somebody has changed the object meanwhile: read everything again."""


class ConditionalPuts(Protocol):
    """A protocol's way of putting objects."""

    def version(self, filesystem: Any, key: str, info: dict[str, Any]) -> str:
        """The version of an object that is there."""
        ...

    def put(self, filesystem: Any, key: str, data: bytes) -> str:
        """Put an object, whatever was there; gives its version."""
        ...

    def put_if(self, filesystem: Any, key: str, data: bytes, version: str | None) -> str:
        """Put it if it has this version, or for None if it is not there; else Changed."""
        ...


class S3Puts:
    """ETags, with the headers If-Match and If-None-Match."""

    def version(self, filesystem: Any, key: str, info: dict[str, Any]) -> str:
        """See `ConditionalPuts`."""
        return str(info["ETag"])

    def put(self, filesystem: Any, key: str, data: bytes) -> str:
        """See `ConditionalPuts`."""
        return self._put(filesystem, key, data)

    def put_if(self, filesystem: Any, key: str, data: bytes, version: str | None) -> str:
        """See `ConditionalPuts`."""
        condition = {"mode": "create"} if version is None else {"IfMatch": version}
        try:
            return self._put(filesystem, key, data, **condition)
        except FileExistsError:
            raise Changed(key) from None
        except OSError as error:
            response = getattr(error.__cause__, "response", {})
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            # 409: another conditional put is under way. 404: what was to be replaced is gone.
            gone = version is not None and response.get("Error", {}).get("Code") == "NoSuchKey"
            if status in (409, 412) or gone:
                raise Changed(key) from None
            raise

    def _put(self, filesystem: Any, key: str, data: bytes, **condition: str) -> str:
        # In one request, whatever its size: of parts the condition would be lost.
        answer = filesystem.pipe_file(key, data, chunksize=MAX_PUT_BYTES, **condition)
        return str(answer["ETag"])


class MemoryPuts:
    """fsspec's filesystem in the memory of this process, under a lock; for trying things out."""

    _lock = threading.Lock()

    def version(self, filesystem: Any, key: str, info: dict[str, Any]) -> str:
        """See `ConditionalPuts`."""
        return hashlib.sha256(filesystem.cat_file(key)).hexdigest()

    def put(self, filesystem: Any, key: str, data: bytes) -> str:
        """See `ConditionalPuts`."""
        filesystem.pipe_file(key, data)
        return hashlib.sha256(data).hexdigest()

    def put_if(self, filesystem: Any, key: str, data: bytes, version: str | None) -> str:
        """See `ConditionalPuts`."""
        with self._lock:
            there = self.version(filesystem, key, {}) if filesystem.isfile(key) else None
            if there != version:
                raise Changed(key)
            return self.put(filesystem, key, data)


CONDITIONAL: dict[str, ConditionalPuts] = {"s3": S3Puts(), "s3a": S3Puts(), "memory": MemoryPuts()}
"""Protocols to which stores are written; every other one is only read."""


def check_conditions(filesystem: Any, puts: ConditionalPuts, folder: str, name: str) -> None:
    """Raise StoreError where a server takes conditional puts without heeding the conditions.

    ``folder`` is a key, ``name`` what messages call the place. Leaves nothing behind.
    """
    key = f"{folder}/.probe.{secrets.token_hex(6)}.tmp"
    puts.put_if(filesystem, key, b"1", None)
    try:
        for version in (None, '"0"'):
            try:
                puts.put_if(filesystem, key, b"2", version)
            except Changed:
                continue
            raise StoreError(
                f"{name}: this server ignores the conditions of a put (If-Match, If-None-Match), "
                "so two writers would lose each other's data; write to a local folder, and copy"
            )
    finally:
        filesystem.rm_file(key)
