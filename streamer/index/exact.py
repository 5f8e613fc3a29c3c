"""Exact search: every row, a block at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["exact_candidates"]

# Scores in float32 may order near-ties differently from the final ranking in float64: this many more are kept.
_MARGIN = 16
# Scores of a block of queries against a block of rows: they stay in the cache until they have been looked at.
_SCORES_BYTES = 4 * 2**20


def exact_candidates(
    queries: NDArray[np.float32], blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]], k: int
) -> NDArray[np.int64]:
    """Ids of the rows nearest to each query by cosine, with a margin for the final ranking.

    Parameters
    ----------
    queries : ndarray of shape (q, d), float32
    blocks : iterable of (ids, rows)
        ``ids`` of shape (n,), int64; ``rows`` of shape (n, d), float32.
    k : int
        How many will be wanted.

    Returns
    -------
    ndarray of shape (q, <= k + 16), int64
        Ids, best first (in float32).
    """
    unit, keep, seen = _unit(queries), k + _MARGIN, 0
    kept_ids = np.full((len(queries), keep), -1, dtype=np.int64)
    kept_scores = np.full((len(queries), keep), -np.inf, dtype=np.float32)
    for ids, rows in blocks:
        unit_rows = _unit(rows)
        seen += len(ids)
        step = max(1, _SCORES_BYTES // (4 * max(1, len(ids))))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            _merge(kept_ids[part], kept_scores[part], ids, unit[part] @ unit_rows.T)
    order = np.argsort(-kept_scores, axis=1, kind="stable")[:, : min(keep, seen)]
    return np.take_along_axis(kept_ids, order, axis=1)


def _merge(
    kept_ids: NDArray[np.int64],
    kept_scores: NDArray[np.float32],
    ids: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """Take the scores of one block of rows into the best so far, in place.

    After the first blocks, hardly any row is better than the worst that is kept: only those are looked at closely.
    """
    keep = kept_scores.shape[1]
    queries, places = np.nonzero(scores > kept_scores.min(axis=1)[:, None])
    counts = np.bincount(queries, minlength=len(scores))
    most = int(counts.max(initial=0))
    if most == 0:
        return
    if most > keep:
        places = np.argpartition(-scores, min(keep, scores.shape[1]) - 1, axis=1)[:, :keep]
        new_ids, new_scores = ids[places], np.take_along_axis(scores, places, axis=1)
        touched = np.arange(len(scores))
    else:
        touched = np.flatnonzero(counts)
        line = np.searchsorted(touched, queries)
        column = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
        new_ids = np.full((len(touched), most), -1, dtype=np.int64)
        new_scores = np.full((len(touched), most), -np.inf, dtype=np.float32)
        new_ids[line, column], new_scores[line, column] = ids[places], scores[queries, places]
    all_ids = np.concatenate([kept_ids[touched], new_ids], axis=1)
    all_scores = np.concatenate([kept_scores[touched], new_scores], axis=1)
    best = np.argpartition(-all_scores, keep - 1, axis=1)[:, :keep]
    kept_ids[touched] = np.take_along_axis(all_ids, best, axis=1)
    kept_scores[touched] = np.take_along_axis(all_scores, best, axis=1)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths == 0] = 1
    unit: NDArray[np.float32] = rows / lengths[:, None]
    return unit
