"""Reverse image search: ``python scripts/reverse_image_search.py FOLDER [--set KEY=VALUE]``.

Runs ``configs/reverse_image_search.yaml`` (VGG16's fc2, PCA to 300, cosine) over a folder of photos (Caltech-101, say),
asks for photos of it drawn at random, and draws the 5 most similar to each. Says how fast it was, and how much of the
variance the 300 components hold. Where VGG16's weights are not on this machine, the compact network stands in.

Writes ``reverse_image_search.png`` and the store beside it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from seed import drawn, extracted, say

from streamer.index import current_generation
from streamer.reduction import Reducer
from streamer.report import contact_sheet
from streamer.searcher import QueryResult, Searcher


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the store and the picture")
    parser.add_argument("--queries", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of queries")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    store = arguments.output.absolute() / "reverse_image_search.store"
    places = [f"store={store}", f"source.folder={arguments.folder.absolute()}"]
    config = extracted("reverse_image_search", [*places, *arguments.overrides])
    generation = current_generation(config.store / "index")
    if generation is not None and (reducer_path := generation.path / "reducer.npz").is_file():
        reducer = Reducer.load(reducer_path)
        share = float(reducer.explained_variance_ratio.sum())
        say(f"{len(reducer.components)} components hold {share:.1%} of the variance")
    with Searcher(config.store) as searcher:
        ids = searcher.store.images()[:, 0]
        asked = list(searcher.store.entries(ids[drawn(arguments.queries, len(ids), arguments.seed)].tolist()).values())
        features = searcher.store.features_of(searcher.store.spec.indexed, asked)[1]
        searcher.nearest(list(features), 1)  # opens what is opened once
        began = time.perf_counter()
        found = searcher.nearest(list(features), config.search.k + 1)
        milliseconds = 1e3 * (time.perf_counter() - began) / len(asked)
    results = []
    for entry, hits in zip(asked, found, strict=True):
        others = [hit for hit in hits if hit.key != entry.key][: config.search.k]
        results.append(QueryResult(entry.path, milliseconds / 1e3, others))
        print(f"{entry.key}: " + ", ".join(f"{hit.key} ({hit.score:.3f})" for hit in others))
    right = np.mean([hit.label == entry.label for entry, each in zip(asked, results, strict=True) for hit in each.hits])
    say(f"{milliseconds:.1f} ms a query; {right:.0%} of the hits have the query's label")
    picture = arguments.output / "reverse_image_search.png"
    contact_sheet(results, picture, [entry.label or "query" for entry in asked])
    say(f"picture: {picture}")


if __name__ == "__main__":
    main()
