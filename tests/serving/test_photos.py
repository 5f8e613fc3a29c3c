"""Photos, thumbnails, random photos, map and near-duplicates over HTTP."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from streamer.images.drawn import draw_pictures
from streamer.reduction import Reducer, unit_rows
from streamer.store import CatalogPhotos, Store
from streamer.upkeep import check
from tests.serving.conftest import Served, make_library, serving


def id_of(served: Served, key: str) -> int:
    with Store(served.service.path) as store:
        photo = CatalogPhotos(store.catalog).by_key(key)
    assert photo is not None
    return photo.id


def size_of(answer: httpx.Response) -> tuple[int, int]:
    with Image.open(io.BytesIO(answer.content)) as picture:
        picture.load()
        return picture.size


def test_a_photo_is_sent_as_it_lies_on_the_disk(served: Served, small_library: Path) -> None:
    answer = served.client.get("/api/images/3")
    name = served.client.get("/api/images/3/info").json()
    path = small_library / "pictures" / name["key"]
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == "image/jpeg" and answer.headers["content-disposition"] == "inline"
    assert (name["width"], name["height"], name["bytes"]) == (96, 96, path.stat().st_size)
    again = served.client.get("/api/images/3", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "number", ["0", "-1", "1e3", "4000", str(2**63 - 1), str(2**64), "../1", "..%2f..%2fetc%2fpasswd"]
)
@pytest.mark.parametrize("rest", ["", "/thumb", "/info"])
def test_what_is_no_photo_of_the_catalog_is_not_there(served: Served, number: str, rest: str) -> None:
    answer = served.client.get(f"/api/images/{number}{rest}")
    assert answer.status_code in (404, 422) and set(answer.json()) == {"error"}


def test_odd_photos_are_shown_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture = Image.new("RGB", (600, 300), (10, 60, 200))
    picture.paste((255, 255, 0), (0, 0, 100, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(folder / "turned.jpg", exif=exif)
    picture.save(folder / "scan.tif")
    picture.resize((60, 30)).save(folder / "small.png")
    make_library(tmp_path, classes=1, per_class=2)
    with serving(tmp_path / "photos.store") as served:
        turned, scan, small = (id_of(served, key) for key in ("turned.jpg", "scan.tif", "small.png"))
        assert size_of(served.client.get(f"/api/images/{turned}/thumb")) == (128, 256)
        assert served.client.get(f"/api/images/{turned}/info").json()["height"] == 600
        assert size_of(served.client.get(f"/api/images/{small}/thumb")) == (60, 30), "a thumbnail is not blown up"
        shown = served.client.get(f"/api/images/{scan}")
        assert shown.headers["content-type"] == "image/jpeg" and size_of(shown) == (600, 300)
        (folder / "small.png").unlink()
        (folder / "scan.tif").write_text("milk, bread")
        for number in (small, scan):
            assert served.client.get(f"/api/images/{number}").status_code == 410
        assert served.client.get(f"/api/images/{small}/thumb").status_code == 200, "it was made before"
        assert served.client.get(f"/api/images/{scan}/thumb").json()["error"]["code"] == "gone"
        if hasattr(os, "mkfifo"):
            os.mkfifo(folder / "small.png")
            assert served.client.get(f"/api/images/{small}").status_code == 410


def test_photos_in_an_archive_are_served(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "pictures", classes=1, per_class=3, side=96, seed=1)
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        for path in sorted((tmp_path / "pictures").rglob("*.jpg")):
            archive.add(path, path.relative_to(tmp_path / "pictures").as_posix())
    make_library(tmp_path, f"source={{tar: {tmp_path.as_posix()}/pictures.tar}}", classes=1, per_class=3)
    with serving(tmp_path / "photos.store") as served:
        name = served.client.get("/api/images/2/info").json()
        photo = served.client.get("/api/images/2")
        assert photo.content == (tmp_path / "pictures" / name["key"]).read_bytes() and photo.headers["etag"]
        assert size_of(served.client.get("/api/images/2/thumb")) == (96, 96)
        assert (name["width"], name["height"]) == (96, 96)
        (tmp_path / "pictures.tar").write_bytes(b"cut short")
        assert served.client.get("/api/images/1").status_code == 410
        assert served.client.get("/api/images/1/thumb").status_code == 410


def test_thumbnails_are_kept_by_content_and_made_once(own_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = own_library / "photos.store"
    with serving(store) as served:
        first = served.client.get("/api/images/2/thumb")
        assert size_of(first) == (96, 96) and first.headers["etag"]
        (kept,) = [path for path in (store / "thumbnails").rglob("*") if path.is_file()]
        assert kept.read_bytes() == first.content and f'"{kept.stem}"' == first.headers["etag"]
        monkeypatch.setattr(served.service.shelf._decoder, "preview", None)  # were it made again, that would fail
        assert served.client.get("/api/images/2/thumb").content == first.content
        monkeypatch.undo()
        assert check(store).faults == []
        # The photo changes, and no run has seen it yet.
        path = own_library / "pictures" / served.client.get("/api/images/2/info").json()["key"]
        kept.unlink()
        Image.new("RGB", (50, 20)).save(path)
        changed = served.client.get("/api/images/2/thumb")
        assert size_of(changed) == (50, 20) and changed.headers["etag"] != first.headers["etag"]
        assert not kept.exists(), "the picture of today is not kept as that of then"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nobody is kept from writing here")
def test_a_store_that_is_read_only_is_served(own_library: Path) -> None:
    store = own_library / "photos.store"
    store.chmod(0o500)
    try:
        with serving(store) as served:
            assert served.client.get("/api/images/2/thumb").status_code == 200
    finally:
        store.chmod(0o700)


def test_random_photos_follow_their_seed(served: Served) -> None:
    def drawn(query: str) -> list[int]:
        return [photo["id"] for photo in served.client.get(f"/api/random?{query}").json()["images"]]

    assert drawn("count=7&seed=3") == drawn("count=7&seed=3") != drawn("count=7&seed=4")
    assert len(set(drawn("count=7&seed=3"))) == 7
    assert sorted(drawn("count=200")) == list(range(1, 41))
    labels = served.client.get("/api/random?label=disk&count=20").json()["images"]
    assert len(labels) == 10 and {photo["label"] for photo in labels} == {"disk"}
    assert drawn("label=none") == []


def test_info_says_what_is_served(served: Served) -> None:
    info = served.client.get("/api/info").json()
    assert info["labels"] == [{"label": name, "images": 10} for name in ("checkerboard", "disk", "star", "stripes")]
    assert (info["name"], info["images"], info["network"], info["dimension"]) == ("photos", 40, "vgg16_compact", 1728)
    assert (info["index"], info["generation"], info["max_k"], info["max_upload_bytes"]) == ("ivf", 1, 100, 20 * 2**20)
    assert served.client.get("/api/health").json()["status"] == "ok"


def read_map(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Ids, points, label numbers, number of labels: as the page reads them."""
    n, labels = np.frombuffer(data, "<u4", 2)
    ids = np.frombuffer(data, "<u4", n, 8)
    points = np.stack([np.frombuffer(data, "<f4", n, 8 + 4 * (1 + axis) * int(n)) for axis in (0, 1)], axis=1)
    numbers = np.frombuffer(data, "<u2", n, 8 + 12 * int(n))
    assert len(data) == 8 + 14 * n
    return ids, points, numbers, int(labels)


