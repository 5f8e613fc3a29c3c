"""Photos of the library that cannot be decoded in time, crash the decoder, are too large, or cannot be had."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from streamer.images.opened import OpenedImage, UnreadableImageError
from streamer.serving import photos
from tests.serving.conftest import Served, Serving, serving


def suspended(served: Served) -> list[psutil.Process]:
    """Start the processes that make previews, and let none of them get on."""
    decoder = served.service.shelf._decoder
    decoder.start()
    found = [psutil.Process(worker._process.pid) for worker in decoder._workers]
    for process in found:
        process.suspend()
    return found


def test_slow_photos_are_given_up_and_nothing_else_waits_for_them(serve_with: Serving, tmp_path: Path) -> None:
    with serve_with(decode_seconds=1.0) as served:
        for path in (served.service.path / "thumbnails").rglob("*.jpg"):
            path.unlink()
        stopped = suspended(served)
        answers: dict[int, httpx.Response] = {}

        def ask(number: int) -> None:
            answers[number] = served.client.get(f"/api/images/{number}/thumb")

        asking = [threading.Thread(target=ask, args=(number,)) for number in range(1, len(stopped) + 1)]
        for thread in asking:
            thread.start()
        picture = served.client.get("/api/images/20").content
        found = served.client.post("/api/search", content=picture, headers={"content-type": "image/jpeg"})
        assert found.status_code == 200 and found.json()["hits"]
        for thread in asking:
            thread.join(30)
        for number, answer in answers.items():
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
            assert int(answer.headers["retry-after"]) >= 1 and "1 s" in answer.json()["error"]["message"]
            served.service.shelf._decoder.preview = None  # type: ignore[method-assign, assignment]
            again = served.client.get(f"/api/images/{number}/thumb")
            assert again.status_code == 503, "it is not tried again at once"
            del served.service.shelf._decoder.preview
        assert served.client.get("/api/images/30/thumb").status_code == 200, "by new processes"


def test_who_waits_for_a_thumbnail_is_counted(serve_with: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "_MOST_WAITING", 2)
    with serve_with(decode_seconds=30.0) as served:
        may_end = threading.Event()
        began = threading.Semaphore(0)

        def slow(*_: object) -> None:
            began.release()
            may_end.wait(60)
            raise UnreadableImageError("not now", lasting=False)

        monkeypatch.setattr(served.service.shelf._decoder, "preview", slow)
        monkeypatch.setattr(served.service.shelf._cache, "get", lambda _: None)
        statuses: list[int] = []

        def ask(number: int) -> None:
            statuses.append(served.client.get(f"/api/images/{number}/thumb").status_code)

        asking = [threading.Thread(target=ask, args=(number,)) for number in (1, 2)]
        for thread in asking:
            thread.start()
        deadline = time.monotonic() + 30
        while served.service.shelf._decoding._places._value:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        answer = served.client.get("/api/images/3/thumb")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert served.client.get("/api/images/3").status_code == 200, "photos are sent meanwhile"
        may_end.set()
        for thread in asking:
            thread.join(30)
        assert statuses == [503, 503]


@pytest.mark.skipif(os.name == "nt", reason="no open file is replaced there")
def test_the_tag_of_a_photo_is_of_the_file_that_is_sent(own_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it taken from the path, a photo that is replaced meanwhile would be kept as the one that replaced it."""
    with serving(own_library / "photos.store") as served:
        path = own_library / "pictures" / served.client.get("/api/images/2/info").json()["key"]
        before, tag = path.read_bytes(), served.client.get("/api/images/2").headers["etag"]
        open_at = photos.open_image_at

        @contextlib.contextmanager
        def replaced_once_opened(name: str) -> Iterator[OpenedImage]:
            with open_at(name) as image:
                Image.new("RGB", (50, 20)).save(path.with_name("new.jpg"))
                path.with_name("new.jpg").replace(path)
                yield image

        with monkeypatch.context() as patch:
            patch.setattr(photos, "open_image_at", replaced_once_opened)
            answer = served.client.get("/api/images/2")
        assert (answer.content, answer.headers["etag"]) == (before, tag)
        after = served.client.get("/api/images/2", headers={"if-none-match": tag})
        assert after.status_code == 200 and after.headers["etag"] != tag and after.content == path.read_bytes()


def test_a_photo_is_gone_or_too_large_or_not_to_be_had(own_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(own_library / "photos.store", max_pixels=10_000) as served:
        path = own_library / "pictures" / served.client.get("/api/images/2/info").json()["key"]
        Image.new("RGB", (200, 100)).save(path)
        answer = served.client.get("/api/images/2/thumb")
        assert answer.status_code == 422 and "too large" in answer.json()["error"]["message"]
        (own_library / "pictures" / served.client.get("/api/images/3/info").json()["key"]).unlink()
        assert served.client.get("/api/images/3/thumb").status_code == 410
        assert served.client.get("/api/images/3").status_code == 410

        def away(_: str) -> None:
            raise UnreadableImageError("the file cannot be read: Input/output error", lasting=False)

        monkeypatch.setattr(photos, "open_image_at", away)
        answer = served.client.get("/api/images/4")
        assert answer.status_code == 503 and answer.headers["retry-after"]
