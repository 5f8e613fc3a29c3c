"""Nightly runs beside a server: each new generation is taken up, and no question fails meanwhile."""

from __future__ import annotations

import collections
import threading
from pathlib import Path

import httpx
from PIL import Image

from streamer.config import load_config
from streamer.pipeline import run
from streamer.upkeep import compact
from tests.serving.conftest import make_library, serving

RUNS = 3


def test_a_new_generation_is_taken_up_without_a_failed_request(tmp_path: Path) -> None:
    config = load_config(make_library(tmp_path, "index.rebuild_fraction=0"), ("index.rebuild_fraction=0",))
    pictures = tmp_path / "pictures"
    bodies = [path.read_bytes() for path in sorted(pictures.rglob("*.jpg"))[::5]]
    with serving(tmp_path / "photos.store") as served:
        stop = threading.Event()
        statuses: collections.Counter[int] = collections.Counter()
        generations: set[int] = set()
        faults: list[str] = []

        def ask(number: int) -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=30, trust_env=False) as client:
                while not stop.is_set():
                    number += 1
                    if number % 3:
                        answer = client.post(
                            f"/api/search?exact={str(number % 4 == 0).lower()}",
                            content=bodies[number % len(bodies)],
                            headers={"content-type": "image/jpeg"},
                        )
                        generations.add(answer.json().get("generation", 0))
                    else:
                        answer = client.get(("/api/info", "/api/map", "/api/images/1/thumb")[number % 9 // 3])
                    statuses[answer.status_code] += 1
                    if answer.status_code != 200:
                        faults.append(answer.text)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(RUNS):
                Image.new("RGB", (80, 80), (60 * number, 200, 30)).save(pictures / f"new{number}.png")
                assert run(config).generation == number + 2
                if number == 1:
                    compact(config.store)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not faults and set(statuses) == {200} and statuses[200] >= 20
        with (pictures / "new2.png").open("rb") as newest:
            answer = served.client.post("/api/search", content=newest.read(), headers={"content-type": "image/png"})
        assert (answer.json()["generation"], answer.json()["images"]) == (RUNS + 1, 40 + RUNS)
        assert answer.json()["hits"][0]["key"] == "new2.png"
        assert len(generations) >= 2
        assert served.client.get("/api/health").json()["generation"] == RUNS + 1
        index = sorted(path.name for path in (tmp_path / "photos.store" / "index").iterdir())
        assert index == ["000003", "000004", "CURRENT"]
