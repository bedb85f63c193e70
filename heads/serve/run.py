"""From an address to a server that runs until it is stopped."""

from __future__ import annotations

import ipaddress
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heads.serve.service import Service

PACKAGES = ("fastapi", "uvicorn")


class ServeError(RuntimeError):
    """A server that cannot be started; the message says what to do."""


def check_installed() -> None:
    """Raise ServeError where the packages of the extra `serve` are missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ServeError(
            f"serve needs {' and '.join(missing)}: run `pip install 'sketchfusion[serve]'`"
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits at an address; port 0 is a free one. Raises ServeError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        why = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise ServeError(
            f"{_bracketed(host)}:{port}: cannot be listened to ({why}); choose another --host or "
            "--port (0: a free one)"
        ) from None


def address(listener: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = listener.getsockname()[:2]
    name = "localhost" if ipaddress.ip_address(host).is_unspecified else _bracketed(host)
    return f"http://{name}:{port}/"


def is_open_to_others(listener: socket.socket) -> bool:
    """Whether other machines may ask."""
    return not ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(service: Service, listener: socket.socket, host: str) -> None:
    """Answer until Ctrl-C or SIGTERM, which are passed on when the last answer is out.

    Args:
        host: what the user calls the address.
    """
    import uvicorn

    from heads.serve.app import build_app

    config = uvicorn.Config(
        build_app(service, {"localhost", host.lower(), socket.gethostname().lower()}),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
