"""The page in a real Chromium: draw, wait, look at what came.

Skipped where no Chromium is installed.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect, sync_playwright

from tests.heads.serve.conftest import TASKS
from tests.heads.worlds import World
from tests.serving import serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000
"""Milliseconds for an answer of a busy machine."""

EXPECTED = ("Failed to load resource: net::ERR_FAILED",)
"""What Chromium says where a test makes a request fail."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def address(world: World, runs: Callable[[str], Path]) -> Iterator[str]:
    """The command itself, as a user starts it; Ctrl-C ends it."""
    with serving(*(runs(task) for task in TASKS)) as line:
        yield line


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        expect(page.locator("#about")).to_contain_text("photos")
        yield page
        # Neither errors nor anything that the content policy forbade.
        assert [line for line in said if line not in EXPECTED] == []
        browser.close()


def draw(page: Page, *corners: tuple[float, float]) -> None:
    """One stroke through corners, in shares of the canvas."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def shown(page: Page) -> list[str]:
    """The ids of the photos, when there are as many as asked for and no newer answer is awaited."""
    expect(page.locator("#hits li")).to_have_count(12)
    expect(page.locator("#results.stale")).to_have_count(0)
    return [
        image.get_attribute("alt") or "" for image in page.locator("#hits img:not(.mask)").all()
    ]


HOUSE = [(0.3, 0.8), (0.3, 0.5), (0.5, 0.3), (0.7, 0.5), (0.7, 0.8), (0.3, 0.8)]


def test_photos_guesses_and_masks_appear_as_one_draws(page: Page) -> None:
    expect(page.locator("#invitation")).to_be_visible()
    draw(page, *HOUSE)
    first = shown(page)
    assert len(set(first)) == 12 and all(name.startswith("photo/") for name in first)
    expect(page.locator("#invitation")).to_be_hidden()
    expect(page.locator("#classes li")).to_have_count(5)
    expect(page.locator("#hits img.mask")).to_have_count(12)
    loaded = "[...document.querySelectorAll('#hits img')].every(image => image.naturalWidth > 0)"
    assert eventually(page, loaded)
    page.locator("#masks").uncheck()
    expect(page.locator("#hits img.mask").first).to_be_hidden()
    page.locator("#count").select_option("6")
    expect(page.locator("#hits li")).to_have_count(6)


def test_undo_redo_and_clear(page: Page) -> None:
    ink = "document.querySelector('#canvas').toDataURL()"
    empty = page.evaluate(ink)
    draw(page, *HOUSE)
    house = page.evaluate(ink)
    shown(page)
    draw(page, (0.4, 0.6), (0.6, 0.6))
    both = page.evaluate(ink)
    assert len({empty, house, both}) == 3
    page.keyboard.press("Control+z")
    assert page.evaluate(ink) == house
    page.locator("#redo").click()
    assert page.evaluate(ink) == both
    page.locator("#clear").click()
    assert page.evaluate(ink) == empty
    expect(page.locator("#hits li")).to_have_count(0)
    expect(page.locator("#clear")).to_be_disabled()
    page.locator("#undo").click()
    assert page.evaluate(ink) == both
    assert len(shown(page)) == 12


def eventually(page: Page, condition: str) -> bool:
    """Whether a condition comes true. Polled from here: the content policy forbids `eval`."""
    for _ in range(PATIENCE // 200):
        if page.evaluate(condition):
            return True
        page.wait_for_timeout(200)
    return False


def as_array(data_url: str) -> np.ndarray:
    """Grey levels [H, W] of a data URL."""
    data = base64.b64decode(data_url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def test_the_stroke_has_the_width_that_was_chosen(page: Page) -> None:
    for width in (4, 20):
        page.locator("#width").fill(str(width))
        draw(page, (0.2, 0.5), (0.8, 0.5))
        drawn = as_array(page.evaluate("document.querySelector('#canvas').toDataURL()"))
        dark = (drawn[:, drawn.shape[1] // 2] < 128).sum()
        assert dark * 512 / len(drawn) == pytest.approx(width, abs=1)
        page.locator("#clear").click()


RECORD = """() => {
  window.sent = [];
  const before = window.fetch;
  window.fetch = async (url, options) => {
    if (url.includes("look")) {
      const reader = new FileReader();
      await new Promise((done) => { reader.onload = done; reader.readAsDataURL(options.body); });
      window.sent.push(reader.result);
    }
    return before(url, options);
  };
}"""


def test_where_it_is_drawn_matters_only_unless_it_fills_the_frame(page: Page) -> None:
    page.evaluate(RECORD)

    def last(corners: list[tuple[float, float]], fill: bool) -> np.ndarray:
        page.locator("#fit").set_checked(fill)
        draw(page, *corners)
        shown(page)
        page.wait_for_timeout(300)
        found = as_array(page.evaluate("window.sent.at(-1)"))
        page.locator("#clear").click()
        expect(page.locator("#hits li")).to_have_count(0)
        return found < 128

    square = [(0.25, 0.25), (0.5, 0.25), (0.5, 0.5), (0.25, 0.5), (0.25, 0.25)]
    moved = [(x + 0.25, y + 0.25) for x, y in square]
    filled = last(square, True)
    assert filled.shape == (512, 512)
    rows = np.nonzero(filled.any(1))[0]
    assert rows[0] == pytest.approx(0.1 * 512 - 4, abs=3)
    assert rows[-1] == pytest.approx(0.9 * 512 + 4, abs=3)
    assert (filled ^ last(moved, True)).sum() < 0.2 * filled.sum()
    plain = last(square, False)
    assert (plain ^ last(moved, False)).sum() > 1.5 * plain.sum()


def test_a_point_of_the_drawing_is_shown_in_the_photo(page: Page) -> None:
    draw(page, *HOUSE)
    shown(page)
    page.locator("#hits button").first.click()
    expect(page.locator("#pair-name")).to_contain_text("photo/")
    own = page.locator("#own-points")
    assert eventually(page, "document.querySelector('#own').naturalWidth === 512")
    box = own.bounding_box()
    assert box is not None
    own.click(position={"x": box["width"] * 0.25, "y": box["height"] * 0.5})
    expect(page.locator("#points tbody tr")).to_have_count(1)
    expect(page.locator("#points tbody td").nth(1)).to_have_text(re.compile(r"^12[789], 25[567]$"))
    for svg in ("#own-points", "#photo-points"):
        expect(page.locator(f"{svg} circle")).to_have_count(1)
    page.locator("#spread").click()
    expect(page.locator("#photo-points circle")).not_to_have_count(1)
    page.locator("#forget").click()
    expect(page.locator("#photo-points circle")).to_have_count(0)
    page.locator("#back").click()
    assert len(shown(page)) == 12


def test_a_late_answer_does_not_replace_a_newer_one(page: Page) -> None:
    draw(page, *HOUSE)
    shown(page)
    page.locator("#hits button").first.click()
    waiting: list[Route] = []
    page.route("**/api/match*", lambda route: waiting.append(route))
    own = page.locator("#own-points")
    assert eventually(page, "document.querySelector('#own').naturalWidth === 512")
    for x in (60, 90):
        own.click(position={"x": x, "y": 100})
    for _ in range(100):
        page.wait_for_timeout(50)
        if len(waiting) == 2:
            break

    def answer(route: Route, similarity: float) -> None:
        point = {"sketch": [1, 1], "photo": [2, 2], "similarity": similarity}
        photo = {"id": "p", "width": 64, "height": 64}
        route.fulfill(json={"photo": photo, "points": [point]})

    answer(waiting[1], 0.222)
    cosine = page.locator("#points tbody td").nth(3)
    expect(cosine).to_have_text("0.222")
    answer(waiting[0], 0.111)
    page.wait_for_timeout(500)
    expect(cosine).to_have_text("0.222")


def test_a_dot_is_drawn_and_ink_stays_on_the_canvas(page: Page) -> None:
    ink = "document.querySelector('#canvas').toDataURL()"
    draw(page, (0.5, 0.5), (0.5, 0.5))
    assert (as_array(page.evaluate(ink)) < 128).sum() > 20
    page.evaluate(RECORD)
    draw(page, (0.3, 0.3), (0.3, 0.7), (2.5, 0.7))
    shown(page)
    page.wait_for_timeout(500)
    sent = as_array(page.evaluate("window.sent.at(-1)")) < 128
    columns = np.nonzero(sent.any(0))[0]
    # From .3 to 1 of the canvas, and no further, fills the frame.
    assert columns[0] == pytest.approx(0.1 * 512, abs=8)
    assert columns[-1] == pytest.approx(0.9 * 512, abs=8)
    rows = np.nonzero(sent.any(1))[0]
    assert rows[-1] - rows[0] == pytest.approx(0.8 * 512 * 0.4 / 0.7, abs=16)


def test_a_picture_can_be_given_instead(page: Page, pictures: Path) -> None:
    """And it is sent as it is: it finds itself."""
    photo = sorted(pictures.rglob("photo/*/*.png"))[7]
    page.locator("#file").set_input_files(photo)
    assert shown(page)[0] == photo.relative_to(pictures).as_posix()
    expect(page.locator("#hits .figure").first).to_have_text("1.000")
    draw(page, (0.2, 0.2), (0.4, 0.4))
    expect(page.locator("#error")).to_contain_text("clear it to draw")
    page.locator("#file").set_input_files(
        {"name": "bad.png", "mimeType": "image/png", "buffer": b"none"}
    )
    expect(page.locator("#error")).to_contain_text("bad.png: is no picture")
    assert shown(page)[0] == photo.relative_to(pictures).as_posix()


def test_a_finger_draws_too(address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(
            viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        expect(page.locator("#about")).to_contain_text("photos")
        box = page.locator("#canvas").bounding_box()
        assert box is not None and box["width"] > 300
        touch = context.new_cdp_session(page)
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in HOUSE]
        for kind, place in zip(
            ["touchStart", *["touchMove"] * (len(places) - 1)], places, strict=True
        ):
            touch.send(
                "Input.dispatchTouchEvent",
                {"type": kind, "touchPoints": [{"x": place[0], "y": place[1]}]},
            )
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert len(shown(page)) == 12
        browser.close()


def test_a_stopped_server_is_said(page: Page) -> None:
    page.route("**/api/look*", lambda route: route.abort())
    draw(page, *HOUSE)
    expect(page.locator("#error")).to_contain_text("does not answer")
    page.unroute("**/api/look*")
