"""The clusters of an inverted file, and what is in them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamer.errors import IndexMissingError
from streamer.index import IvfIndex
from streamer.neighbours import Neighbours
from streamer.retrieval import Neighbour, ReducedIndex
from streamer.store import Store

__all__ = ["Cluster", "clusters"]

_LOG = logging.getLogger(__name__)
# Members of a cluster that are held at a time, with their names.
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Cluster:
    """Images that k-means has put together.

    Attributes
    ----------
    number : int
        From 0.
    images : int
        How many there are.
    labels : dict of str to int
        The labels among them, the most frequent first.
    central : list of Neighbour
        The nearest to the centre, best first; the score is the cosine with it, of the reduced vectors.
    """

    number: int
    images: int
    labels: dict[str, int]
    central: list[Neighbour]

    def to_dict(self) -> dict[str, Any]:
        """The form that ``--json`` prints."""
        central = [
            {"key": one.entry.key, "path": one.entry.path, "label": one.entry.label, "score": one.score}
            for one in self.central
        ]
        return {"cluster": self.number, "images": self.images, "labels": self.labels, "central": central}


def clusters(neighbours: Neighbours, shown: int = 24) -> Iterator[Cluster]:
    """List the clusters of the published index; images that are gone since are left out, newer ones are in none yet.

    Parameters
    ----------
    neighbours : Neighbours
    shown : int
        Central images to name of each.

    Yields
    ------
    Cluster

    Raises
    ------
    IndexMissingError
        If the index is of another kind, or there is none.
    """
    index = neighbours.inverted_file()
    if index is None:
        raise IndexMissingError(
            f"{neighbours.store.path}: its index has no clusters; set index.kind: ivf in the config, and run "
            "'streamer index CONFIG' (and 'streamer reduce CONFIG' first, if there was no index with PCA)"
        )
    ivf, reduced = index
    store = neighbours.store
    assert neighbours.generation is not None
    _, newer = store.catalog.count_since(neighbours.generation.manifest.newest_id)
    if newer:
        _LOG.warning("%d images are newer than the index and in no cluster; run 'streamer index CONFIG'", newer)
    for number in range(len(ivf.centroids)):
        yield _cluster(store, ivf, reduced, number, shown)


def _cluster(store: Store, ivf: IvfIndex, reduced: ReducedIndex, number: int, shown: int) -> Cluster:
    """One cluster, read in blocks: it may be as large as the library."""
    centre = ivf.centroids[number] / max(float(np.linalg.norm(ivf.centroids[number])), 1e-12)
    size = int(ivf.starts[number + 1] - ivf.starts[number])
    labels: Counter[str] = Counter()
    central, nearness = np.empty(0, np.int64), np.empty(0)
    for start in range(0, size, _BLOCK_ROWS):
        positions, vectors = ivf.members(number, slice(start, start + _BLOCK_ROWS))
        images = reduced.images(positions)[:, 0]
        names = store.catalog.names(images.tolist())
        labels.update(label for _, _, label in names.values())
        live = np.isin(images, list(names))
        # A product of matrices rounds by position: equal images would be ranked by how the cluster was cut.
        cosines = np.einsum("ij,j->i", vectors[live], centre, dtype=np.float64)
        central, nearness = np.append(central, images[live]), np.append(nearness, cosines)
        best = np.argsort(-nearness, kind="stable")[:shown]
        central, nearness = central[best], nearness[best]
    entries = store.entries(central.tolist())
    found = [
        Neighbour(entries[image], round(cosine, 6))
        for image, cosine in zip(central.tolist(), nearness.tolist(), strict=True)
        if image in entries
    ]
    return Cluster(number, labels.total(), dict(labels.most_common()), found)
