"""From an address to a server that runs until it is stopped."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heads.serve.service import Service

ANYONE = ("0.0.0.0", "::")
"""Addresses under which every machine of the network may ask."""


class ServeError(RuntimeError):
    """A server that cannot be started; the message says what to do."""


def check_installed() -> None:
    """Raise ServeError where the packages of the extra `serve` are missing."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ServeError(
            f"serve needs {error.name}: run `pip install 'sketchfusion[serve]'`"
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits at an address; port 0 is a free one. Raises ServeError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        raise ServeError(
            f"{host}:{port}: cannot be listened to ({getattr(error, 'strerror', error)}); choose "
            "another --port, or 0 for a free one"
        ) from None


def address(listener: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = listener.getsockname()[:2]
    name = "localhost" if host in ANYONE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/"


def serve(service: Service, listener: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM, which are passed on when the last answer is out."""
    import uvicorn

    from heads.serve.app import build_app

    host = listener.getsockname()[0]
    hosts = ["*"] if host in ANYONE else ["localhost", "127.0.0.1", "[::1]", host]
    config = uvicorn.Config(
        build_app(service, hosts),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])
