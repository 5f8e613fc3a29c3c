"""Downloads from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from streamer.backbones import fetch, get_backbone, resolve_weights
from streamer.errors import WeightsError

CONTENT = bytes(range(256)) * 12_000  # three blocks


class _Handler(BaseHTTPRequestHandler):
    agents: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.agents.append(self.headers["User-Agent"])
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        if not self.path.startswith("/unsized"):
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path.startswith("/dropped") else CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "keras" / "models"


def _serve(monkeypatch: pytest.MonkeyPatch, url: str, content: bytes = CONTENT) -> None:
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(fetch.KERAS_FILES, ("vgg16", False), fetch.KerasFile(url, md5))


@pytest.mark.parametrize("route", ["good", "unsized"])
def test_fetches_and_checks(server: str, models: Path, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    _serve(monkeypatch, f"{server}/{route}/weights.h5")
    seen: list[tuple[int, int | None]] = []
    path = fetch.fetch_weights("vgg16", progress=lambda done, total: seen.append((done, total)))
    assert path == models / "weights.h5"
    assert path.read_bytes() == CONTENT
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (len(CONTENT), len(CONTENT) if route == "good" else None)
    assert len(seen) > 1
    assert _Handler.agents[-1].startswith("streamer")
    assert list(models.iterdir()) == [path]


def test_a_good_file_is_not_fetched_again(server: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, f"{server}/missing/weights.h5")
    models.mkdir(parents=True)
    (models / "weights.h5").write_bytes(CONTENT)
    assert fetch.fetch_weights("vgg16").read_bytes() == CONTENT


def test_a_damaged_file_is_replaced(server: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, f"{server}/good/weights.h5")
    models.mkdir(parents=True)
    (models / "weights.h5").write_bytes(CONTENT[:1000])
    assert fetch.fetch_weights("vgg16").read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_removed(server: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, f"{server}/good/weights.h5", content=b"what Keras published")
    with pytest.raises(WeightsError, match=r"MD5.*removed.*proxy") as caught:
        fetch.fetch_weights("vgg16")
    assert hashlib.md5(CONTENT).hexdigest() in str(caught.value)
    assert list(models.iterdir()) == []


@pytest.mark.parametrize(
    ("route", "reason"), [("missing", "answered 404"), ("dropped", "connection broke after 1536000")]
)
def test_a_failed_download_leaves_nothing(
    server: str, models: Path, monkeypatch: pytest.MonkeyPatch, route: str, reason: str
) -> None:
    _serve(monkeypatch, f"{server}/{route}/weights.h5")
    with pytest.raises(WeightsError, match=rf"{reason}.*HTTPS_PROXY.*{models.name}"):
        fetch.fetch_weights("vgg16")
    assert list(models.iterdir()) == []


def test_a_refused_connection(server: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, "http://127.0.0.1:1/weights.h5")
    with pytest.raises(WeightsError, match=r"cannot fetch http://127\.0\.0\.1:1/weights\.h5.*[Rr]efused.*put it in"):
        fetch.fetch_weights("vgg16", timeout_seconds=5)
    assert list(models.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(server: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, f"{server}/good/weights.h5")

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.fetch_weights("vgg16", progress=interrupt)
    assert list(models.iterdir()) == []


def test_resolving_fetches_once_when_allowed(server: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, f"{server}/good/weights.h5")
    asked = len(_Handler.agents)
    for _ in range(2):  # what is served is no HDF5 file: it is fetched, hashed, and then refused by its content
        with pytest.raises(WeightsError, match="cannot be read as HDF5"):
            resolve_weights(get_backbone("vgg16"), "imagenet", needs_top=False, download=True)
    assert len(_Handler.agents) == asked + 1


def test_every_backbone_has_both_files() -> None:
    from streamer.backbones import BACKBONES

    for name in (each.name for each in BACKBONES.values() if each.pretrained == "imagenet"):
        for top in (True, False):
            file = fetch.KERAS_FILES[name, top]
            assert file.url.startswith("https://storage.googleapis.com/tensorflow/keras-applications/")
            assert file.name.startswith(name) and ("notop" in file.name) != top
            assert len(file.md5) == 32


def test_the_table_is_keras_own() -> None:
    """A typing error in a hash would refuse every download."""
    import importlib.util

    spec = importlib.util.find_spec("keras")
    if spec is None or spec.origin is None:
        pytest.skip("Keras is not installed")
    folder = Path(spec.origin).parent / "src" / "applications"
    for (name, _), file in fetch.KERAS_FILES.items():
        source = (folder / ("resnet.py" if name == "resnet50" else f"{name}.py")).read_text()
        assert f'"{file.md5}"' in source
