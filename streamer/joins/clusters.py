"""The clusters of an inverted file, and what is in them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamer.errors import IndexMissingError
from streamer.neighbours import Neighbours
from streamer.retrieval import Neighbour

__all__ = ["Cluster", "clusters"]

_LOG = logging.getLogger(__name__)


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
        positions, vectors = ivf.members(number)
        centre = ivf.centroids[number] / max(float(np.linalg.norm(ivf.centroids[number])), 1e-12)
        cosines = vectors @ centre
        images = reduced.images(positions)[:, 0].tolist()
        names = store.catalog.names(images)
        labels = Counter(label for _, _, label in names.values())
        live = [place for place in np.argsort(-cosines, kind="stable").tolist() if images[place] in names]
        entries = store.entries([images[place] for place in live[:shown]])
        central = [
            Neighbour(entries[images[place]], round(float(cosines[place]), 6))
            for place in live[:shown]
            if images[place] in entries
        ]
        yield Cluster(number, len(live), dict(labels.most_common()), central)
