"""The page in real Chromium, served by the real command over a small library of drawn pictures."""

from __future__ import annotations

import base64
import contextlib
import io
import math
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from streamer.images import drawn
from tests.serving.browser import Visit, missing, open_browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    # Playwright's own, on Python 3.12 and later.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright.*"),
]

FORMS, PER_CLASS = list(drawn.CLASSES)[:6], 9
COPY = "checkerboard/checkerboard_000_small.jpg"
Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and among them a smaller copy of the first; the store is beside them."""
    folder = tmp_path_factory.mktemp("library")
    pictures = folder / "pictures"
    drawn.draw_pictures(pictures, classes=len(FORMS), per_class=PER_CLASS, side=128, seed=3)
    with Image.open(pictures / "checkerboard" / "checkerboard_000.jpg") as picture:
        picture.resize((112, 112)).save(pictures / COPY, quality=80)
    config = folder / "config.yaml"
    settings = {
        "store": "photos.store",
        "source": {"folder": str(pictures)},
        "backbone": {"name": "vgg16_compact"},
        "index": {"kind": "ivf"},
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "streamer", "run", str(config), "--quiet"], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def address(library: Path) -> Iterator[str]:
    """Where a server of the library listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamer", "serve", str(library / "photos.store"), "--port", str(port)]
    log = library / "serve.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 60
        while not _healthy(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _healthy(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer,
    ):
        return bool(answer.status == 200)
    return False


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Open]:
    """Open the page at a route; at the end, no visit may have met an error or asked another host."""
    visits: list[Visit] = []

    def open_(route: str = "", **context: Any) -> Visit:
        visits.append(Visit(browser, address, **context))
        return visits[-1].open(route)

    yield open_
    for each in visits:
        each.close()


def label_of(key: str) -> str:
    return key.partition("/")[0]


def name_of(key: str) -> str:
    return key.rpartition("/")[2]


def loaded(visit: Visit, selector: str) -> bool:
    """Wait until a picture is there whole."""
    return bool(visit.page.locator(selector).evaluate("image => image.decode().then(() => image.naturalWidth > 0)"))


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds, at most ten seconds."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "it has not come to hold in ten seconds"
        time.sleep(0.05)


def middle(element: Any) -> tuple[float, float]:
    """Where an element's middle is, pixels of the window."""
    box = element.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def texts(visit: Visit, selector: str) -> list[str]:
    return [text.strip() for text in visit.page.locator(selector).all_inner_texts()]


def test_a_dropped_picture_finds_itself_first(visit: Open, library: Path) -> None:
    reader = visit()
    assert len(reader.photo_keys()) == 24
    reader.screenshot("start")
    reader.drop(library / "pictures" / "disk" / "disk_004.jpg")
    reader.expect("#query-title").to_have_text("disk_004.jpg")
    reader.page.wait_for_selector("#results .score")
    keys = reader.photo_keys()
    assert keys[0] == "disk/disk_004.jpg" and len(keys) == len(set(keys)) == 20
    scores = [float(text) for text in texts(reader, "#results .score")]
    assert scores[0] > 0.999 > scores[1] and scores == sorted(scores, reverse=True)
    assert texts(reader, "#results .label") == [label_of(key) for key in keys]
    assert "most alike" in reader.page.inner_text("#announcement")
    reader.screenshot("search")
    pictures = library / "pictures" / "ring"
    reader.drop(pictures / "ring_001.jpg", pictures / "ring_002.jpg")
    reader.expect("#query-title").to_have_text("ring_001.jpg")
    reader.expect("#query-detail").to_contain_text("One of 2 files")


