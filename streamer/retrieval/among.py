"""The nearest among images that are named: each of them is ranked, and no other is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.index import Metric
from streamer.retrieval.ranking import Neighbour, Pool, locate, rank, score
from streamer.store import Store

__all__ = ["nearest_among"]


def nearest_among(
    store: Store, queries: NDArray[np.float32], k: int, ids: NDArray[np.int64], metric: Metric = "cosine"
) -> list[list[Neighbour]]:
    """Find the k nearest to each query among some images.

    Parameters
    ----------
    store : Store
    queries : ndarray of shape (q, d), float32
        Features of the indexed output, flattened.
    k : int
    ids : ndarray of shape (m,), int64
        Those that are gone are left out. Memory: about 50 bytes for each, and a block of rows.
    metric : {"cosine", "l2"}
        What ranks them; scores are cosines with either.

    Returns
    -------
    list of list of Neighbour
        For each query, best first, ties by key.
    """
    _, images = locate(store, ids)
    found = []
    for query in queries:
        pool = Pool(np.zeros(len(images), np.intp), images)
        (ranked,), _ = rank(store, 1, pool, score(store, query[None], pool, metric), k)
        if metric == "l2":
            entries = np.array([(one.entry.id, one.entry.shard, one.entry.row) for one in ranked], dtype=np.int64)
            best = Pool(np.zeros(len(ranked), np.intp), entries.reshape(-1, 3))
            cosines = score(store, query[None], best).tolist()
            ranked = [Neighbour(one.entry, cosine, -one.score) for one, cosine in zip(ranked, cosines, strict=True)]
        found.append(ranked)
    return found
