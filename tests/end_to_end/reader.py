"""Searches a store again and again while others write to it: ``reader STORE IMAGES STOP`` until the file STOP exists.

Every answer is to name each of the IMAGES images that the store always holds, once, and nothing else. Prints how many
searches there were, and in how many generations.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from streamer.searcher import Searcher
from streamer.store import Store


def main(path: str, images: str, stop: str) -> None:
    with Store(path) as store:
        ids, features = next(store.blocks(store.spec.indexed, 1000))
        stable = [entry for entry in store.entries(ids.tolist()).values() if not entry.key.startswith("new")]
        places = {number: place for place, number in enumerate(ids.tolist())}
        queries = [(entry.key, features[places[entry.id]]) for entry in stable]
    searches = 0
    generations = set()
    steady = Searcher(path)  # stays open over all of it
    while not Path(stop).exists() or searches < 1000:
        key, query = queries[searches % len(queries)]
        with Searcher(path) as fresh:
            for searcher in (fresh, steady):
                hits = searcher.nearest([query], 10 * int(images), exact=searches % 7 == 0)[0]
                keys = [hit.key for hit in hits]
                assert len(keys) == len(set(keys)) == int(images), (searches, len(keys), len(set(keys)))
                assert abs(next(hit.score for hit in hits if hit.key == key) - 1) < 1e-5
                assert list(np.argsort([-hit.score for hit in hits], kind="stable")) == list(range(len(hits)))
                searches += 1
            assert fresh.generation is not None
            generations.add(fresh.generation.number)
    steady.close()
    sys.stdout.write(f"{searches} {len(generations)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
