"""Ranking at full precision: what the answer is, whichever index proposed the candidates.

Sums are taken in float64, row by row, so that equal rows get equal scores wherever they stand: a matrix product in
float32 rounds by position.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cosines", "distances"]


def cosines(queries: NDArray[np.float32], owners: NDArray[np.intp], rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine between each row and its query; 0 where one of them is all zeros.

    Rounded to what float32 features can tell apart.

    Parameters
    ----------
    queries : ndarray of shape (q, d), float32
    owners : ndarray of shape (n,), int
        Which query each row belongs to, in ascending order.
    rows : ndarray of shape (n, d), float32

    Returns
    -------
    ndarray of shape (n,), float64
        In [-1, 1].
    """
    wide = rows.astype(np.float64)
    products = np.empty(len(rows))
    lengths = np.sqrt(_row_products(wide, wide))
    for owner, part in _runs(owners):
        query = queries[owner].astype(np.float64)
        products[part] = _row_products(wide[part], query)
        lengths[part] *= np.sqrt(query @ query)
    scores = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    rounded: NDArray[np.float64] = np.clip(np.round(scores, 7), -1.0, 1.0)
    return rounded


def distances(queries: NDArray[np.float32], owners: NDArray[np.intp], rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean distance between each row and its query; see `cosines`.

    Returns
    -------
    ndarray of shape (n,), float64
    """
    found = np.empty(len(rows))
    for owner, part in _runs(owners):
        differences = rows[part].astype(np.float64) - queries[owner].astype(np.float64)
        found[part] = np.sqrt(_row_products(differences, differences))
    return found


def _row_products(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scalar product of each row with the other's row, or with the one vector: one call of BLAS for each row."""
    products: NDArray[np.float64] = np.matmul(rows[:, None, :], others[..., None])[:, 0, 0]
    return products


def _runs(owners: NDArray[np.intp]) -> list[tuple[int, slice]]:
    starts = np.flatnonzero(np.diff(owners, prepend=-1)).tolist()
    ends = [*starts[1:], len(owners)]
    return [(int(owners[start]), slice(start, end)) for start, end in zip(starts, ends, strict=True)]