def test_a_pasted_picture_is_searched_with(visit: Open) -> None:
    reader = visit("#seed=1", permissions=["clipboard-read", "clipboard-write"])
    wanted = reader.photo_keys()[5]
    source = reader.page.locator("#results img").nth(5).get_attribute("src")
    # The clipboard holds pixels, as after "copy image": a PNG of what was a JPEG.
    reader.page.evaluate(
        """async (source) => {
            const bitmap = await createImageBitmap(await (await fetch(source.replace("/thumb", ""))).blob());
            const {width, height} = bitmap;
            const canvas = Object.assign(document.createElement("canvas"), {width, height});
            canvas.getContext("2d").drawImage(bitmap, 0, 0);
            const blob = await new Promise((resolve) => canvas.toBlob(resolve));
            await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }""",
        source,
    )
    reader.page.keyboard.press("Control+V")
    reader.page.wait_for_selector("#results .score")
    assert reader.photo_keys()[0] == wanted


def test_a_result_is_searched_from_and_back_is_where_one_was(visit: Open, library: Path) -> None:
    reader = visit()
    reader.page.set_input_files("#file", library / "pictures" / "disk" / "disk_002.jpg")
    reader.page.wait_for_selector("#results .score")
    first = reader.photo_keys()
    last = reader.page.locator("#results .frame").last
    last.scroll_into_view_if_needed()
    scrolled = reader.page.evaluate("scrollY")
    last.click()
    reader.expect("#query-title").to_have_text(name_of(first[-1]))
    second = reader.photo_keys()
    assert first[-1] not in second, "a search from a photo leaves the photo out"
    assert re.search(r"#id=\d+$", reader.page.url)
    reader.expect("#results-title").to_be_focused()
    eventually(lambda: reader.page.evaluate("scrollY") == 0)
    reader.page.go_back()
    reader.expect("#query-title").to_have_text("disk_002.jpg")
    assert reader.photo_keys() == first
    eventually(lambda: reader.page.evaluate("scrollY") == scrolled)
    reader.page.go_forward()
    reader.expect("#query-title").to_have_text(name_of(first[-1]))
    assert reader.photo_keys() == second


def test_photos_are_seen_in_full_by_keys(visit: Open) -> None:
    reader = visit("#seed=2")
    page, keys = reader.page, reader.photo_keys()
    page.locator("#results .card").nth(3).hover()
    page.locator("#results .full").nth(3).click()
    for key, then in zip(keys[3:5], ("ArrowRight", "ArrowLeft"), strict=True):
        reader.expect("#viewer-title").to_have_text(name_of(key))
        reader.expect("#viewer-detail").to_contain_text(re.compile("128 . 128 pixels"))
        assert loaded(reader, "#viewer-image")
        page.keyboard.press(then)
    reader.screenshot("full")
    page.keyboard.press("Escape")
    reader.expect("#viewer").to_be_hidden()
    reader.expect("#results .card:nth-child(4) .full").to_be_focused()
    page.keyboard.press("Enter")
    page.click("#viewer-search")
    page.wait_for_selector("#results .score")
    assert page.locator("#viewer").is_hidden() and page.inner_text("#query-title") == name_of(keys[3])


def test_label_number_and_exactness_are_chosen(visit: Open, library: Path) -> None:
    reader = visit()
    page = reader.page
    page.set_input_files("#file", library / "pictures" / "dots" / "dots_001.jpg")
    page.wait_for_selector("#results .score")
    page.select_option("#label", "ring")
    reader.expect("#results-title").to_contain_text("“ring”")
    assert {label_of(key) for key in reader.photo_keys()} == {"ring"} and len(reader.photo_keys()) == PER_CLASS
    page.select_option("#label", "")
    page.locator("#k").fill("7")
    reader.expect("#results .card").to_have_count(7)
    assert page.inner_text("#k-value") == "7"
    approximate = reader.photo_keys()
    assert page.locator("[data-way=exact] dd").inner_text() == "not asked"
    page.get_by_role("switch", name="Exact").check()
    page.wait_for_selector(".agreement")
    times = [page.locator(f"[data-way={way}] dd").inner_text() for way in ("approximate", "exact")]
    assert all(re.fullmatch(r"\d+\.\d ms", time) for time in times), times
    same = len(set(approximate) & set(reader.photo_keys()))
    assert page.locator(".agreement dd").inner_text() == f"{same} of 7"
    assert "k=7" in page.url and "exact=true" in page.url


