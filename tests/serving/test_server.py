"""The command as it is run: what it prints, how it ends, what it refuses to begin."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.test_cli import streamer

JPEG = {"content-type": "image/jpeg"}


@pytest.fixture
def process(small_library: Path) -> Iterator[Any]:
    """Start the command; gives the process and what its first line says."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        store = str(small_library / "photos.store")
        command = [sys.executable, "-m", "streamer", "serve", store, "--port", "0", "--json", *options]
        group = subprocess.CREATE_NEW_PROCESS_GROUP if sys.platform == "win32" else 0
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, creationflags=group, **pipes))
        assert started[-1].stdout is not None
        line = started[-1].stdout.readline()
        return started[-1], json.loads(line or "{}")

    yield start
    for each in started:
        each.kill()
        each.communicate()


def interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGINT)


def test_it_says_where_it_is_and_ends_in_peace(process: Any, small_library: Path) -> None:
    server, said = process("--memory", "2GiB")
    assert set(said) == {"url", "store"} and said["store"] == str(small_library / "photos.store")
    connection = http.client.HTTPConnection(said["url"].removeprefix("http://").rstrip("/"), timeout=30)
    picture = (small_library / "pictures" / "star" / "star_003.jpg").read_bytes()
    connection.request("POST", "/api/search", picture, JPEG)
    assert json.load(connection.getresponse())["hits"][0]["key"] == "star/star_003.jpg"
    # A request is under way when the signal comes: it is answered first.
    connection.putrequest("POST", "/api/search")
    connection.putheader("content-type", "image/jpeg")
    connection.putheader("content-length", str(len(picture)))
    connection.putheader("expect", "100-continue")
    connection.endheaders()
    assert connection.sock.recv(1024).startswith(b"HTTP/1.1 100"), "it has begun to read the body"
    connection.send(picture[:100])
    interrupt(server)
    deadline = time.monotonic() + 30
    with contextlib.suppress(ConnectionError):  # it listens no more: the signal has arrived
        while time.monotonic() < deadline:
            socket.create_connection((connection.host, connection.port), timeout=5).close()
            time.sleep(0.02)
    assert time.monotonic() < deadline
    connection.send(picture[100:])
    assert json.load(connection.getresponse())["hits"][0]["key"] == "star/star_003.jpg"
    connection.close()
    out, err = server.communicate(timeout=30)
    assert (server.returncode, out) == (0, ""), err
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="there, it ends the process at once")
def test_sigterm_ends_it_too(process: Any) -> None:
    server, _ = process()
    server.terminate()
    _, err = server.communicate(timeout=30)
    assert server.returncode == 0, err


def test_other_machines_need_a_token(capsys: pytest.CaptureFixture[str], small_library: Path) -> None:
    store = small_library / "photos.store"
    code, out, err = streamer(capsys, "serve", store, "--host", "0.0.0.0")
    assert (code, out) == (2, "") and "--token" in err and "other machines" in err
    code, _, err = streamer(capsys, "serve", store, "--token", "")
    assert code == 2 and "empty token" in err
    for token in ("a token", "schlüssel", "line\nline", "t" * 513):
        code, _, err = streamer(capsys, "serve", store, "--token", token)
        assert code == 2 and ascii(token[:40]) in err and f"{len(token)} characters" in err


def test_the_address_that_is_printed_opens_the_page(
    capsys: pytest.CaptureFixture[str], small_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs of the token that mean something in an address arrive as they are."""
    token = "+/#&%20?=;"

    def ready_only(_: Path, settings: Any, on_ready: Any) -> None:
        assert settings.token == token
        on_ready("http://127.0.0.1:8000")

    monkeypatch.setattr("streamer.serving.serve", ready_only)
    code, out, _ = streamer(capsys, "serve", small_library / "photos.store", "--token", token)
    address = urlsplit(out.strip())
    assert code == 0 and address.path == "/" and parse_qs(address.query, strict_parsing=True) == {"token": [token]}
    assert not address.fragment


def test_it_refuses_what_cannot_be_served(
    capsys: pytest.CaptureFixture[str], small_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small_library / "photos.store"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = streamer(capsys, "serve", store, "--port", taken.getsockname()[1])
        assert code == 1 and "another program has that port" in err and "--port 0" in err
    code, _, err = streamer(capsys, "serve", tmp_path / "none.store", "--port", 0)
    assert code == 10 and "no store here" in err
    code, _, err = streamer(capsys, "serve", store, "--port", 0, "--memory", "100MiB")
    assert code == 12 and "give --memory" in err
    assert streamer(capsys, "serve", store, "--port", 0, "--memory", "much")[0] == 2
    assert streamer(capsys, "serve", store, "--host", "no.such.host.invalid", "--token", "t" * 20)[0] == 1
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = streamer(capsys, "serve", store)
    assert code == 1 and "streamer[serve]" in err and "uvicorn" in err


def test_a_store_that_lacks_a_shard_is_not_served(capsys: pytest.CaptureFixture[str], own_library: Path) -> None:
    """What fails while network and index are loaded ends the command, and is not found out by the first search."""
    (shard,) = (own_library / "photos.store" / "features").glob("*.h5")
    shard.unlink()
    code, _, err = streamer(capsys, "serve", own_library / "photos.store", "--port", 0, "--memory", "8GiB")
    assert code == 1 and shard.name in err


def test_a_store_without_an_index_is_served_by_looking_at_every_photo(
    own_library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.serving.conftest import serving

    shutil.rmtree(own_library / "photos.store" / "index")
    with serving(own_library / "photos.store") as served:
        answer = served.client.post("/api/search", json={"id": 1, "k": 3}).json()
        assert (answer["exact"], answer["index"], answer["generation"], len(answer["hits"])) == (True, "exact", 0, 3)
        points = served.client.get("/api/map")
        assert points.status_code == 200 and points.content[:4] == (40).to_bytes(4, "little")
