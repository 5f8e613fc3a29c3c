"""Turning a map of activations into one vector."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GEM_FLOOR", "GEM_POWER", "pool", "pooled"]

GEM_POWER = 3.0
"""The exponent p; 3 is where Radenovic et al. 2018 start from, and close to what they learn."""

GEM_FLOOR = 1e-6
"""Activations are raised to this, so that no root is taken of a negative mean."""


def pool(maps: NDArray[np.float32], pooling: str, grid: int = 1) -> NDArray[np.float32]:
    """Pool maps over height and width, as a whole or in each cell of a grid.

    Parameters
    ----------
    maps : ndarray of shape (n, height, width, channels), float32
    pooling : {"none", "avg", "max", "gem"}
        ``avg`` and ``max`` are the mean and the maximum of each channel. ``gem`` is the generalised mean
        ``mean(x ** p) ** (1 / p)`` with p = 3, x at least 1e-6 (Radenovic, Tolias and Chum 2018, eq. 3).
    grid : int
        Rows, and columns, of cells: one level of a spatial pyramid (Lazebnik, Schmid and Ponce 2006). Cell ``i`` of `g`
        over `n` places starts at ``i * n / g``, rounded.

    Returns
    -------
    ndarray of shape (n, grid * grid * channels), float32
        Cells by row and column, each with its channels. With ``none``, the maps as they are.
    """
    return np.asarray(pooled(maps, pooling, np, grid), dtype=np.float32)


def pooled(maps: Any, pooling: str, ops: Any, grid: int = 1) -> Any:
    """Pool maps with the functions of `ops`: numpy, or ``keras.ops`` inside a network.

    The formulas stand here once, so that an engine with a graph of its own and one without agree.
    """
    if pooling == "none":
        return maps
    if pooling == "avg":
        return _means(maps, ops, grid)
    if pooling == "max":
        rows, columns = (_cells(places, grid) for places in maps.shape[1:3])
        cells = [ops.max(maps[:, row, column], axis=(1, 2)) for row in rows for column in columns]
        return cells[0] if grid == 1 else ops.concatenate(cells, axis=1)
    if pooling == "gem":
        floored = ops.maximum(maps, GEM_FLOOR)
        # Multiplied, not raised: a general power is several times slower, and p is 3. Tested against the formula.
        return ops.power(_means(floored * floored * floored, ops, grid), 1 / GEM_POWER)
    raise ValueError(f"unknown pooling {pooling!r}")


def _means(maps: Any, ops: Any, grid: int) -> Any:
    """The mean of each cell: one matrix product, as many small steps would keep threads waiting for each other."""
    if grid == 1:
        return ops.mean(maps, axis=(1, 2))
    height, width, channels = maps.shape[1:]
    rows = ops.reshape(maps, (-1, height * width, channels))
    return ops.reshape(ops.matmul(_shares(height, width, grid), rows), (-1, grid * grid * channels))


@cache
def _shares(height: int, width: int, grid: int) -> NDArray[np.float32]:
    """What each place adds to the mean of each cell: shape (grid * grid, height * width), float32."""

    def along(places: int) -> NDArray[np.float32]:
        shares = np.zeros((grid, places), np.float32)
        for cell, part in enumerate(_cells(places, grid)):
            shares[cell, part] = 1 / (part.stop - part.start)
        return shares

    return np.kron(along(height), along(width))


def _cells(places: int, grid: int) -> list[slice]:
    edges = [(2 * cell * places + grid) // (2 * grid) for cell in range(grid + 1)]
    return [slice(*pair) for pair in pairwise(edges)]