def test_another_handful_is_another_and_back_is_the_first(visit: Open) -> None:
    reader = visit()
    first = reader.photo_keys()
    reader.page.click("#handful")
    expect_first = reader.expect("#results .card:first-child .frame")
    expect_first.not_to_have_attribute("title", first[0])
    assert reader.photo_keys() != first
    reader.page.go_back()
    expect_first.to_have_attribute("title", first[0])
    assert reader.photo_keys() == first


def test_near_duplicates_are_grouped(visit: Open) -> None:
    reader = visit("#view=duplicates&threshold=0.99")
    page = reader.page
    page.wait_for_selector("#groups:not([aria-busy]) .frame")
    groups = [
        {frame.get_attribute("title") for frame in group.locator(".frame").all()}
        for group in page.locator(".group").all()
    ]
    assert {"checkerboard/checkerboard_000.jpg", COPY} in groups
    page.locator("#threshold").fill("0.8")
    eventually(lambda: page.locator("#groups .frame").count() > sum(map(len, groups)))
    assert "threshold=0.8" in page.url and re.match(r"\d+ groups?, ", page.inner_text("#duplicates-status"))
    reader.screenshot("duplicates")
    page.locator(".group .frame").first.click()
    page.wait_for_selector("#results .score")
    assert page.locator("#view-duplicates").is_hidden()


def test_the_map_shows_photos_by_mouse_and_by_keys(visit: Open) -> None:
    reader = visit("#view=map")
    page = reader.page
    page.wait_for_selector("#legend button")
    assert set(texts(reader, "#legend .name")) == set(FORMS)
    assert f"{len(FORMS) * PER_CLASS + 1} photos" in page.inner_text("#map-summary")
    page.locator("#map-canvas").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#map-card img")
    reader.expect("#announcement").to_have_text(re.compile(r"\w+_\d{3}(_small)?\.jpg, \w+"))
    page.locator("#map-title").focus()
    page.wait_for_selector("#map-card", state="hidden")
    before = page.locator("#map-photos img").count()
    left, top = middle(page.locator("#map-photos img").nth(2))
    source = page.locator("#map-photos img").nth(2).get_attribute("src")
    page.mouse.move(left, top)
    reader.expect("#map-card img").to_have_attribute("src", source)
    assert loaded(reader, "#map-card img")
    reader.screenshot("map")
    colours = _colours(reader)
    assert colours > len(FORMS), "points are drawn, in the colours of their labels"
    ring_label = page.get_by_role("button", name="ring")
    ring_label.click()
    page.mouse.move(5, 5)
    assert ring_label.get_attribute("aria-pressed") == "true"
    eventually(lambda: _colours(reader) < colours)  # the other labels are grey
    ring_label.click()
    page.mouse.move(left, top)
    page.mouse.wheel(0, -900)
    reader.expect("#map-photos img").not_to_have_count(before)
    reader.expect("#map-card img").to_have_attribute("src", source)
    page.mouse.click(left, top)
    page.wait_for_selector("#results .score")
    reader.expect("#query-picture img").to_have_attribute("src", source)


