"""Turning a map of activations into one vector."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GEM_FLOOR", "GEM_POWER", "pool", "pooled"]

GEM_POWER = 3.0
"""The exponent p; 3 is where Radenovic et al. 2018 start from, and close to what they learn."""

GEM_FLOOR = 1e-6
"""Activations are raised to this, so that no root is taken of a negative mean."""


def pool(maps: NDArray[np.float32], pooling: str) -> NDArray[np.float32]:
    """Pool maps over height and width.

    Parameters
    ----------
    maps : ndarray of shape (n, height, width, channels), float32
    pooling : {"none", "avg", "max", "gem"}
        ``avg`` and ``max`` are the mean and the maximum of each channel. ``gem`` is the generalised mean
        ``mean(x ** p) ** (1 / p)`` with p = 3, x at least 1e-6 (Radenovic, Tolias and Chum 2018, eq. 3).

    Returns
    -------
    ndarray of shape (n, channels), float32
        With ``none``, the maps as they are.
    """
    return np.asarray(pooled(maps, pooling, np), dtype=np.float32)


def pooled(maps: Any, pooling: str, ops: Any) -> Any:
    """Pool maps with the functions of `ops`: numpy, or ``keras.ops`` inside a network.

    The formulas stand here once, so that an engine with a graph of its own and one without agree.
    """
    if pooling == "none":
        return maps
    if pooling == "avg":
        return ops.mean(maps, axis=(1, 2))
    if pooling == "max":
        return ops.max(maps, axis=(1, 2))
    if pooling == "gem":
        floored = ops.maximum(maps, GEM_FLOOR)
        # Multiplied, not raised: a general power is several times slower, and p is 3. Tested against the formula.
        return ops.power(ops.mean(floored * floored * floored, axis=(1, 2)), 1 / GEM_POWER)
    raise ValueError(f"unknown pooling {pooling!r}")
