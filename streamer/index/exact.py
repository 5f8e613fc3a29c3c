"""Exact search: every row, a block at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["exact_candidates"]

# Scores in float32 may order near-ties differently from the final ranking in float64: this many more are kept.
_MARGIN = 16


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
    unit = _unit(queries)
    kept_ids = np.empty((len(queries), 0), dtype=np.int64)
    kept_scores = np.empty((len(queries), 0), dtype=np.float32)
    for ids, rows in blocks:
        scores = np.concatenate([kept_scores, unit @ _unit(rows).T], axis=1)
        all_ids = np.concatenate([kept_ids, np.broadcast_to(ids, (len(queries), len(ids)))], axis=1)
        keep = min(k + _MARGIN, scores.shape[1])
        places = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
        kept_scores = np.take_along_axis(scores, places, axis=1)
        kept_ids = np.take_along_axis(all_ids, places, axis=1)
    order = np.argsort(-kept_scores, axis=1, kind="stable")
    return np.take_along_axis(kept_ids, order, axis=1)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths == 0] = 1
    unit: NDArray[np.float32] = rows / lengths[:, None]
    return unit
