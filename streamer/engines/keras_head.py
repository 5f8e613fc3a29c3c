"""A dense head in Keras: trained batch by batch, on any backend."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.engines.keras_runtime import start_keras

__all__ = ["KerasHead"]

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


class KerasHead:
    """Fully connected layers with dropout before each, ReLU between and a softmax over the last, trained with Adam.

    The same arguments and batches give the same weights, byte for byte, on a CPU; on a GPU sums may round differently.

    Parameters
    ----------
    layers : sequence of (kernel, bias)
        What each layer starts from: float32 of shapes (inputs, units) and (units,).
    dropout : float
        Share of the inputs of each layer that is set to 0 in a step, in [0, 1).
    learning_rate : float
    seed : int
        Of the dropout.
    device : {"cpu", "gpu"}

    Raises
    ------
    EngineUnavailableError
        If Keras or its backend is not installed, or sees no GPU where one is asked for.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov 2014, "Dropout: A Simple Way to Prevent Neural Networks
    from Overfitting". Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization".
    """

    def __init__(
        self, layers: Sequence[Layer], *, dropout: float, learning_rate: float, seed: int, device: str = "cpu"
    ) -> None:
        self.device = device
        self._keras = keras = start_keras(device, None, None)
        with self._on_device():
            rows = keras.Input((len(layers[0][0]),), dtype="float32")
            x = rows
            self._layers = []
            for number, (kernel, bias) in enumerate(layers):
                last = number == len(layers) - 1
                x = keras.layers.Dropout(dropout, seed=(seed + number) % 2**31)(x)
                # Zeros: what they start from is drawn elsewhere, alike on every backend.
                dense = keras.layers.Dense(
                    len(bias), activation=None if last else "relu", kernel_initializer="zeros", dtype="float32"
                )
                x = dense(x)
                dense.set_weights([kernel, bias])
                self._layers.append(dense)
            self._model: Any = keras.Model(rows, x)
            self._model.compile(
                optimizer=keras.optimizers.Adam(learning_rate),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                # XLA takes TensorFlow seconds and memory to compile what is two products; JAX is slow without it.
                jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
            )

    def step(self, rows: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float32]) -> float:
        """Learn from a batch.

        Parameters
        ----------
        rows : ndarray of shape (b, inputs), float32
        labels : ndarray of shape (b,), int64
        weights : ndarray of shape (b,), float32
            How much each image counts.

        Returns
        -------
        float
            Mean loss of the batch.
        """
        self._model.reset_metrics()  # some releases give the mean since the last reset, others the batch's own
        with self._on_device():
            return float(np.asarray(self._model.train_on_batch(rows, labels, sample_weight=weights)))

    def layers(self) -> list[Layer]:
        """The weights as they are now, copied, by layer."""
        convert = self._keras.ops.convert_to_numpy
        return [
            (np.array(convert(each.kernel), np.float32), np.array(convert(each.bias), np.float32))
            for each in self._layers
        ]

    def _on_device(self) -> Any:
        return self._keras.device(f"{self.device}:0")

    def close(self) -> None:
        """Let go of the model; a second call does nothing."""
        self._model = None
        self._layers = []
        gc.collect()
