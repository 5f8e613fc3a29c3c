"""Real Chromium, driven by playwright, which notes what must not happen while a page is open."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a test picture
)


def chromium() -> str | None:
    """The path of a Chromium on this machine."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


def missing() -> str:
    """Why no browser can be driven here; empty where one can."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed (pip install '.[browser]')"
    return "" if chromium() else "there is no Chromium on this machine (Debian: apt-get install chromium)"


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """A Chromium with a profile of its own, thrown away at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        yield browser
        browser.close()


class Visit:
    """One reader's visit: a page, and what went wrong on it.

    Attributes
    ----------
    page : playwright.sync_api.Page
    errors : list of str
        Console errors and warnings, and exceptions that nothing caught.
    foreign : list of str
        Requests to another host than the server's.
    """

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.address = address
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self._context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **context})
        self._context.on("request", self._note_request)
        self.page = self._context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, route: str = "") -> Visit:
        """Load the page at a route, such as "#view=map"."""
        self.page.goto("about:blank")  # a route alone would not load the page anew
        self.page.goto(f"{self.address}/{route}")
        self.expect("#library-size").to_contain_text("photos")
        return self

    def expect(self, selector: str) -> Any:
        """Wait, as assertions of playwright do, for what a part of the page is to be.

        `page.wait_for_function` is no way to wait here: it needs eval, and the Content-Security-Policy forbids that.
        """
        from playwright.sync_api import expect

        return expect(self.page.locator(selector))

    def photo_keys(self) -> list[str]:
        """The keys of the photos on the page, in their order, once all are there."""
        self.page.wait_for_selector("#results:not([aria-busy]) .card:not(.waiting)")
        links = self.page.locator("#results .frame").all()
        return [str(link.get_attribute("title")) for link in links]

    def drop(self, *paths: Path) -> None:
        """Drag files of the disk over the page and let go of them, as the window system does."""
        session = self._context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": kind, "x": 500, "y": 600, "data": data})
            if kind == "dragOver":
                assert self.page.locator("#drop").is_visible()
        self.page.wait_for_selector("#drop", state="hidden")

    def pinch(self, x: int, y: int) -> None:
        """Put two fingers on the screen, at both sides of a place, and move them apart: from 40 to 220 pixels."""
        session = self._context.new_cdp_session(self.page)
        for apart in range(20, 111, 10):
            fingers = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
            kind = "touchStart" if apart == 20 else "touchMove"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def screenshot(self, name: str) -> None:
        """Keep a picture of the window in the git-ignored folder of artefacts."""
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"page_{name}.png")

    def close(self) -> None:
        """End the visit; fail where something went wrong during it."""
        self._context.close()
        assert not self.errors, self.errors
        assert not self.foreign, self.foreign

    def _note_request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and f"{parts.scheme}://{parts.netloc}" != self.address:
            self.foreign.append(request.url)

    def _note_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")