def test_the_map_is_the_plane_of_the_pca(served: Served) -> None:
    answer = served.client.get("/api/map")
    ids, points, numbers, labels = read_map(answer.content)
    assert answer.headers["x-images-total"] == "40" and answer.headers["x-ids-from"] == "0"
    assert ids.tolist() == list(range(1, 41)) and labels == 4
    assert [points.min(axis=0).tolist(), points.max(axis=0).tolist()] == [[-1, -1], [1, 1]]
    reducer = Reducer.load(served.service.path / "index" / "000001" / "reducer.npz")
    with Store(served.service.path) as store:
        _, rows = next(store.blocks(store.spec.indexed, 100))
        named = store.catalog.names(ids.tolist())
    expected = (unit_rows(rows) - reducer.mean) @ reducer.components[:2].T
    for axis in (0, 1):
        assert np.corrcoef(points[:, axis], expected[:, axis])[0, 1] > 0.9999
    listed = [each["label"] for each in served.client.get("/api/info").json()["labels"]]
    assert [listed[number] for number in numbers] == [named[number][2] for number in ids.tolist()]
    unchanged = served.client.get("/api/map", headers={"if-none-match": answer.headers["etag"]})
    assert unchanged.status_code == 304


def test_near_duplicates_are_worked_out_once(own_library: Path) -> None:
    for copy in ("again.jpg", "and again.jpg"):
        shutil.copy(own_library / "pictures" / "disk" / "disk_004.jpg", own_library / "pictures" / "star" / copy)
    from streamer.config import load_config
    from streamer.pipeline import run

    run(load_config(own_library / "config.yaml"))
    with serving(own_library / "photos.store") as served:
        deadline = time.monotonic() + 30
        while (answer := served.client.get("/api/duplicates?threshold=0.9999")).status_code == 202:
            assert answer.json() == {"status": "working"} and int(answer.headers["retry-after"]) >= 1
            assert time.monotonic() < deadline
        (group,) = answer.json()["groups"]
        assert [each["key"] for each in group["images"]] == [
            "disk/disk_004.jpg",
            "star/again.jpg",
            "star/and again.jpg",
        ]
        assert answer.json()["complete"]
        assert all(each["score"] == pytest.approx(1, abs=1e-6) for each in group["images"])
        served.service.grouped = None  # type: ignore[method-assign, assignment] # would fail, were it asked again
        assert served.client.get("/api/duplicates?threshold=0.9999").json() == answer.json()
