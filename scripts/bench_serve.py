"""A server under load: ``python scripts/bench_serve.py [--rows 50000] [--clients 32] [--seconds 60]``.

Serves a store of drawn features of the compact network (see ``bench_search.py`` for how they are drawn) by ``streamer
serve`` in a process of its own, and asks it on this machine, so that clients and server share the cores:

- one client alone: time to first byte of the page and of /api/info; searches by a picture, by index and exact, and
  from a photo of the library, as seen by the client,
- many clients at once, each sending one picture after another for the whole time: answers by status, latency, rate;
  one in eight asks for exact answers with ``--exact``,
- resident memory of the server and its processes: before, after, and its peak, beside the budget.

Prints a table and writes ``bench_serve.json``. It needs the extra ``serve``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.bench_search import BUDGET, build, make_store
from streamer.extraction import Network
from streamer.images.drawn import draw_pictures

MB = 1e6
JPEG = {"Content-Type": "image/jpeg"}


class Watch:
    """Resident size of a process and its children, sampled."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = psutil.Process(process.pid)
        self._stop = threading.Event()
        self.peak = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Bytes."""
        total = self._process.memory_info().rss
        for child in self._process.children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.Error:
                continue
        self.peak = max(self.peak, total)
        return total

    def _sample(self) -> None:
        while not self._stop.wait(0.2):
            self.now()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()


def start(store: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a server; gives its process and its port."""
    command = [sys.executable, "-m", "streamer", "serve", str(store), "--port", "0", "--json", "--quiet"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        sys.exit("streamer serve ended before it was ready; what it said stands above")
    return server, int(json.loads(line)["url"].rstrip("/").rpartition(":")[2])


def ask(
    connection: http.client.HTTPConnection, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, float, float]:
    """Status, seconds to the first byte, seconds to the last."""
    began = time.perf_counter()
    connection.request("GET" if body is None else "POST", path, body, headers or {})
    answer = connection.getresponse()
    first = time.perf_counter() - began
    answer.read()
    return answer.status, first, time.perf_counter() - began


def alone(port: int, pictures: list[bytes], rounds: int) -> dict[str, dict[str, float]]:
    """One client, one request after another; milliseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    question = json.dumps({"id": 7}).encode()
    requests: dict[str, Any] = {
        "page, first byte": lambda _: ask(connection, "/")[1],
        "info, first byte": lambda _: ask(connection, "/api/info")[1],
        "search by a picture": lambda n: ask(connection, "/api/search", pictures[n % len(pictures)], JPEG)[2],
        "the same, exact": lambda n: ask(connection, "/api/search?exact=true", pictures[n % len(pictures)], JPEG)[2],
        "search from a photo": lambda _: ask(
            connection, "/api/search", question, {"Content-Type": "application/json"}
        )[2],
    }
    found = {}
    for name, request in requests.items():
        request(0)
        found[name] = summary([request(number) for number in range(rounds)])
    connection.close()
    return found


def together(port: int, pictures: list[bytes], clients: int, seconds: float, exact: bool) -> dict[str, Any]:
    """Clients at the same time: statuses, latencies of what was answered, rate."""
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    lock = threading.Lock()
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        chance = np.random.default_rng(number)
        seen: list[tuple[str, float]] = []
        path = "/api/search?k=20" + ("&exact=true" if exact and number % 8 == 0 else "")
        while time.perf_counter() < until:
            try:
                status, _, taken = ask(connection, path, pictures[chance.integers(len(pictures))], JPEG)
                seen.append((str(status), taken))
            except (OSError, http.client.HTTPException) as error:
                seen.append((type(error).__name__, 0.0))
                connection.close()
        connection.close()
        with lock:
            statuses.update(status for status, _ in seen)
            latencies.extend(taken for status, taken in seen if status == "200")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(latencies) / (time.perf_counter() - began)
    return {"statuses": dict(statuses), "answers_per_second": round(rate, 1), "latency_ms": summary(latencies)}


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50": round(1e3 * statistics.median(ordered), 1),
        "p99": round(1e3 * ordered[int(0.99 * (len(ordered) - 1))], 1),
        "largest": round(1e3 * ordered[-1], 1),
        "count": len(ordered),
    }


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--exact", action="store_true", help="one client in eight asks for exact answers")
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "a.store"
        spec = Network.choose("vgg16_compact", None, None, "bundled", 0, "full", download=False).spec()
        make_store(store, arguments.rows, int(np.prod(spec.outputs[spec.indexed])), spec)
        build(store, "ivf", 256)
        paths = draw_pictures(Path(scratch) / "drawn", classes=8, per_class=4, side=640, seed=9)
        pictures = [path.read_bytes() for path in paths]
        server, port = start(store)
        watch = Watch(server)
        try:
            single = alone(port, pictures, arguments.rounds)
            before = watch.now()
            load = together(port, pictures, arguments.clients, arguments.seconds, arguments.exact)
            after = watch.now()
        finally:
            watch.close()
            server.terminate()
            code = server.wait(30)
    memory = {"budget_mb": BUDGET / MB, "before_mb": before / MB, "after_mb": after / MB, "peak_mb": watch.peak / MB}
    print(f"{arguments.rows} rows\n{'one client':24}{'p50 ms':>9}{'p99 ms':>9}{'largest':>9}")
    for name, row in single.items():
        print(f"{name:24}{row['p50']:9}{row['p99']:9}{row['largest']:9}")
    row = load["latency_ms"]
    print(f"{arguments.clients:2} clients, {arguments.seconds:.0f} s{'':9}{row['p50']:9}{row['p99']:9}{row['largest']:9}")
    print(f"answers {load['statuses']}, {load['answers_per_second']} a second; the server ended with {code}")
    print("memory " + ", ".join(f"{name.removesuffix('_mb')} {value:.0f} MB" for name, value in memory.items()))
    results = {"rows": arguments.rows, "clients": arguments.clients, "alone": single, "load": load, "memory": memory}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "bench_serve.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
