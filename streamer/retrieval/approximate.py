"""The nearest by way of the index: candidates, ranked at full precision.

Images that are newer than the index are scanned beside it, all of them: an answer is never older than the store.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.index import cosines
from streamer.retrieval.exact import scan
from streamer.retrieval.ranking import Neighbour, Pool, locate, pool_of, rank, score
from streamer.retrieval.reduced import ReducedIndex
from streamer.store import Store

__all__ = ["nearest_approximate", "newer_candidates"]

# Candidates of the queries that share one pass, about 100 bytes each; and those queries, however few they have each.
_CANDIDATES_TOGETHER = 200_000
_TOGETHER = 512


def nearest_approximate(
    store: Store,
    index: ReducedIndex,
    queries: NDArray[np.float32],
    k: int,
    *,
    candidates: int,
    effort: int,
    rerank: bool = True,
    beside: NDArray[np.int64] | None = None,
    look_further: bool = True,
) -> list[list[Neighbour]]:
    """Find the k images nearest to each query, by way of the index.

    Parameters
    ----------
    store : Store
    index : ReducedIndex
    queries : ndarray of shape (q, d), float32
        Features of the indexed output, flattened.
    k : int
    candidates : int
        How many the index proposes; raised to `k`, and doubled when it finds too few, or images deleted since leave
        too few.
    effort : int
        How much of the index to look at, for that many candidates.
    rerank : bool
        Rank by the cosine of the stored features. Otherwise by that of the reduced vectors.
    beside : ndarray of shape (q, m), int64, optional
        Ids of further candidates, that the index does not hold; -1 where there are fewer.
    look_further : bool
        Whether to ask again for those that find fewer than `k`. To measure an effort, it must be kept to.

    Returns
    -------
    list of list of Neighbour
        For each query, best first, ties by key.
    """
    found: list[list[Neighbour]] = [[] for _ in queries]
    # Without a ranking to come, more than the answer would be found in vain.
    pending, asked = np.arange(len(queries)), max(k, candidates) if rerank else k
    while len(pending):
        looked = min(max(effort, effort * asked // max(1, candidates)), max(effort, index.index.full_effort))
        step = max(1, min(_TOGETHER, _CANDIDATES_TOGETHER // min(asked, max(1, index.rows))))
        again = []
        for start in range(0, len(pending), step):
            part = pending[start : start + step]
            newer = None if beside is None else beside[part]
            pool, scores = _candidates(store, index, queries[part], asked, looked, rerank, newer)
            ranked, short = rank(store, len(part), pool, scores, k)
            for query, neighbours in zip(part.tolist(), ranked, strict=True):
                found[query] = neighbours
            again.append(part[short])
        if not look_further or (asked >= index.rows and looked >= index.index.full_effort):
            break
        pending, asked = np.concatenate(again), 2 * asked
    return found


def _candidates(
    store: Store,
    index: ReducedIndex,
    queries: NDArray[np.float32],
    count: int,
    effort: int,
    rerank: bool,
    beside: NDArray[np.int64] | None,
) -> tuple[Pool, NDArray[np.float64]]:
    """What the index proposes and what stands beside it, and the scores of all."""
    positions, near = index.candidates(queries, count, effort)
    owners, columns = np.nonzero(positions >= 0)
    pool, there = _located(store, Pool(owners, index.images(positions[owners, columns])))
    scores = score(store, queries, pool) if rerank else near[owners, columns][there].astype(np.float64)
    if beside is None:
        return pool, scores
    newer = pool_of(store, beside)
    newer_scores = score(store, queries, newer) if rerank else _reduced_scores(store, index, queries, newer)
    order = np.argsort(np.append(pool.owners, newer.owners), kind="stable")
    both = Pool(np.append(pool.owners, newer.owners)[order], np.concatenate([pool.images, newer.images])[order])
    return both, np.append(scores, newer_scores)[order]


def _located(store: Store, pool: Pool) -> tuple[Pool, NDArray[np.bool_]]:
    """Find again what `compact` has moved since the index was made; a shard that is still there is unchanged.

    Returns the images that are still there, as far as was looked, and which of the pool they are.
    """
    moved = ~np.isin(pool.images[:, 1], store.shard_numbers())
    keep = np.ones(len(moved), dtype=bool)
    if not moved.any():
        return pool, keep
    there, found = locate(store, pool.images[moved, 0])
    images = pool.images.copy()
    images[np.flatnonzero(moved)[there]] = found
    keep[np.flatnonzero(moved)[~there]] = False
    return Pool(pool.owners[keep], images[keep]), keep


def _reduced_scores(store: Store, index: ReducedIndex, queries: NDArray[np.float32], pool: Pool) -> NDArray[np.float64]:
    """Cosines in the reduced space of images that the index does not hold."""
    rows = store.rows(store.spec.indexed, pool.images[:, 1], pool.images[:, 2])
    return cosines(index.reducer.transform(queries), pool.owners, index.reducer.transform(rows))


def newer_candidates(store: Store, queries: NDArray[np.float32], newest_id: int, k: int) -> NDArray[np.int64] | None:
    """Find the images newer than an index that may be among the k nearest to each query, by a scan of all of them.

    Parameters
    ----------
    store : Store
    queries : ndarray of shape (q, d), float32
    newest_id : int
        Of the index.
    k : int

    Returns
    -------
    ndarray of shape (q, m), int64, or None
        Ids; -1 where there are fewer. None when no image is newer.
    """
    if store.catalog.newest_id() <= newest_id:
        return None
    parts = list(scan(store, queries, k, newer_than=newest_id))
    found = np.full((len(queries), max(ids.shape[1] for _, ids in parts)), -1, dtype=np.int64)
    for part, ids in parts:
        found[part, : ids.shape[1]] = ids
    return found
