"""The k-nearest-neighbour graph of a store, against itself or another."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamer.errors import FingerprintMismatchError, Interrupted, StreamerError
from streamer.index import Metric
from streamer.joins.queries import query_blocks
from streamer.neighbours import Neighbours
from streamer.records import Progress
from streamer.store import Store, writing_graph

__all__ = ["Graph", "knn_graph"]


@dataclass(frozen=True)
class Graph:
    """What was written.

    Attributes
    ----------
    path : str
    queries, images, k : int
        Lines, images that could be neighbours, and neighbours in a line.
    metric : str
    exact : bool
        Whether every image was looked at.
    seconds : float
    """

    path: str
    queries: int
    images: int
    k: int
    metric: str
    exact: bool
    seconds: float


def knn_graph(
    neighbours: Neighbours,
    target: Path,
    *,
    queries: Store | None = None,
    k: int | None = None,
    candidates: int | None = None,
    exact: bool = False,
    metric: Metric | None = None,
    progress: Progress = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Graph:
    """Write the nearest neighbours in one store of every image of another, or of its own.

    Parameters
    ----------
    neighbours : Neighbours
        The store in which neighbours are looked for.
    target : Path
        The HDF5 file to write; see `streamer.store.writing_graph` for what it holds. Distances are Euclidean with
        ``l2``, and 1 minus the cosine otherwise.
    queries : Store, optional
        Whose images are the queries. Without it, those of the store itself, and none is its own neighbour.
    k, candidates, exact, metric
        As in `Neighbours.nearest`.
    progress, should_stop : callable, optional

    Returns
    -------
    Graph

    Raises
    ------
    FingerprintMismatchError
        If the two stores hold features of different kinds.
    Interrupted
        If asked to stop; nothing is left behind.
    """
    began = time.monotonic()
    store, own = neighbours.store, queries is None
    queries = store if queries is None else queries  # an empty store is false
    differences = queries.spec.of_queries().differences(store.spec.of_queries())
    if differences:
        raise FingerprintMismatchError(
            f"{queries.path}: its features cannot be compared with those of {store.path}: {'; '.join(differences)}"
        )
    scans = neighbours.scans(exact, metric)
    k, metric = k or neighbours.defaults.k, metric or neighbours.defaults.metric
    ids = queries.images()[:, 0]
    for one in (queries, store):
        if not len(one):
            raise StreamerError(f"{one.path}: holds no images; run 'streamer run CONFIG'")
    facts = {"metric": metric, "exact": scans, "store": str(store.path), "queries": str(queries.path)}
    done = 0
    with writing_graph(target, store, queries, ids, k, facts) as graph:
        for block, features in query_blocks(queries, ids, neighbours, k + own, scans=scans):
            if should_stop():
                raise Interrupted(f"stopped; {target} was not written")
            found = neighbours.nearest(features, k + own, candidates, exact=exact, metric=metric)
            lines = np.searchsorted(ids[done:], block)  # an image that is gone leaves its line empty
            reach = int(lines[-1]) + 1 if len(lines) else 0
            near, away = np.full((reach, k), -1, dtype=np.int64), np.full((reach, k), np.nan, dtype=np.float32)
            for line, number, each in zip(lines, block.tolist(), found, strict=True):
                others = [one for one in each if not own or one.entry.id != number][:k]
                near[line, : len(others)] = [one.entry.id for one in others]
                away[line, : len(others)] = [1 - one.score if one.distance is None else one.distance for one in others]
            graph.append(near, away)
            done += reach
            progress("knn", done, len(ids))
    seconds = round(time.monotonic() - began, 3)
    return Graph(str(target), len(ids), len(store), k, metric, scans, seconds)
