"""What a client may take of a server: bytes, time, connections, turns; asked over bare sockets."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamer.images import decode_pool
from streamer.serving import uploads
from tests.serving.conftest import Served, Serving

MIB = 2**20
HEAD = b"POST /api/search HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/jpeg\r\n"


def answered(connection: socket.socket) -> tuple[int, dict[str, Any], bytes]:
    """Status, JSON and head of the answer; the server is to close the connection after it."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), head.lower()


def test_a_body_that_is_announced_too_large_is_not_read(serve_with: Serving) -> None:
    with serve_with(max_upload_bytes=MIB) as served, served.connect() as connection:
        began = time.monotonic()
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % (2**40))
        status, answer, head = answered(connection)
        assert status == 413 and answer["error"]["code"] == "too_large" and b"connection: close" in head
        assert time.monotonic() - began < 15, "it waited for the body"


def test_a_body_is_counted_while_it_comes(serve_with: Serving) -> None:
    """Nothing is announced, and the sender never ends: the server must."""
    with serve_with(max_upload_bytes=MIB) as served, served.connect() as connection:
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"\xff\xd8\xff" + bytes(65533) + b"\r\n"
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 * MIB:
                connection.sendall(chunk)
                sent += 65536
        assert sent < 32 * MIB
        status, answer, _ = answered(connection)
        assert (status, answer["error"]["code"]) == (413, "too_large")


def test_uploads_are_not_held_in_memory_and_leave_nothing(serve_with: Serving) -> None:
    def held() -> int:
        return int(psutil.Process().memory_info().rss)

    with serve_with() as served:
        folder = served.service.uploads.folder
        connections = [served.connect() for _ in range(8)]
        before = held()
        for connection in connections:
            connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % (20 * MIB))
            connection.sendall(b"\xff\xd8\xff" + bytes(15 * MIB))
        deadline = time.monotonic() + 20
        while sum(path.stat().st_size for path in folder.iterdir()) < 8 * 14 * MIB:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert held() - before < 40 * MIB, "120 MiB were sent"
        for connection in connections:
            connection.close()
        while any(folder.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_uploads_of_a_server_that_was_killed_are_swept_and_others_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "left").write_bytes(b"picture")
    os.utime(folder / "left", (0, 0))
    (folder / "fresh").write_bytes(b"of another server")
    kept = uploads.Uploads(tmp_path, 60.0)
    assert kept.folder == folder and [path.name for path in folder.iterdir()] == ["fresh"]
    kept.close()
    assert (folder / "fresh").exists()
    (folder / "fresh").unlink()
    uploads.Uploads(tmp_path, 60.0).close()
    assert not folder.exists()
    folder.write_bytes(b"in the way")  # no folder can be had there
    elsewhere = uploads.Uploads(tmp_path, 60.0)
    assert elsewhere.folder.is_dir() and elsewhere.folder.parent != tmp_path
    elsewhere.close()
    assert not elsewhere.folder.exists()


def test_a_full_disk_is_told_and_leaves_nothing(
    served: Served, small_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: Any, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uploads, "_write_all", full)
    picture = (small_library / "pictures" / "star" / "star_003.jpg").read_bytes()
    answer = served.client.post("/api/search", content=picture, headers={"content-type": "image/jpeg"})
    assert answer.status_code == 503 and "disk is full" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1
    assert not list(served.service.uploads.folder.iterdir())


def test_a_body_that_dribbles_is_given_up(serve_with: Serving) -> None:
    with serve_with(body_seconds=0.4) as served, served.connect() as connection:
        connection.sendall(HEAD + b"content-length: 1000\r\n\r\n\xff\xd8\xff")
        stop = threading.Event()

        def dribble() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=dribble)
        thread.start()
        status, answer, _ = answered(connection)
        stop.set()
        thread.join()
        assert (status, answer["error"]["code"]) == (408, "too_slow")


@pytest.mark.parametrize("begun", [b"", b"GET /api/info HTTP/1.1\r\nhost: 127.0.0.1\r\n"])
def test_a_head_that_does_not_end_is_given_up(serve_with: Serving, begun: bytes) -> None:
    with serve_with(header_seconds=0.3) as served, served.connect() as connection:
        connection.sendall(begun)
        status, answer, _ = answered(connection)
        assert (status, answer["error"]["code"]) == (408, "too_slow")