def _colours(reader: Visit) -> int:
    """How many colours the map's canvas has."""
    url = reader.page.locator("#map-canvas").evaluate("canvas => canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return len(picture.convert("RGB").getcolors(picture.width * picture.height))


def test_the_point_that_is_picked_is_the_nearest_of_all(visit: Open) -> None:
    wrong = visit().page.evaluate(
        """async () => {
            const {Points} = await import("/static/points.js");
            const n = 3000;
            const bytes = new ArrayBuffer(8 + 14 * n);
            new Uint32Array(bytes, 0, 2).set([n, 3]);
            const coordinates = new Float32Array(bytes, 8 + 4 * n, 2 * n);
            let state = 7;
            const random = () => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) / 2 ** 31 - 1;
            for (let place = 0; place < 2 * n; place++) coordinates[place] = random();
            coordinates.set([-1, 1, 1, -1]);  // the corners are in the grid too
            const points = new Points(bytes);
            const wrong = [];
            for (let turn = 0; turn < 400; turn++) {
                const [x, y, across, down] = [1.1 * random(), 1.1 * random(), 0.01 + turn / 1000, 0.02 + turn / 3000];
                const odd = (point) => point % 2 === 1;
                const wanted = turn % 2 ? odd : () => true;
                let [best, least] = [-1, 1];
                for (let point = 0; point < n; point++) {
                    const square = ((points.x[point] - x) / across) ** 2 + ((points.y[point] - y) / down) ** 2;
                    if (square < least && wanted(point)) [best, least] = [point, square];
                }
                const found = points.nearest([x, y], [across, down], turn % 2 ? odd : undefined);
                if (found !== best) wrong.push([x, y, across, down, found, best]);
            }
            return wrong;
        }"""
    )
    assert wrong == []


def test_dark_by_the_system_and_by_choice(visit: Open) -> None:
    reader = visit("#seed=4", color_scheme="dark")
    page = reader.page
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    reader.photo_keys()
    reader.screenshot("dark")
    page.get_by_role("button", name="Theme: system").click()
    light = page.evaluate(ground)
    assert [max(map(int, re.findall(r"\d+", colour)[:3])) < 60 for colour in (dark, light)] == [True, False]
    page.reload()
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate(ground) == dark
    reader.open("#view=map")
    page.wait_for_selector("#legend button")
    reader.screenshot("map_dark")


def test_a_phone_scrolls_in_one_direction(visit: Open) -> None:
    phone = visit(
        "#seed=5", viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True, has_touch=True
    )
    page = phone.page
    phone.photo_keys()
    assert page.locator("#camera").is_visible(), "a phone offers its camera"
    assert page.locator("#capture").get_attribute("capture") == "environment"
    page.locator("#results .frame").first.tap()
    page.wait_for_selector("#results .score")
    phone.screenshot("phone_search")
    for route, ready in {
        "#seed=5": "#results .label",
        "#view=map": "#legend a",
        "#view=duplicates": "#groups h2",
    }.items():
        phone.open(route)
        page.wait_for_selector(ready)
        phone.screenshot(f"phone_{route[1:].replace('=', '_')}")
        for width in (360, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") == width, route


def test_fingers_zoom_the_map_and_choose_a_photo(visit: Open) -> None:
    phone = visit("#view=map", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = phone.page
    photos = page.locator("#map-photos img")
    photos.first.wait_for()
    before = _spread(photos)
    phone.pinch(195, 420)
    assert _spread(photos) > 1.5 * before
    page.locator("#map-whole").tap()
    page.touchscreen.tap(*middle(photos.first))
    source = photos.first.get_attribute("src")
    page.locator("#map-card").tap()
    page.wait_for_selector("#results .score")
    phone.expect("#query-picture img").to_have_attribute("src", source)


def _spread(photos: Any) -> float:
    """How far apart the first two photos of the map are, pixels."""
    return math.dist(middle(photos.nth(0)), middle(photos.nth(1)))


def test_all_is_done_by_the_keyboard_alone(visit: Open) -> None:
    reader = visit("#seed=6")
    page, keys = reader.page, reader.photo_keys()
    focused = "document.activeElement.id || document.activeElement.title"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "results-title"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == keys[0]
    for key, expected in (("ArrowRight", keys[1]), ("End", keys[-1]), ("Home", keys[0]), ("ArrowDown", None)):
        page.keyboard.press(key)
        assert page.evaluate(focused) == expected or (expected is None and page.evaluate(focused) in keys[2:])
    wanted = page.evaluate(focused)
    page.keyboard.press("Enter")
    page.wait_for_selector("#results .score")
    assert page.inner_text("#query-title") == name_of(wanted)
    reader.expect("#results-title").to_be_focused()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"


def test_a_picture_is_taken_with_the_camera(visit: Open) -> None:
    reader = visit("#seed=8", permissions=["camera"])
    page = reader.page
    page.get_by_role("button", name="Camera").click()
    eventually(lambda: page.locator("#camera-video").evaluate("video => video.videoWidth > 0"))
    with page.expect_request("**/api/search*") as sent:
        page.get_by_role("button", name="Take the picture").click()
    assert sent.value.header_value("content-type") == "image/jpeg"
    page.wait_for_selector("#results .score")
    assert page.locator("#camera-dialog").is_hidden() and page.inner_text("#query-title") == "your picture"
    assert page.locator("#camera-video").evaluate("video => video.srcObject") is None, "the camera is let go of"


def test_a_large_picture_is_made_smaller_and_that_is_said(visit: Open, library: Path) -> None:
    reader = visit()
    page = reader.page

    def lower(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "max_upload_bytes": 20_000})

    page.route("**/api/info", lower)
    large = library / "large.png"
    with Image.open(library / "pictures" / "ring" / "ring_003.jpg") as picture:
        picture.resize((2000, 1000)).save(large)
    reader.open()
    with page.expect_request("**/api/search*") as sent:
        page.set_input_files("#file", large)
    assert sent.value.header_value("content-type") == "image/jpeg"
    page.wait_for_selector("#results .score")
    assert re.search("a copy of 1600 . 800 pixels was sent", page.inner_text("#query-detail"))
    assert label_of(reader.photo_keys()[0]) == "ring"


def test_faults_are_told_in_plain_words(visit: Open, tmp_path: Path) -> None:
    reader = visit()
    page = reader.page
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    page.set_input_files("#file", tmp_path / "notes.txt")
    assert "“notes.txt” is not a picture" in page.get_by_role("alert").first.inner_text()
    page.set_input_files("#file", tmp_path / "broken.jpg")
    page.get_by_role("button", name="Try again").wait_for()
    told = page.get_by_role("alert").first.inner_text()
    assert told.startswith("The picture cannot be read") and "a copy of it as JPEG or PNG" in told
    reader.open("#id=987654")
    page.get_by_text("no longer in the library").wait_for()
    page.get_by_role("button", name="Dismiss").click()
    assert page.locator(".alert-box").count() == 0
    busy = {"error": {"code": "busy", "message": "too much to do", "id": "0" * 8}}
    page.route(
        "**/api/search*", lambda route: route.fulfill(status=503, headers={"Retry-After": "1"}, json=busy), times=1
    )
    reader.open("#id=1")
    page.wait_for_selector("#results .score")
    assert page.locator(".alert-box").count() == 0, "a busy server is asked again"
    # Chromium notes each refused request in the console; nothing else may be there.
    assert reader.errors and all(re.search("status of (4..|503)", error) for error in reader.errors)
    reader.errors.clear()


def test_a_library_that_has_changed_meanwhile_is_described_anew(visit: Open) -> None:
    reader = visit("#seed=9")
    page = reader.page
    info = page.evaluate("fetch('/api/info').then((answer) => answer.json())")
    later = {**info, "images": 777, "generation": info["generation"] + 1, "labels": [{"label": "new", "images": 777}]}

    def later_answer(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "generation": later["generation"]})

    page.route("**/api/info", lambda route: route.fulfill(json=later))
    page.route("**/api/search*", later_answer)
    page.locator("#results .frame").first.click()
    reader.expect("#library-size").to_have_text("777 photos")
    assert texts(reader, "#label option") == ["all labels", "new (777)"]
    assert reader.photo_keys(), "what was answered is seen all the same"


def test_axe_finds_nothing_to_mend(visit: Open) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    ready = {"#id=1": "#results .score", "#view=map": "#legend a", "#view=duplicates": "#groups h2"}
    for scheme, routes in {"light": list(ready), "dark": ["#id=1"]}.items():
        reader = visit("#id=1", color_scheme=scheme, reduced_motion="reduce")
        for route in routes:
            reader.open(route)
            reader.page.wait_for_selector(ready[route])
            found = axe.run(reader.page).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], (scheme, route)
