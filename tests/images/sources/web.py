"""A web server on loopback that can be told how to misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """What the server holds, and how it answers a GET of each path; ``HEAD`` is answered as it should be.

    ``"403"`` and the like: that status. ``"slow"``: nothing. ``"reset"``: half of it. ``"short"``: more is announced
    than comes. ``"changed"``: another version. ``"flaky"``: 503 at the first try.
    """

    url: str
    files: dict[str, bytes]
    faults: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    pause_seconds: float = 0.0


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Web]:
    """Serve these files."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            with lock:
                web.asked.append(self.path)
                web.at_once += 1
                web.most_at_once = max(web.most_at_once, web.at_once)
            try:
                time.sleep(web.pause_seconds)
                self._answer(body=True)
            finally:
                with lock:
                    web.at_once -= 1

        def _answer(self, *, body: bool) -> None:
            data = web.files.get(self.path)
            fault = web.faults.get(self.path, "") if body else ""
            if fault == "flaky" and web.asked.count(self.path) == 1:
                fault = "503"
            if data is None or fault.isdigit():
                return self._status(int(fault or 404))
            if fault == "slow":
                ended.wait(30)
                self.close_connection = True
                return None
            self.send_response(200)
            self.send_header("Content-Length", str(len(data) + (50 if fault == "short" else 0)))
            self.send_header("ETag", '"2"' if fault == "changed" else '"1"')
            self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
            self.end_headers()
            if not body:
                return None
            self.wfile.write(data[: len(data) // 2] if fault == "reset" else data)
            if fault in ("reset", "short"):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            return None

        def _status(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web = Web(f"http://127.0.0.1:{server.server_port}", dict(files))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
