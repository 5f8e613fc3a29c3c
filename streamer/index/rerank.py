"""Ranking by the cosine of full-precision features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["best", "cosines"]


def cosines(query: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine between a query and each row; 0 where one of them is all zeros.

    Summed in float64, so that equal rows get equal scores wherever they stand (a matrix product in float32 rounds by
    position), and rounded to what float32 features can tell apart.

    Parameters
    ----------
    query : ndarray of shape (d,), float32
    rows : ndarray of shape (n, d), float32

    Returns
    -------
    ndarray of shape (n,), float64
        In [-1, 1].
    """
    wide = query.astype(np.float64)
    products = np.einsum("ij,j->i", rows, wide, dtype=np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)) * np.sqrt(wide @ wide)
    scores = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    rounded: NDArray[np.float64] = np.clip(np.round(scores, 7), -1.0, 1.0)
    return rounded


def best(scores: NDArray[np.float64], keys: Sequence[str], k: int) -> list[int]:
    """Places of the k best scores, best first, ties by key.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
    keys : sequence of str, length n
    k : int

    Returns
    -------
    list of int
    """
    return sorted(range(len(keys)), key=lambda place: (-scores[place], keys[place]))[:k]
