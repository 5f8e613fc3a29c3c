"""Logistic regression out of core: the one file beside `streamer.reduction` that knows scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.transfer.fit import Trained
from streamer.transfer.head import Dense

__all__ = ["LINEAR_BATCH", "PENALTIES", "LinearTrainer"]

LINEAR_BATCH = 64
"""Images in a step. scikit-learn takes up to 200 at once."""

PENALTIES = (0.03, 0.003, 0.1, 0.3)
"""What the squared weights are multiplied by; the more promising first. Measured on photos of Caltech-101 (2,200 in 74
classes): 0.003 is best with 192 features, 0.03 to 0.1 with 1,728."""

# Of Adam. The sum of many standardised features moves further in a step than that of few. With 1,728 features a third
# of it had not arrived after 12 epochs, and three times as much gained nothing and swung.
_RATE = 0.04
_HIGHEST_RATE = 1e-2


class LinearTrainer:
    """Multinomial logistic regression by mini-batches, with several penalties side by side.

    It is scikit-learn's `MLPClassifier` without a hidden layer: cross-entropy of a softmax, so that the probabilities
    are those of one model over all classes. (`SGDClassifier` has one model for each class against the rest.) The
    weights of an epoch are the mean over its steps.

    Parameters
    ----------
    inputs, classes : int
    penalties : sequence of float
        Each gives a candidate.
    seed : int

    References
    ----------
    Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization". Polyak and Juditsky 1992, "Acceleration of
    Stochastic Approximation by Averaging".
    """

    def __init__(self, inputs: int, classes: int, penalties: Sequence[float], seed: int) -> None:
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import ThreadpoolController

        # The products of a step are too small for several threads, which wait for each other, for seconds where another
        # program wants a core; and on one thread the sums do not depend on how many there are.
        self._threads = ThreadpoolController()
        self._penalties = tuple(penalties)
        self._classes = np.arange(classes)
        rate = min(_HIGHEST_RATE, _RATE / np.sqrt(inputs))
        self._models = [
            MLPClassifier((), learning_rate_init=rate, shuffle=False, random_state=seed % 2**32) for _ in penalties
        ]
        self._begin()

    def _begin(self) -> None:
        self._steps = self._rows = 0
        self._losses = [0.0 for _ in self._penalties]
        self._sums: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    def step(self, rows: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
        """Learn from a batch of at most 200.

        Parameters
        ----------
        rows : ndarray of shape (b, inputs), float32
        labels : ndarray of shape (b,), int64
        weights : ndarray of shape (b,), float32
            How much each image counts.
        """
        with self._threads.limit(limits=1, user_api="blas"):
            self._step(rows, labels, weights)
        self._steps += 1
        self._rows += len(rows)

    def _step(self, rows: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
        for place, (model, penalty) in enumerate(zip(self._models, self._penalties, strict=True)):
            model.alpha = penalty * float(weights.sum())  # it is divided by that sum
            model.partial_fit(rows, labels, sample_weight=weights, classes=self._classes)
            self._losses[place] += float(model.loss_) * len(rows)
            if place == len(self._sums):
                self._sums.append((np.zeros_like(model.coefs_[0]), np.zeros_like(model.intercepts_[0])))
            kernel_sum, bias_sum = self._sums[place]
            kernel_sum += model.coefs_[0]
            bias_sum += model.intercepts_[0]

    def end_epoch(self) -> list[Trained]:
        """What each penalty has come to, with its settings; the loss has the penalty in it."""
        found = []
        for penalty, loss, sums in zip(self._penalties, self._losses, self._sums, strict=True):
            for each in sums:
                np.divide(each, self._steps, out=each)  # in place: this may be much of what the budget allows
            found.append(Trained(loss / self._rows, (_of_every_class(*sums),), {"penalty": penalty}))
        self._begin()
        return found


def _of_every_class(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> Dense:
    """Of two classes, scikit-learn has the second's weights only; the first's are then zero."""
    if len(bias) == 1:
        return Dense(np.hstack([np.zeros_like(kernel), kernel]), np.concatenate([np.zeros_like(bias), bias]))
    return Dense(kernel, bias)
