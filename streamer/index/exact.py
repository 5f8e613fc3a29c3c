"""Exact search: every row, a block of rows against a block of queries at a time.

Scores are matrix products in float32. What they leave undecided, because two rows differ by less than the products are
wrong by, is handed on for a ranking in float64: an answer does not depend on how the rows were cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Best", "Metric", "TopOfBlock", "exact_candidates"]

Metric = Literal["cosine", "l2"]

TopOfBlock = Callable[
    [NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], int],
    tuple[NDArray[np.int64], NDArray[np.float32]],
]
"""``(queries, rows, offsets, k)`` to places and scores, shape (q, k), of the k rows with the highest
``queries @ rows.T - offsets``: what an accelerator can do in the place of numpy."""

Blocks = Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]

# Queries and rows that are multiplied at a time: 4 MiB of scores stay in the cache until they have been looked at. The
# first rows are all better than nothing, and looked at closely: they had better be few.
_TILE_QUERIES, _TILE_ROWS = 512, 2048
# Elsewhere, the fewer calls the better.
_SCORES_BYTES_ELSEWHERE = 256 * 2**20
# Of the product of two unit vectors in float32: twice what was measured at 25,088 features that are nearly the same.
_ERROR = 2e-5


@dataclass(frozen=True)
class Best:
    """The rows that may be among the k nearest of each query.

    Attributes
    ----------
    ids : ndarray of shape (q, m), int64
        Best first; -1 where there are no more, or the rest cannot matter.
    undecided : ndarray of shape (q,), bool
        Whether rows that were not kept may matter too: so many are equally near that the scan must keep more.
    """

    ids: NDArray[np.int64]
    undecided: NDArray[np.bool_]


def exact_candidates(
    queries: NDArray[np.float32],
    blocks: Blocks,
    k: int,
    metric: Metric = "cosine",
    *,
    margin: int = 16,
    top: TopOfBlock | None = None,
) -> Best:
    """Find the rows that may be among the k nearest to each query.

    Parameters
    ----------
    queries : ndarray of shape (q, d), float32
    blocks : iterable of (ids, rows)
        ``ids`` of shape (n,), int64; ``rows`` of shape (n, d), float32.
    k : int
        How many will be wanted.
    metric : {"cosine", "l2"}
        The highest cosine, or the smallest Euclidean distance.
    margin : int
        Rows to keep beyond the k, for those that float32 cannot tell from the last of them.
    top : callable, optional
        Does the products elsewhere than in numpy.

    Returns
    -------
    Best
    """
    keep, seen = k + margin, 0
    queries = _unit(queries) if metric == "cosine" else queries
    ids_kept = np.full((len(queries), keep), -1, dtype=np.int64)
    scores_kept = np.full((len(queries), keep), -np.inf, dtype=np.float32)
    for ids, block in blocks:
        seen += len(ids)
        # |q - r|^2 = |q|^2 - 2 (q r - |r|^2 / 2): the nearest row has the highest of what stands in brackets.
        if metric == "cosine":
            rows, offsets = _unit(block), np.zeros(len(block), np.float32)
        else:
            rows, offsets = block, (_squares(block) / 2).astype(np.float32)
        if top is not None:
            step = max(1, _SCORES_BYTES_ELSEWHERE // (4 * max(1, len(ids))))
            for start in range(0, len(queries), step) if len(ids) else ():
                part = slice(start, start + step)
                places, scores = top(queries[part], rows, offsets, min(keep, len(ids)))
                _take(ids_kept, scores_kept, np.arange(len(queries))[part], ids[places], scores)
            continue
        for first in range(0, len(ids), _TILE_ROWS):
            tile = slice(first, first + _TILE_ROWS)
            for start in range(0, len(queries), _TILE_QUERIES):
                part = slice(start, start + _TILE_QUERIES)
                scores = _products(queries[part], rows[tile], offsets[tile], metric)
                _merge(ids_kept, scores_kept, part, ids[tile], scores)
    order = np.argsort(-scores_kept, axis=1, kind="stable")[:, : min(keep, seen)]
    best_ids, best_scores = np.take_along_axis(ids_kept, order, axis=1), np.take_along_axis(scores_kept, order, axis=1)
    if seen <= k:
        return Best(best_ids, np.zeros(len(queries), dtype=bool))
    last = best_scores[:, k - 1]
    matters = best_scores >= (last - 2 * _error(queries, last, metric))[:, None]
    return Best(np.where(matters, best_ids, -1), matters[:, -1] & (seen > keep))


def _products(
    queries: NDArray[np.float32], rows: NDArray[np.float32], offsets: NDArray[np.float32], metric: Metric
) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = queries @ rows.T
    if metric == "l2":
        scores -= offsets
    return scores


def _error(queries: NDArray[np.float32], last: NDArray[np.float32], metric: Metric) -> NDArray[np.float64] | float:
    """How wrong a score may be, near the k-th best."""
    if metric == "cosine":
        return _ERROR
    squares = _squares(queries)
    lengths = np.sqrt(squares)
    farthest = lengths + np.sqrt(np.maximum(squares - 2 * last, 0))  # no row as near as the k-th is longer
    error: NDArray[np.float64] = _ERROR * (lengths * farthest + farthest**2 / 2)
    return error


def _merge(
    ids_kept: NDArray[np.int64],
    scores_kept: NDArray[np.float32],
    part: slice,
    ids: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """Take the scores of one block of rows into the best so far.

    After the first blocks, hardly any row is better than the worst that is kept: only those are looked at closely.
    """
    keep = scores_kept.shape[1]
    queries, places = np.nonzero(scores > scores_kept[part].min(axis=1)[:, None])
    counts = np.bincount(queries, minlength=len(scores))
    most = int(counts.max(initial=0))
    if most == 0:
        return
    if most > keep:
        places = np.argpartition(-scores, min(keep, scores.shape[1]) - 1, axis=1)[:, :keep]
        _take(
            ids_kept,
            scores_kept,
            part.start + np.arange(len(scores)),
            ids[places],
            np.take_along_axis(scores, places, axis=1),
        )
        return
    touched = np.flatnonzero(counts)
    line = np.searchsorted(touched, queries)
    column = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
    new_ids = np.full((len(touched), most), -1, dtype=np.int64)
    new_scores = np.full((len(touched), most), -np.inf, dtype=np.float32)
    new_ids[line, column], new_scores[line, column] = ids[places], scores[queries, places]
    _take(ids_kept, scores_kept, part.start + touched, new_ids, new_scores)


def _take(
    ids_kept: NDArray[np.int64],
    scores_kept: NDArray[np.float32],
    queries: NDArray[np.intp],
    ids: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """Keep the best of what is kept for these queries and of what is new."""
    keep = scores_kept.shape[1]
    all_ids = np.concatenate([ids_kept[queries], ids], axis=1)
    all_scores = np.concatenate([scores_kept[queries], scores], axis=1)
    best = np.argpartition(-all_scores, keep - 1, axis=1)[:, :keep]
    ids_kept[queries] = np.take_along_axis(all_ids, best, axis=1)
    scores_kept[queries] = np.take_along_axis(all_scores, best, axis=1)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.sqrt(_squares(rows)).astype(np.float32)
    lengths[lengths == 0] = 1
    unit: NDArray[np.float32] = rows / lengths[:, None]
    return unit


def _squares(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared length of each row. In float64: float32 loses four digits of the sum of 25,088 equal numbers."""
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return squares
