"""Trained runs in a web page: draw, and see what they make of it.

    service = open_service([Path("runs/retrieval")], None, None)
    serve(service, listen("127.0.0.1", 8000), "127.0.0.1")

`service.py` answers, `app.py` speaks HTTP, `page/` is what a browser shows, `run.py` starts it.
"""

from heads.serve.run import ServeError, listen, serve
from heads.serve.service import Service, open_service

__all__ = ["ServeError", "Service", "listen", "open_service", "serve"]
