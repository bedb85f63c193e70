"""HTTP in front of a service: the page, what it asks, and what is refused.

Nothing is reached but the page's own files and the photos of the gallery, by the hash of their
contents. Drawings arrive as the body of a request that says it is an image, which no form of a
foreign site can send. A name in the Host header that this machine does not go by is refused: a
foreign site may have its own name point here.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image, ImageFilter
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from cache import StoreError
from heads.plots.style import RIGHT
from heads.serve.service import Service
from heads.training.run import RunError
from heads.use import UseError
from pipeline.extraction.extract import ExtractionError, is_out_of_memory
from pipeline.pictures.images import ImageError, header_size
from pipeline.pictures.strokes import is_svg

PAGE = Path(__file__).parent / "page"
MAX_BYTES = 16 * 2**20
"""Of a drawing or a dropped picture."""
MAX_DRAWING_PIXELS = 40_000_000
MAX_DRAWING_SIDE = 20_000
MAX_WAITING = 8
"""Requests that compute or wait to; a further one is asked to come back."""
PHOTOS_AT_ONCE = 4
"""That are decoded; further ones wait."""
MAX_POINTS = 64
MAX_SIDE = 1600
"""Longer side in pixels at which a photo is sent."""
THUMBNAIL = 320

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""For what is named by its contents."""

Result = TypeVar("Result")


