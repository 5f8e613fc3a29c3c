"""Mean and standard deviation of features that do not fit into memory, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["moments"]

# A channel that hardly ever fires would be blown up, where it does, to a value that nothing was trained on.
_LEAST = 1e-2


def moments(
    batches: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]], seen: Callable[[int], None]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Measure what a head standardises features with.

    Parameters
    ----------
    batches : iterable of (features, labels)
        Features are float32 of shape (b, ..., channels); there is one batch at least.
    seen : callable
        Told the images of each batch; may end the pass by an exception.

    Returns
    -------
    mean, scale : ndarray of shape (channels,), float32
        `scale` is the standard deviation, but not below a hundredth of its root mean square over the channels; 1 where
        no channel varies.

    References
    ----------
    Chan, Golub, LeVeque 1983, "Algorithms for Computing the Sample Variance", equation 2.1: batches are merged without
    the cancellation that sums of squares suffer.
    """
    count = 0
    mean = squares = np.zeros(0)
    for features, _ in batches:
        rows = features.reshape(-1, features.shape[-1])
        batch_mean = rows.mean(axis=0, dtype=np.float64)
        centred = rows - batch_mean.astype(np.float32)
        batch_squares = np.einsum("ij,ij->j", centred, centred, dtype=np.float64)
        if not count:
            mean, squares = batch_mean, batch_squares
        else:
            apart = batch_mean - mean
            total = count + len(rows)
            mean = mean + apart * (len(rows) / total)
            squares = squares + batch_squares + apart**2 * (count * len(rows) / total)
        count += len(rows)
        seen(len(features))
    deviation = np.sqrt(squares / count)
    least = _LEAST * float(np.sqrt(np.mean(deviation**2)))
    scale = np.maximum(deviation, least) if least > 0 else np.ones_like(deviation)
    return mean.astype(np.float32), scale.astype(np.float32)
