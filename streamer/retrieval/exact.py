"""The nearest by a look at every row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streamer.index import Metric, TopOfBlock, exact_candidates
from streamer.retrieval.ranking import Neighbour, Pool, pool_of, rank, scan_rows, score
from streamer.store import Store

__all__ = ["nearest_exact", "scan"]

# Kept beyond the k wanted, for rows that float32 cannot tell from the last of them.
_MARGIN = 16
# Ids and scores that are kept for a block of queries, where many rows are equally near.
_KEPT_BYTES = 32 * 2**20


def nearest_exact(
    store: Store,
    queries: NDArray[np.float32],
    k: int,
    metric: Metric = "cosine",
    *,
    among: NDArray[np.int64] | None = None,
    top: TopOfBlock | None = None,
) -> list[list[Neighbour]]:
    """Find the k images nearest to each query, by a scan of all of them.

    Parameters
    ----------
    store : Store
    queries : ndarray of shape (q, d), float32
        Features of the indexed output, flattened.
    k : int
    metric : {"cosine", "l2"}
    among : ndarray of shape (m,), int64, optional
        Ids of the images to look at, all by default: one part of a store can be searched with the other.
    top : callable, optional
        As in `streamer.index.exact_candidates`.

    Returns
    -------
    list of list of Neighbour
        For each query, best first, ties by key.
    """
    found: list[list[Neighbour]] = [[] for _ in queries]
    for part, ids in scan(store, queries, k, metric, among=among, top=top):
        pool = pool_of(store, ids)
        ranked, _ = rank(store, len(part), pool, score(store, queries[part], pool, metric), k)
        if metric == "l2":
            ranked = _with_cosines(store, queries[part], ranked)
        for query, neighbours in zip(part.tolist(), ranked, strict=True):
            found[query] = neighbours
    return found


def _with_cosines(store: Store, queries: NDArray[np.float32], ranked: list[list[Neighbour]]) -> list[list[Neighbour]]:
    """Neighbours that were ranked by distance get both numbers."""
    owners = np.repeat(np.arange(len(ranked)), [len(each) for each in ranked])
    entries = [each.entry for neighbours in ranked for each in neighbours]
    images = np.array([(each.id, each.shard, each.row) for each in entries], dtype=np.int64).reshape(-1, 3)
    scores = iter(score(store, queries, Pool(owners, images)).tolist())
    return [[Neighbour(each.entry, next(scores), -each.score) for each in neighbours] for neighbours in ranked]


def scan(
    store: Store,
    queries: NDArray[np.float32],
    k: int,
    metric: Metric = "cosine",
    *,
    newer_than: int = 0,
    among: NDArray[np.int64] | None = None,
    top: TopOfBlock | None = None,
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64]]]:
    """Look at every image with an id above `newer_than`, and `among` these, for those that may be among the k nearest.

    Yields
    ------
    queries : ndarray of shape (p,), int
        Some of the queries. Those for which more rows are equally near than are kept come later, after another scan.
    ids : ndarray of shape (p, m), int64
        Their candidates; -1 where there are fewer.
    """
    output = store.spec.indexed
    pending, margin = np.arange(len(queries)), _MARGIN
    while len(pending):
        undecided = []
        step = max(1, _KEPT_BYTES // (12 * (k + margin)))
        for start in range(0, len(pending), step):
            part = pending[start : start + step]
            blocks = store.blocks(output, scan_rows(store, output), newer_than)
            if among is not None:
                blocks = _only(blocks, among)
            best = exact_candidates(queries[part], blocks, k, metric, margin=margin, top=top)
            yield part[~best.undecided], best.ids[~best.undecided]
            undecided.append(part[best.undecided])
        pending, margin = np.concatenate(undecided), 8 * margin


def _only(
    blocks: Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]], ids: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    for block, rows in blocks:
        wanted = np.isin(block, ids)
        yield block[wanted], rows[wanted]