def build_app(service: Service, names: Collection[str] = ("localhost",)) -> FastAPI:
    """The application.

    Args:
        names: under which it may be asked, in lower case, beside any numeric address.
    """
    app = FastAPI(title="SketchFusion", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(AnyHTTPException, _refusal)
    app.add_exception_handler(RequestValidationError, _misspelt)
    app.add_exception_handler(Exception, _failure)
    compute, decoding = _Computing(), asyncio.Semaphore(PHOTOS_AT_ONCE)

    @app.middleware("http")
    async def protect(request: Request, call_next: Callable[..., Any]) -> Response:
        host = request.headers.get("host", "")
        if _is_own(host, names):
            response: Response = await call_next(request)
        else:
            response = JSONResponse({"error": f"{host[:80]}: not a name of this server"}, 400)
        response.headers.update({k: v for k, v in _HEADERS.items() if k not in response.headers})
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return {
            "run": service.searcher.run.folder.name,
            "backbone": service.searcher.config.backbone.label,
            "photos": len(service.gallery),
            "classifies": service.classifier is not None,
            "segments": service.segmenter is not None,
            "matches": service.matcher is not None,
        }

    @app.post("/api/look")
    async def look(drawing: Drawing, k: Annotated[int, Query(ge=1, le=100)] = 12) -> dict[str, Any]:
        found = await compute(lambda: service.look(drawing, k))
        width, height = found.sketch.image.size
        guesses = None
        if found.classes is not None:
            guesses = [{"name": name, "probability": share} for name, share in found.classes]
        sha256 = service.gallery.sha256
        hits = [
            {"id": hit.id, "sha256": sha256(hit.id), "similarity": hit.similarity}
            for hit in found.hits
        ]
        return {"sketch": {"width": width, "height": height}, "hits": hits, "classes": guesses}

    @app.post("/api/mask")
    async def mask(drawing: Drawing, photo: str) -> Response:
        return await compute(lambda: _png(_overlay(service.mask(drawing, photo))))

    @app.post("/api/match")
    async def match(
        drawing: Drawing,
        photo: str,
        point: Annotated[list[str], Query(max_length=MAX_POINTS)] = [],  # noqa: B006
        grid: Annotated[int | None, Query(ge=1, le=8)] = None,
    ) -> dict[str, Any]:
        points = [_point(text) for text in point]
        found = await compute(lambda: service.match(drawing, photo, points, grid))
        (width, height), picture = found.photo.image.size, found.photo.name
        return {
            "photo": {"id": picture, "width": width, "height": height},
            "points": [
                {"sketch": ours, "photo": theirs, "similarity": similarity}
                for ours, theirs, similarity in zip(
                    found.sketch_points.tolist(),
                    found.found.tolist(),
                    found.similarity.tolist(),
                    strict=True,
                )
            ],
        }

    @app.get("/photos/{sha256}")
    async def photo(
        sha256: str, side: Annotated[int, Query(ge=16, le=MAX_SIDE)] = THUMBNAIL
    ) -> Response:
        try:
            async with decoding:
                return await run_in_threadpool(lambda: _jpeg(service.photo(sha256).image, side))
        except UseError as error:
            raise HTTPException(404, str(error)) from None

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


async def _drawing(request: Request) -> bytes:
    """The body, if it is an image file of a bearable size."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("image/"):
        raise HTTPException(415, f"{kind[:80] or 'no content type'}: send an image file")
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BYTES:
                raise HTTPException(413, f"the picture has more than {MAX_BYTES >> 20} MiB")
    except ClientDisconnect:
        raise HTTPException(400, "gone before the picture had arrived") from None
    content = bytes(data)
    await run_in_threadpool(_check_size, content)
    return content


def _check_size(content: bytes) -> None:
    if is_svg(content):
        return
    try:
        width, height = header_size(content)
    except ImageError as error:
        raise HTTPException(400, f"the picture cannot be used: {error}") from None
    if width * height > MAX_DRAWING_PIXELS or max(width, height) > MAX_DRAWING_SIDE:
        raise HTTPException(413, f"the picture has {width} x {height} pixels; make it smaller")


Drawing = Annotated[bytes, Depends(_drawing)]


class _Computing:
    """Runs what computes in threads, a few at a time, and says why something cannot be."""

    def __init__(self) -> None:
        self._places = threading.Semaphore(MAX_WAITING)

    async def __call__(self, work: Callable[[], Result]) -> Result:
        if not self._places.acquire(blocking=False):
            raise HTTPException(503, "too many are drawing at once; try again in a moment")
        try:
            return await run_in_threadpool(work)
        except UseError as error:
            raise HTTPException(400, str(error)) from None
        except (RunError, ExtractionError, StoreError) as error:
            raise HTTPException(500, str(error)) from None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise HTTPException(503, "no memory left for this; try again in a moment") from None
        finally:
            self._places.release()


def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code)


def _misspelt(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)


def _failure(request: Request, error: Exception) -> Response:
    """Of a bug: the terminal has the traceback."""
    return JSONResponse({"error": "this failed; the server's terminal says why"}, 500, _HEADERS)


def _is_own(host: str, names: Collection[str]) -> bool:
    """Whether a Host header is a numeric address or one of these names, whatever the port."""
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise HTTPException(422, f"point {text[:40]!r}: write x,y in pixels") from None
    return x, y


def _jpeg(image: Image.Image, side: int) -> Response:
    scale = min(1, side / max(image.size))
    size = [max(1, round(scale * length)) for length in image.size]
    shown = image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3)
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=88)
    return Response(file.getvalue(), media_type="image/jpeg", headers=_FOREVER)


def _overlay(mask: np.ndarray) -> Image.Image:
    """A mask as a tint with an outline, clear where nothing was found."""
    shape = Image.fromarray(mask.astype(np.uint8) * 255)
    shape.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL), Image.Resampling.BILINEAR)
    shape = shape.point(lambda value: 255 * (value >= 128))
    width = max(3, min(shape.size) // 80 * 2 + 1)
    inside = np.asarray(shape.filter(ImageFilter.MinFilter(width)))
    alpha = np.where(np.asarray(shape) > inside, 255, inside // 255 * 90).astype(np.uint8)
    tinted = Image.new("RGBA", shape.size, RIGHT)
    tinted.putalpha(Image.fromarray(alpha))
    return tinted


def _png(image: Image.Image) -> Response:
    file = io.BytesIO()
    image.save(file, "PNG")
    return Response(file.getvalue(), media_type="image/png")
