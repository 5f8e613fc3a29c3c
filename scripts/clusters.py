"""A library in clusters: ``python scripts/clusters.py FOLDER [--set KEY=VALUE]``.

Runs ``configs/clusters.yaml`` (PCA, k-means, cosine within the cluster of the query) over a folder of photos, draws
each cluster, and asks for photos drawn at random. Says how pure the clusters are by label, and what looking
into one cluster costs in recall: ``--set index.probes=auto`` looks into as many as `search.recall` takes.

Writes ``clusters/`` with a picture of each cluster, ``cluster_searches.png``, and the store beside them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from seed import drawn, extracted, say

from streamer.calibration import recall_of
from streamer.joins import clusters
from streamer.neighbours import Neighbours
from streamer.report import cluster_sheet, contact_sheet, grid_sheet, remove_cluster_sheets
from streamer.retrieval import to_hits
from streamer.searcher import QueryResult

_QUERIES = 200


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the store and the pictures")
    parser.add_argument("--shown", type=int, default=6, help="searches to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of queries")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    sheets = arguments.output / "clusters"
    sheets.mkdir(parents=True, exist_ok=True)
    store = arguments.output.absolute() / "clusters.store"
    places = [f"store={store}", f"source.folder={arguments.folder.absolute()}"]
    config = extracted("clusters", [*places, *arguments.overrides])
    with Neighbours(config.store) as neighbours:
        sizes, pure = [], 0
        for cluster in clusters(neighbours):
            grid_sheet(cluster.central, cluster_sheet(sheets, cluster.number))
            labels = ", ".join(f"{label or '(no label)'} {count}" for label, count in list(cluster.labels.items())[:3])
            print(f"cluster {cluster.number}: {cluster.images} images: {labels}")
            sizes.append(cluster.images)
            pure += max(cluster.labels.values(), default=0)
        remove_cluster_sheets(sheets, len(sizes))
        say(f"{len(sizes)} clusters of {min(sizes)} to {max(sizes)} images; purity by label {pure / sum(sizes):.3f}")
        held = neighbours.store.images()
        chosen = held[drawn(_QUERIES, len(held), arguments.seed)]
        queries = neighbours.store.rows(neighbours.store.spec.indexed, chosen[:, 1], chosen[:, 2])
        found, truth = neighbours.nearest(queries), neighbours.nearest(queries, exact=True)
        entries = neighbours.store.entries(chosen[:, 0].tolist())
    assert neighbours.generation is not None
    recall = np.mean([recall_of(*pair) for pair in zip(found, truth, strict=True)])
    say(f"recall@{config.search.k} {recall:.3f}, looking into {neighbours.generation.manifest.effort} of {len(sizes)}")
    results, captions = [], []
    for place in drawn(arguments.shown, len(chosen), arguments.seed + 1).tolist():
        entry = entries[int(chosen[place, 0])]
        results.append(QueryResult(entry.path, 0.0, to_hits([each for each in found[place] if each.entry != entry])))
        captions.append(entry.label or "query")
    contact_sheet(results, arguments.output / "cluster_searches.png", captions)
    say(f"pictures: {sheets}, {arguments.output / 'cluster_searches.png'}")


if __name__ == "__main__":
    main()
