"""An S3 server on this machine, in a process of its own, and places on it and in memory."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from cache import RemotePath, StorePath, store_path
from cache.storage.remote import open_remote


@contextmanager
def s3_server(log: Path) -> Iterator[None]:
    """Run moto's server; this process and those it starts find it in their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = dict(os.environ)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=output,
        )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        open_remote.cache_clear()
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        os.environ.clear()
        os.environ.update(before)


def new_place(protocol: str) -> str:
    """The URL of a new store, in a bucket of its own."""
    bucket = f"test-{secrets.token_hex(6)}"
    if protocol == "s3":
        fsspec.filesystem("s3").mkdir(bucket)
    return f"{protocol}://{bucket}/deep/store"


def remote(url: StorePath | str) -> RemotePath:
    """A place as the product sees it."""
    place = store_path(url)
    assert isinstance(place, RemotePath)
    return place


def objects(url: StorePath | str) -> dict[str, bytes]:
    """Every object of a store by its relative name."""
    place = remote(url)
    start = len(place.key) + 1
    files = place.filesystem
    return {key[start:]: files.cat_file(key) for key in files.find(place.key)}


def upload(folder: Path, url: str) -> None:
    """Copy a store as any tool would: file by file."""
    place = remote(url)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            place.filesystem.pipe_file(f"{place.key}/{name}", file.read_bytes())