def test_a_second_head_is_waited_for_no_longer_than_the_first(serve_with: Serving) -> None:
    with serve_with(header_seconds=0.3) as served, served.connect() as connection:
        connection.sendall(b"GET /api/health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        first = b""
        while not first.endswith(b"}"):
            first += connection.recv(4096)
        assert first.startswith(b"HTTP/1.1 200")
        time.sleep(0.6)  # it may be idle for longer than that
        connection.sendall(b"GET /api/he")
        data = b""
        while piece := connection.recv(4096):
            data += piece
        assert data.startswith(b"HTTP/1.1 408")


def test_who_does_not_read_is_dropped(serve_with: Serving, tmp_path: Path) -> None:
    with serve_with(stall_seconds=0.5) as served:
        photo = served.client.get("/api/images/1/info").json()
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        with connection:
            connection.settimeout(20)
            # More answers than the sockets between hold, and none of them taken up.
            request = b"GET /api/images/%d HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % photo["id"]
            with contextlib.suppress(OSError):
                for _ in range(200):
                    connection.sendall(request * 20)
                    time.sleep(0.02)
            with pytest.raises(OSError):
                for _ in range(200):
                    connection.sendall(request * 20)
                    time.sleep(0.02)
        assert served.client.get("/api/health").status_code == 200


def test_who_reads_a_little_of_a_last_answer_and_stops_is_dropped(
    serve_with: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read brings the buffer below its mark, and no further call ever comes for a connection that closes."""
    made: list[Any] = []
    made_by_uvicorn = H11Protocol.connection_made

    def connection_made(self: Any, transport: Any) -> None:
        made_by_uvicorn(self, transport)
        made.append(self)

    monkeypatch.setattr(H11Protocol, "connection_made", connection_made)
    with serve_with(stall_seconds=1.0, header_seconds=300.0) as served:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        with connection:
            connection.settimeout(20)
            deadline = time.monotonic() + 20
            while not made:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            (protocol,) = made

            def answer_and_close() -> None:
                protocol.transport.set_write_buffer_limits(high=12 * MIB, low=8 * MIB)
                protocol.transport.write(bytes(16 * MIB))
                protocol.transport.close()
                protocol._expect_reader()

            protocol.loop.call_soon_threadsafe(answer_and_close)
            while not protocol._stall_timer:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            while protocol.transport.get_write_buffer_size() > 8 * MIB:
                assert connection.recv(65536)
            assert protocol.transport.get_write_buffer_size() > 4 * MIB
            while protocol in protocol.connections:
                assert time.monotonic() < deadline, "it is held for ever"
                time.sleep(0.01)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 a client that speaks TLS \r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", 400),
        (HEAD + b"content-length: -5\r\n\r\nhello", 400),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n", 501),
    ],
)
def test_what_is_no_http_is_answered_in_the_same_form(served: Served, request_bytes: bytes, status: int) -> None:
    with served.connect() as connection:
        connection.sendall(request_bytes)
        found, answer, _ = answered(connection)
    assert found == status and len(answer["error"]["id"]) == 8
    assert served.client.get("/api/health").status_code == 200


def test_one_search_more_than_may_be_is_told_to_come_again(serve_with: Serving) -> None:
    with serve_with(max_searches=2) as served:
        held = [served.connect() for _ in range(2)]
        for connection in held:
            connection.sendall(HEAD + b"content-length: 100\r\n\r\n\xff\xd8\xff")
        deadline = time.monotonic() + 10
        while (answer := served.client.post("/api/search", json={"id": 1})).status_code == 200:
            assert time.monotonic() < deadline
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "busy"
        assert served.client.get("/api/info").status_code == 200, "other questions are answered meanwhile"
        for connection in held:
            connection.close()
        while (answer := served.client.post("/api/search", json={"id": 1})).status_code == 503:
            assert time.monotonic() < deadline
        assert answer.status_code == 200


def test_connections_are_counted(serve_with: Serving) -> None:
    with serve_with(max_connections=5) as served:
        held = [served.connect() for _ in range(4)]
        time.sleep(0.2)
        more = [served.connect() for _ in range(3)]
        status, answer, head = answered(more[-1])
        assert (status, answer["error"]["code"]) == (503, "busy") and b"retry-after" in head
        for connection in [*held, *more]:
            connection.close()


def test_a_picture_that_takes_too_long_is_given_up_and_others_go_on(serve_with: Serving, small_library: Path) -> None:
    picture = (small_library / "pictures" / "star" / "star_003.jpg").read_bytes()

    def search(body: bytes) -> httpx.Response:
        return served.client.post("/api/search", content=body, headers={"content-type": "image/png"})

    with serve_with(decode_seconds=30.0) as served:
        decoder = served.service.queries._decoder
        before = set(psutil.Process().children())
        for _ in range(decode_pool._SPARE_STARTS + 3):  # more than an extraction would replace
            decoder.start()
            for worker in decoder._workers:
                psutil.Process(worker._process.pid).suspend()  # it will not answer, however long it is given
            decoder._timeout_seconds = 0.1
            answer = search(picture)
            assert (answer.status_code, answer.json()["error"]["code"]) == (408, "too_slow")
            decoder._timeout_seconds = 30.0
            for worker in decoder._workers:
                psutil.Process(worker._process.pid).resume()
            assert search(picture).status_code == 200
        assert len(set(psutil.Process().children()) - before) <= 2, "those that were ended are gone"
        for child in psutil.Process().children():  # as the system does where memory runs out
            if any("decode_worker" in part for part in child.cmdline()):
                child.kill()
        statuses = [search(picture).status_code for _ in range(4)]
        assert set(statuses) <= {200, 422} and statuses[-1] == 200
