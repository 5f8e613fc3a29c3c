"""A server among clients that mean ill: ``python scripts/torture_serve.py [--requests 1000] [--seed 1]``.

Serves a library of drawn pictures by ``streamer serve`` in a process of its own, and sends it malformed requests over
bare sockets, four at a time: pictures with wrong bytes, pictures cut short, bombs, wrong lengths, bad JSON, traversal
strings, huge headers, bad chunks, noise, odd methods; beside them, clients that send a byte a second and clients that
do not read. tests/serving/test_abuse.py has the short version.

Prints what was answered by kind, and the resident memory of the server and its processes after each tenth; writes
``torture_serve.json``. Ends with 1 where a request was answered by 500 or not at all though it was complete, where the
server died or does not find a picture any more, or where its memory grew by more than 32 MB over the last half.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.bench_serve import JPEG, MB, Watch, ask, start
from streamer.images.drawn import draw_pictures
from tests.serving.malformed import malformed_requests

GROWTH_MB = 32


def make_store(folder: Path) -> Path:
    """Index drawn pictures with the compact network."""
    draw_pictures(folder / "pictures", classes=6, per_class=20, side=128, seed=3)
    config = folder / "torture.yaml"
    config.write_text(
        "store: photos.store\nsource: {folder: pictures}\nbackbone: {name: vgg16_compact}\nindex: {kind: ivf}\n"
        "reduce: {components: 64}\n",
        encoding="utf-8",
    )
    subprocess.run([sys.executable, "-m", "streamer", "run", str(config), "--quiet"], check=True)
    return folder / "photos.store"


def send(port: int, data: bytes, ends: bool) -> bytes:
    """What the server says to these bytes before it closes the connection."""
    found = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=90) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
            if not ends:
                connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            found += piece
    return found


def dawdle(port: int, stop: threading.Event) -> None:
    """Send a request a byte a second, and another whose answer is not read, again and again."""
    slow = b"POST /api/search HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/jpeg\r\ncontent-length: 900\r\n\r\n"
    unread = b"GET /api/map HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 50
    while not stop.is_set():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(slow)
            with socket.create_connection(("127.0.0.1", port), timeout=5) as other:
                other.sendall(unread)
                while not stop.wait(1):
                    connection.sendall(b"x")


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    faults: list[str] = []
    memory_mb: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        store = make_store(Path(scratch))
        picture = next((Path(scratch) / "pictures" / "star").glob("*.jpg"))
        server, port = start(store)
        watch = Watch(server)
        requests = malformed_requests(arguments.requests, arguments.seed, port)
        lock, stop = threading.Lock(), threading.Event()
        dawdlers = [threading.Thread(target=dawdle, args=(port, stop)) for _ in range(4)]
        clients = [
            threading.Thread(target=_client, args=(port, requests, lock, statuses, faults, memory_mb, watch, arguments))
            for _ in range(4)
        ]
        for thread in (*dawdlers, *clients):
            thread.start()
        for thread in clients:
            thread.join()
        stop.set()
        for thread in dawdlers:
            thread.join()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/api/search", picture.read_bytes(), JPEG)
        first = json.load(connection.getresponse())["hits"][0]["key"]
        if first != f"star/{picture.name}":
            faults.append(f"afterwards, star/{picture.name} is found as {first}")
        if ask(connection, "/api/health")[0] != 200:
            faults.append("afterwards, it is not healthy")
        connection.close()
        watch.close()
        server.terminate()
        if server.wait(60) != 0:
            faults.append(f"it ended with exit code {server.returncode}")
    grown = memory_mb[-1] - memory_mb[len(memory_mb) // 2]
    if grown > GROWTH_MB:
        faults.append(f"its memory grew by {grown:.0f} MB over the last half")
    for kind, counted in sorted(statuses.items()):
        print(f"{kind:14}" + ", ".join(f"{status}: {count}" for status, count in sorted(counted.items())))
    print("memory, MB: " + " ".join(f"{value:.0f}" for value in memory_mb) + f"; peak {watch.peak / MB:.0f}")
    print("\n".join(faults) or "no fault")
    results = {"statuses": statuses, "memory_mb": memory_mb, "peak_mb": watch.peak / MB, "faults": faults}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "torture_serve.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 1 if faults else 0


def _client(
    port: int,
    requests: Iterator[tuple[str, bytes, bool]],
    lock: threading.Lock,
    statuses: dict[str, Counter[str]],
    faults: list[str],
    memory_mb: list[float],
    watch: Watch,
    arguments: argparse.Namespace,
) -> None:
    """Send requests until there are no more, and note what is said."""
    while True:
        with lock:
            try:
                kind, data, ends = next(requests)
            except StopIteration:
                return
        found = send(port, data, ends)
        status = found.split(b" ")[1].decode() if found.startswith(b"HTTP/1.1 ") else "closed"
        with lock:
            statuses[kind][status] += 1
            if status == "500" or b"Traceback" in found:
                faults.append(f"{kind}: {found[:300]!r} to {data[:300]!r}")
            if status == "closed" and ends and kind not in ("huge_headers", "wrong_length"):
                faults.append(f"{kind}: no answer to {data[:300]!r}")
            if sum(map(Counter.total, statuses.values())) % max(1, arguments.requests // 10) == 0:
                memory_mb.append(watch.now() / MB)


if __name__ == "__main__":
    sys.exit(main())
