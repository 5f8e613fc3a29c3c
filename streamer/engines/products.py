"""Matrix products for exact search on a GPU, by way of Keras."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.engines.devices import choose_device
from streamer.engines.keras_runtime import start_keras
from streamer.errors import EngineUnavailableError

__all__ = ["KerasProducts", "products_on"]

_LOG = logging.getLogger(__name__)


def products_on(device: str, gpu_memory_fraction: float | None = None) -> KerasProducts | None:
    """What does the products of a scan: Keras where there is a GPU to use, else nothing, and numpy does them.

    Keras is loaded when it is first needed.

    Parameters
    ----------
    device : {"auto", "cpu", "gpu"}
    gpu_memory_fraction : float, optional

    Raises
    ------
    EngineUnavailableError
        If a GPU is asked for and there is none.
    """
    if choose_device(device) == "cpu":
        return None
    return KerasProducts("gpu", gpu_memory_fraction, required=device == "gpu")


class KerasProducts:
    """Finds the best rows of a block on a device.

    Parameters
    ----------
    device : {"cpu", "gpu"}
    gpu_memory_fraction : float, optional
    required : bool
        Whether it is an error when Keras or its backend is not there; otherwise numpy does the work.
    """

    def __init__(self, device: str, gpu_memory_fraction: float | None = None, *, required: bool = True) -> None:
        self._device = device
        self._gpu_memory_fraction = gpu_memory_fraction
        self._required = required
        self._keras: Any = None

    def __call__(
        self, queries: NDArray[np.float32], rows: NDArray[np.float32], offsets: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Places and scores of the k rows with the highest ``queries @ rows.T - offsets``, in any order.

        Parameters
        ----------
        queries : ndarray of shape (q, d), float32
        rows : ndarray of shape (n, d), float32
        offsets : ndarray of shape (n,), float32
        k : int
            At most n.

        Returns
        -------
        places : ndarray of shape (q, k), int64
        scores : ndarray of shape (q, k), float32
        """
        if self._started():
            ops = self._keras.ops
            scores = ops.matmul(queries, ops.transpose(ops.convert_to_tensor(rows))) - offsets
            best, places = (ops.convert_to_numpy(each) for each in ops.top_k(scores, k, sorted=False))
            return places.astype(np.int64), best.astype(np.float32)
        products = queries @ rows.T - offsets
        places = np.argpartition(-products, k - 1, axis=1)[:, :k].astype(np.int64)
        return places, np.take_along_axis(products, places, axis=1)

    def _started(self) -> bool:
        if self._keras is None:
            try:
                self._keras = start_keras(self._device, None, self._gpu_memory_fraction)
            except EngineUnavailableError as error:
                if self._required:
                    raise
                _LOG.warning("there is a GPU, but %s; the CPU compares the rows", error)
                self._keras = False
        return self._keras is not False
