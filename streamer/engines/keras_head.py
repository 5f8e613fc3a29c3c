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
    """Fully connected layers with ReLU and dropout between and a softmax over the last, trained with AdamW.

    With a skip, a linear model of the same inputs is trained beside the layers, and both are summed before the softmax.

    The same arguments and batches give the same weights, byte for byte, on a CPU; on a GPU sums may round differently.

    Parameters
    ----------
    layers : sequence of (kernel, bias)
        What each layer starts from: float32 of shapes (inputs, units) and (units,).
    skip : bool
        Whether there is one. It starts from zeros.
    dropout : float
        Share of the hidden units of each layer that is set to 0 in a step, in [0, 1).
    learning_rate, weight_decay : float
        A step takes the product of both off each kernel, as a share of it.
    seed : int
        Of the dropout.
    device : {"cpu", "gpu"}

    Raises
    ------
    EngineUnavailableError
        If Keras or its backend is not installed, or sees no GPU where one is asked for.

    References
    ----------
    Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems". Srivastava, Hinton, Krizhevsky, Sutskever,
    Salakhutdinov 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting". Loshchilov and
    Hutter 2019, "Decoupled Weight Decay Regularization".
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        skip: bool,
        dropout: float,
        learning_rate: float,
        weight_decay: float,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.device = device
        self._keras = keras = start_keras(device, None, None)

        # Zeros: what they start from is drawn elsewhere, alike on every backend.
        options: dict[str, Any] = {"kernel_initializer": "zeros", "dtype": "float32"}
        # A penalty in the loss would do as much, and hold two more copies of the weights.
        optimizer = keras.optimizers.AdamW(learning_rate, weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias"])

        with self._on_device():
            rows = keras.Input((len(layers[0][0]),), dtype="float32")
            x = rows
            self._layers = []
            for number, (kernel, bias) in enumerate(layers):
                last = number == len(layers) - 1
                if number:
                    x = keras.layers.Dropout(dropout, seed=(seed + number) % 2**31)(x)
                dense = keras.layers.Dense(len(bias), activation=None if last else "relu", **options)
                x = dense(x)
                dense.set_weights([kernel, bias])
                self._layers.append(dense)
            self._skip = keras.layers.Dense(len(layers[-1][1]), use_bias=False, **options) if skip else None
            if self._skip is not None:
                x = keras.layers.Add()([x, self._skip(rows)])
            self._model: Any = keras.Model(rows, x)
            self._model.compile(
                optimizer=optimizer,
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

    def weights(self) -> tuple[list[Layer], NDArray[np.float32] | None]:
        """The layers, and the skip's kernel of shape (inputs, classes): as they are now, copied."""
        skip = None if self._skip is None else self._copied(self._skip.kernel)
        return [(self._copied(each.kernel), self._copied(each.bias)) for each in self._layers], skip

    def _copied(self, weights: Any) -> NDArray[np.float32]:
        return np.array(self._keras.ops.convert_to_numpy(weights), np.float32)

    def _on_device(self) -> Any:
        return self._keras.device(f"{self.device}:0")

    def close(self) -> None:
        """Let go of the model; a second call does nothing."""
        self._model = None
        self._layers, self._skip = [], None
        gc.collect()
