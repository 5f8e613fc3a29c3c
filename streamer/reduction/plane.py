"""The plane along which rows differ most: two principal axes, without scikit-learn and out of core."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from streamer.reduction.pca import Reducer, unit_rows

__all__ = ["Plane", "fit_plane", "plane_of"]

# Axes beside the two, and passes over the rows: the error of an axis shrinks with both (Halko et al. 2011, thm 10.8).
_OVERSAMPLED = 14
_PASSES = 3


class Plane:
    """Two axes through the middle of L2-normalised rows.

    Parameters
    ----------
    mean : ndarray of shape (d,), float32
    axes : ndarray of shape (2, d), float32
        The second is zero where there is no second direction.
    """

    def __init__(self, mean: NDArray[np.float32], axes: NDArray[np.float32]) -> None:
        self._axes = axes
        self._centre = axes @ mean

    def project(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where rows, shape (n, d), lie on the plane: shape (n, 2), float32."""
        placed: NDArray[np.float32] = unit_rows(rows) @ self._axes.T - self._centre
        return placed


def plane_of(reducer: Reducer) -> Plane:
    """The plane of a PCA that is there."""
    axes = np.zeros((2, len(reducer.mean)), np.float32)
    axes[: min(2, len(reducer.components))] = reducer.components[:2]
    return Plane(reducer.mean, axes)


def fit_plane(blocks: Callable[[], Iterable[NDArray[np.float32]]], n_features: int, seed: int = 0) -> Plane:
    """Find the two principal axes by subspace iteration.

    Parameters
    ----------
    blocks : callable
        Gives the rows, shape (n, d), a block at a time; called once for the mean and once for each of three passes.
    n_features : int
        d.
    seed : int
        Of the directions that are started from.

    Returns
    -------
    Plane

    References
    ----------
    Halko, Martinsson, Tropp 2011, "Finding Structure with Randomness", algorithm 4.4.
    """
    mean, count = np.zeros(n_features), 0
    for rows in blocks():
        mean += unit_rows(rows).sum(axis=0, dtype=np.float64)
        count += len(rows)
    centre = (mean / max(1, count)).astype(np.float32)
    directions = min(2 + _OVERSAMPLED, n_features)
    axes = np.random.default_rng(seed).standard_normal((n_features, directions))
    strengths = np.ones(directions)
    for _ in range(_PASSES):
        axes, _ = np.linalg.qr(axes)
        product = np.zeros_like(axes)
        basis = axes.astype(np.float32)
        for rows in blocks():
            centred = unit_rows(rows) - centre
            product += centred.T @ (centred @ basis)
        axes, strengths, _ = np.linalg.svd(product, full_matrices=False)
    kept = (axes[:, :2] * (strengths[:2] > 1e-12 * max(1.0, strengths[0]))).T.astype(np.float32)
    if len(kept) < 2:
        kept = np.vstack([kept, np.zeros_like(kept)])
    return Plane(centre, kept)
