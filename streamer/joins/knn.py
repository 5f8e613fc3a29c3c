"""The k-nearest-neighbour graph of a store, against itself or another."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.errors import FingerprintMismatchError, Interrupted, StreamerError
from streamer.index import Metric
from streamer.joins.queries import queries_at_once, query_blocks
from streamer.neighbours import Neighbours
from streamer.records import Progress
from streamer.retrieval import Neighbour
from streamer.store import Store, writing_graph

__all__ = ["Graph", "knn_graph"]

_LOG = logging.getLogger(__name__)


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
        ``l2``, and 1 minus the cosine otherwise: that of the reduced vectors where the store is searched with
        ``search.rerank: false``.
    queries : Store, optional
        Whose images are the queries. Without it, those of the store itself, and none is its own neighbour.
    k : int, optional
        Neighbours in a line; no more than there can be.
    candidates, exact, metric
        As in `Neighbours.nearest`.
    progress, should_stop : callable, optional

    Returns
    -------
    Graph

    Notes
    -----
    The graph is about the images that are there as it is begun. Memory: 8 bytes for each, and a block of queries.

    Raises
    ------
    FingerprintMismatchError
        If the two stores hold features of different kinds.
    IndexMissingError
        If it takes the index, and that is damaged.
    StoreWriteError
        If the disk has no room for the file, or fails.
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
    ids = queries.ids()
    images = ids if own else store.ids()
    for one, there in ((queries, ids), (store, images)):
        if not len(there):
            raise StreamerError(f"{one.path}: holds no images; run 'streamer run CONFIG'")
    possible = max(1, len(images) - own)
    if k > possible:
        _LOG.warning("%s: %d neighbours were asked for; there are %d, and %d in a line", target, k, possible, possible)
        k = possible
    facts = {"metric": metric, "exact": scans, "store": str(store.path), "queries": str(queries.path)}
    ask = partial(neighbours.nearest, candidates=candidates, exact=exact, metric=metric)
    done = 0
    with writing_graph(target, (store, images), (queries, ids), k, facts) as graph:
        for block, features in query_blocks(queries, ids, neighbours, k + own, scans=scans):
            if should_stop():
                raise Interrupted(f"stopped; {target} was not written")
            found = _nearest_of(images, neighbours, features, k + own, ask)
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
    return Graph(str(target), len(ids), len(images), k, metric, scans, seconds)


def _nearest_of(
    images: NDArray[np.int64],
    neighbours: Neighbours,
    features: NDArray[np.float32],
    k: int,
    ask: Callable[[NDArray[np.float32], int], list[list[Neighbour]]],
) -> list[list[Neighbour]]:
    """The k nearest of these images. Where a run has committed others since, more are asked for in their place."""
    found: list[list[Neighbour]] = [[] for _ in features]
    pending, asked = np.arange(len(features)), k
    while len(pending):
        short = []
        step = queries_at_once(neighbours, asked)
        for start in range(0, len(pending), step):
            part = pending[start : start + step]
            for query, each in zip(part.tolist(), ask(features[part], asked), strict=True):
                found[query] = _those_of(images, each)[:k]
                if len(found[query]) < k and len(each) == asked:
                    short.append(query)
        pending, asked = np.array(short, dtype=np.intp), 4 * asked
    return found


def _those_of(images: NDArray[np.int64], found: list[Neighbour]) -> list[Neighbour]:
    ids = np.array([each.entry.id for each in found], dtype=np.int64)
    places = np.searchsorted(images, ids).clip(max=len(images) - 1)
    return [each for each, there in zip(found, images[places] == ids, strict=True) if there]
