"""POST /api/search: the same answers as the library gives, by picture, id and key; and what it refuses."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streamer.errors import BudgetTooSmallError
from streamer.neighbours import Neighbours
from streamer.searcher import Searcher
from streamer.store import Store
from tests.serving.conftest import Served, Serving, serving

JPEG = {"content-type": "image/jpeg"}


def search(served: Served, body: bytes, **parameters: Any) -> dict[str, Any]:
    answer = served.client.post("/api/search", content=body, headers=JPEG, params=parameters)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def keys(answer: dict[str, Any]) -> list[str]:
    return [hit["key"] for hit in answer["hits"]]


def test_a_picture_gives_what_the_searcher_gives(served: Served, small_library: Path) -> None:
    picture = small_library / "pictures" / "star" / "star_003.jpg"
    answer = search(served, picture.read_bytes(), k=5)
    with Searcher(small_library / "photos.store") as searcher:
        (expected,) = searcher.search([picture], k=5)
    assert keys(answer) == [hit.key for hit in expected.hits]
    assert keys(answer)[0] == "star/star_003.jpg" and answer["hits"][0]["label"] == "star"
    np.testing.assert_allclose(
        [hit["score"] for hit in answer["hits"]], [hit.score for hit in expected.hits], atol=1e-5
    )
    assert (answer["exact"], answer["index"], answer["generation"], answer["images"]) == (False, "ivf", 1, 40)
    spent = answer["timing_ms"]
    parts = spent["decode"] + spent["network"] + spent["search"] + spent["waited"]
    assert spent["total"] == pytest.approx(parts, abs=0.1) and spent["network"] > 0 and spent["search"] > 0


@pytest.mark.parametrize("exact", [False, True])
def test_a_photo_is_left_out_of_its_own_answer(served: Served, exact: bool) -> None:
    by_id = served.client.post("/api/search", json={"id": 7, "k": 39, "exact": exact}).json()
    assert by_id["exact"] is exact and by_id["index"] == ("exact" if exact else "ivf")
    name = served.client.get("/api/images/7/info").json()
    assert len(by_id["hits"]) == 39 and 7 not in {hit["id"] for hit in by_id["hits"]}
    by_key = served.client.post("/api/search?k=3", json={"key": name["key"], "exact": exact}).json()
    assert by_key["hits"] == by_id["hits"][:3]
    assert by_id["timing_ms"]["network"] == 0


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("ranked_whole", [0, 2000])
def test_hits_of_a_label_are_the_nearest_of_it(
    served: Served, small_library: Path, monkeypatch: pytest.MonkeyPatch, exact: bool, ranked_whole: int
) -> None:
    monkeypatch.setattr("streamer.serving.searching._RANKED_WHOLE", ranked_whole)
    picture = (small_library / "pictures" / "star" / "star_003.jpg").read_bytes()
    everything = search(served, picture, k=40, exact=True)
    expected = [key for key in keys(everything) if key.startswith("disk/")]
    assert len(expected) == 10
    assert keys(search(served, picture, k=4, label="disk", exact=exact)) == expected[:4]
    assert keys(search(served, picture, k=30, label="disk", exact=exact)) == expected
    assert keys(search(served, picture, label="no such label", exact=exact)) == []


def test_searches_at_the_same_time_get_each_their_own(served: Served, small_library: Path) -> None:
    pictures = sorted((small_library / "pictures").rglob("*.jpg"))[::2]
    found: dict[str, list[str]] = {}

    def one(picture: Path) -> None:
        found[picture.name] = keys(search(served, picture.read_bytes(), k=3))

    threads = [threading.Thread(target=one, args=(picture,)) for picture in pictures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: hits[0].rpartition("/")[2] for name, hits in found.items()} == {
        each.name: each.name for each in pictures
    }


def encoded(format_name: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 40)).save(file, format_name)
    return file.getvalue()


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_other_formats_are_read_whatever_they_are_called(served: Served, format_name: str) -> None:
    assert len(search(served, encoded(format_name), k=2)["hits"]) == 2


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (JPEG, b"", 400),
        (JPEG, b"This is not a picture.\n" * 9, 415),
        (JPEG, encoded("PNG")[:60], 422),
        ({"content-type": "text/plain"}, encoded("PNG"), 415),
        ({}, encoded("PNG"), 415),
        ({**JPEG, "content-encoding": "gzip"}, encoded("PNG"), 415),
        ({"content-type": "application/json"}, b"", 422),
        ({"content-type": "application/json"}, b"{", 422),
        ({"content-type": "application/json"}, b"\xff\xfe{}", 422),
        ({"content-type": "application/json"}, b"[" * 60_000, 422),
        ({"content-type": "application/json"}, b"{}", 422),
        ({"content-type": "application/json"}, b'{"id": 1, "key": "a"}', 422),
        ({"content-type": "application/json"}, b'{"id": 1, "path": "/etc/passwd"}', 422),
        ({"content-type": "application/json"}, b'{"id": 99999999999999999999}', 422),
        ({"content-type": "application/json"}, b'{"id": 1, "k": 101}', 422),
        ({"content-type": "application/json"}, b'{"id": 4000}', 404),
        ({"content-type": "application/json"}, b'{"key": "../../etc/passwd"}', 404),
        ({"content-type": "application/json"}, b'{"id": 1, "label": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
def test_what_is_no_question_is_refused(served: Served, headers: dict[str, str], body: bytes, status: int) -> None:
    answer = served.client.post("/api/search", content=body, headers=headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "id"} and len(error["id"]) == 8
    assert str(served.service.path) not in answer.text and "Traceback" not in answer.text


def test_a_bomb_is_told_by_its_header(serve_with: Serving) -> None:
    with serve_with(max_pixels=1000) as served:
        answer = served.client.post("/api/search", content=encoded("PNG"), headers=JPEG)
        assert answer.status_code == 422 and "40 x 30 = 1200 pixels" in answer.json()["error"]["message"]


def test_imported_features_are_searched_from_their_photos_only(small_library: Path, tmp_path: Path) -> None:
    from streamer.exchange import import_features

    with Store(small_library / "photos.store") as store:
        ids, rows = next(store.blocks(store.spec.indexed, 100))
        names = store.catalog.names(ids.tolist())
    np.save(tmp_path / "features.npy", rows)
    lines = [f"{names[number][0]},{names[number][2]}" for number in ids.tolist()]
    (tmp_path / "keys.csv").write_text("key,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    import_features(tmp_path / "imported.store", tmp_path / "features.npy", keys=tmp_path / "keys.csv")
    with (
        pytest.raises(BudgetTooSmallError, match="give --memory") as refused,
        serving(tmp_path / "imported.store", budget_bytes=100 * 2**20),
    ):
        pass
    assert refused.value.minimum_bytes > 100 * 2**20
    suffices = refused.value.minimum_bytes + 200 * 2**20  # what other tests in this process have come to take
    with serving(tmp_path / "imported.store", budget_bytes=suffices) as served:
        assert 64 * 2**20 <= served.service.plan.decode_bytes < suffices // 2
    with serving(tmp_path / "imported.store") as served:
        answer = served.client.post("/api/search", content=encoded("PNG"), headers=JPEG)
        assert answer.status_code == 422 and "one of its photos" in answer.json()["error"]["message"]
        hits = served.client.post("/api/search", json={"id": 1, "k": 3, "exact": True}).json()["hits"]
        with Neighbours(tmp_path / "imported.store") as neighbours:
            (expected,) = neighbours.nearest(rows[:1], 4, exact=True)
        assert [hit["id"] for hit in hits] == [near.entry.id for near in expected if near.entry.id != 1]
        assert served.client.get("/api/images/1/thumb").status_code == 410
