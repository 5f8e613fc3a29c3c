"""A dense head, trained in Keras."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.engines.keras_head import KerasHead
from streamer.transfer.fit import Trained
from streamer.transfer.head import Dense

__all__ = ["DENSE_BATCH", "DROPOUT", "UNITS", "DenseTrainer"]

DENSE_BATCH = 32
DROPOUT = 0.5
UNITS = (256, 192, 128, 96, 64, 48, 32, 24, 16, 8)
"""Units of the hidden layer where none are asked for: the first that fits into the memory budget."""

_RATE = 0.04
_HIGHEST_RATE = 1e-3


class DenseTrainer:
    """One hidden layer, with dropout before and behind it.

    Parameters
    ----------
    layers : sequence of Dense
        What it starts from.
    seed : int
    device : {"cpu", "gpu"}

    Raises
    ------
    EngineUnavailableError
        If Keras or its backend is not installed.
    """

    def __init__(self, layers: tuple[Dense, ...], seed: int, device: str) -> None:
        inputs = len(layers[0].kernel)
        self._units = len(layers[0].bias)
        self._head = KerasHead(
            [(layer.kernel, layer.bias) for layer in layers],
            dropout=DROPOUT,
            learning_rate=min(_HIGHEST_RATE, float(_RATE / np.sqrt(inputs))),
            seed=seed,
            device=device,
        )
        self._loss, self._rows = 0.0, 0

    def step(self, rows: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
        """Learn from a batch; see `KerasHead.step`."""
        self._loss += self._head.step(rows, labels, weights) * len(rows)
        self._rows += len(rows)

    def end_epoch(self) -> list[Trained]:
        """The one candidate; the loss is that of the weights while they moved, with dropout."""
        layers = tuple(Dense(kernel, bias) for kernel, bias in self._head.layers())
        loss, self._loss, self._rows = self._loss / self._rows, 0.0, 0
        return [Trained(loss, layers, {"units": self._units, "dropout": DROPOUT})]

    def close(self) -> None:
        """Let go of the model."""
        self._head.close()
