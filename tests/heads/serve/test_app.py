"""What the server answers, and what it refuses."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cache import CorruptShard
from heads.serve import Service
from heads.serve.app import MAX_BYTES, MAX_WAITING, PAGE, build_app

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(build_app(service), base_url="http://127.0.0.1") as made:
        yield made


def test_the_page_and_its_parts_are_served(client: TestClient) -> None:
    assert "<canvas" in client.get("/").text
    for path in PAGE.iterdir():
        answer = client.get(f"/{path.name}")
        assert answer.status_code == 200 and answer.content == path.read_bytes()
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_the_page_asks_nobody_else() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path.name


def test_a_look_finds_photos_that_can_be_fetched(
    client: TestClient, service: Service, sketch: bytes
) -> None:
    found = client.post("/api/look?k=5", content=sketch, headers=PNG).json()
    expected = service.look(sketch, 5)
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected.hits]
    assert found["hits"][0]["similarity"] == pytest.approx(expected.hits[0].similarity)
    assert len(found["classes"]) == 5
    answer = client.get(f"/photos/{found['hits'][0]['sha256']}?side=40")
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    assert max(Image.open(io.BytesIO(answer.content)).size) == 40


def test_a_mask_is_a_tint_of_what_was_found(
    client: TestClient, service: Service, sketch: bytes
) -> None:
    shares = []
    for image_id in service.gallery.ids[:12]:
        sha256 = service.gallery.sha256(image_id)
        answer = client.post(f"/api/mask?photo={sha256}", content=sketch, headers=PNG)
        tinted = Image.open(io.BytesIO(answer.content))
        expected = service.mask(sketch, sha256)
        assert tinted.mode == "RGBA" and tinted.size == expected.shape[::-1]
        np.testing.assert_array_equal(np.asarray(tinted)[..., 3] > 0, expected)
        shares.append(expected.mean())
    assert max(shares) > 0


def test_points_come_back_in_pixels(client: TestClient, service: Service, sketch: bytes) -> None:
    sha256 = service.gallery.sha256(service.gallery.ids[0])
    url = f"/api/match?photo={sha256}&point=20,31.5&point=40,10"
    found = client.post(url, content=sketch, headers=PNG).json()
    expected = service.match(sketch, sha256, [(20, 31.5), (40, 10)])
    assert [point["sketch"] for point in found["points"]] == [[20, 31.5], [40, 10]]
    np.testing.assert_allclose([p["photo"] for p in found["points"]], expected.found)
    spread = client.post(f"/api/match?photo={sha256}&grid=3", content=sketch, headers=PNG).json()
    assert len(spread["points"]) > 2


REFUSED = {
    "no image": ("/api/look", b"none", PNG, 400, "cannot be used"),
    "nothing": ("/api/look", b"", PNG, 400, "cannot be used"),
    "a form": ("/api/look", b"a=b", {"Content-Type": "text/plain"}, 415, "send an image"),
    "too large": ("/api/look", b"\x89PNG" + bytes(MAX_BYTES), PNG, 413, "16 MiB"),
    "too many": ("/api/look?k=1000", None, PNG, 422, "k: "),
    "no photo": ("/api/mask?photo=../../etc/passwd", None, PNG, 400, "no photo of the gallery"),
    "a point outside": ("/api/match?photo={sha}&point=9e9,0", None, PNG, 400, "outside"),
    "no point": ("/api/match?photo={sha}&point=here", None, PNG, 422, "write x,y"),
    "nan": ("/api/match?photo={sha}&point=nan,1", None, PNG, 400, "outside"),
    "no points": ("/api/match?photo={sha}", None, PNG, 400, "no points"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_bad_requests_are_refused_in_a_line(
    client: TestClient,
    service: Service,
    sketch: bytes,
    case: tuple[str, bytes | None, dict[str, str], int, str],
) -> None:
    url, content, headers, status, words = case
    url = url.format(sha=service.gallery.sha256(service.gallery.ids[0]))
    answer = client.post(url, content=sketch if content is None else content, headers=headers)
    assert answer.status_code == status
    assert words in answer.json()["error"] and "\n" not in answer.json()["error"]


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (100_000, 1)])
def test_a_picture_of_absurd_size_is_refused_from_its_header(
    client: TestClient, width: int, height: int
) -> None:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    answer = client.post("/api/look", content=file.getvalue(), headers=PNG)
    assert answer.status_code == 413 and f"{width} x {height}" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/../app.py", "/%2e%2e/app.py", "/photos/..%2f..%2fapp.py", "/photos/none", "/api/"]
)
def test_nothing_but_the_page_and_the_gallery_is_reached(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404 and "error" in answer.json()


def test_a_foreign_name_for_this_machine_is_refused(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
        answer = client.get("/", headers={"Host": host})
        assert answer.status_code == 400 and "not a name" in answer.json()["error"]
    for host in ("localhost:8000", "LOCALHOST", "192.168.1.5:8000", "[::1]:8000", "[fd00::1]"):
        assert client.get("/", headers={"Host": host}).status_code == 200


class Altered:
    """A service one of whose answers is another."""

    def __init__(self, service: Service, **answers: Any) -> None:
        self._service = service
        self.__dict__.update(answers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (CorruptShard("s/0: damaged"), 500, "s/0: damaged"),
        (RuntimeError("CUDA out of memory"), 503, "no memory left"),
        (KeyError("a bug"), 500, "terminal says why"),
    ],
)
def test_what_goes_wrong_is_json_too(
    service: Service, sketch: bytes, error: Exception, status: int, words: str
) -> None:
    def look(drawing: bytes, k: int) -> Any:
        raise error

    app = build_app(cast(Service, Altered(service, look=look)))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        answer = client.post("/api/look", content=sketch, headers=PNG)
    assert answer.status_code == status and words in answer.json()["error"]
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_those_who_wait_are_bounded(service: Service, sketch: bytes) -> None:
    """Too many at once are told so, and nobody waits for ever."""
    gate = threading.Event()

    def look(drawing: bytes, k: int) -> Any:
        assert gate.wait(60)
        return service.look(drawing, k)

    slow = cast(Service, Altered(service, look=look))
    codes: list[int] = []
    with TestClient(build_app(slow), base_url="http://127.0.0.1") as client:

        def ask() -> None:
            answer = client.post("/api/look", content=sketch, headers=PNG)
            codes.append(answer.status_code)
            if answer.status_code == 503:
                gate.set()

        threads = [threading.Thread(target=ask) for _ in range(MAX_WAITING + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert sorted(codes) == [200] * MAX_WAITING + [503]
