"""Epochs: a trainer sees every batch, its candidates are measured on the validation side, the best is kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.errors import Interrupted
from streamer.records import Progress
from streamer.store import FeatureDataset
from streamer.transfer.head import Dense, Head
from streamer.transfer.measure import measure

__all__ = ["Epoch", "Fitted", "Trained", "Trainer", "class_weights_of", "fit"]

_LOG = logging.getLogger(__name__)

# Of a few hundred images, a pass is too few steps to get anywhere.
_LEAST_STEPS = 32


@dataclass(frozen=True)
class Trained:
    """What a candidate has come to at the end of an epoch.

    Attributes
    ----------
    loss : float
        Mean over the epoch, as it was trained.
    layers : tuple of Dense
    settings : mapping
        What tells it from the other candidates.
    skip : ndarray of shape (inputs, classes), float32, optional
        See `Head`.
    """

    loss: float
    layers: tuple[Dense, ...]
    settings: Mapping[str, Any]
    skip: NDArray[np.float32] | None = None


class Trainer(Protocol):
    """Learns from one batch after the other; may have several candidates."""

    def step(self, rows: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
        """Learn from a batch: rows as `Head.prepared` gives them, shape (b, inputs)."""

    def end_epoch(self) -> list[Trained]:
        """What the candidates have come to."""


@dataclass(frozen=True)
class Epoch:
    """A point of the learning curve: the best candidate of that epoch. Without images to validate on, two are None."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """The best head there was.

    Attributes
    ----------
    head : Head
    settings : mapping
        Of the candidate that it comes from.
    epochs : list of Epoch
        Those that were trained to the end.
    best_epoch : int
        From 1.
    stopped : bool
        Whether it was asked to stop.
    """

    head: Head
    settings: Mapping[str, Any]
    epochs: list[Epoch]
    best_epoch: int
    stopped: bool


class _StopAsked(Exception):  # noqa: N818 - it is no error
    pass


def fit(
    trainer: Trainer,
    head: Head,
    train: FeatureDataset,
    validation: FeatureDataset,
    class_weights: NDArray[np.float32],
    *,
    epochs: int,
    patience: int,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> Fitted:
    """Train until the validation side gets no better.

    An epoch is a pass over the training side, or as many as 32 steps take.

    Better is a lower cross-entropy: chosen by accuracy, probabilities were half of what they should be. Without images
    to validate on, all epochs are run and the last counts.

    Parameters
    ----------
    trainer : Trainer
    head : Head
        With all that does not change; its layers and its skip are replaced.
    train, validation : FeatureDataset
    class_weights : ndarray of shape (classes,), float32
        How much an image of each class counts.
    epochs, patience : int
        The most epochs; and how many may bring nothing before it ends.
    progress : callable
    should_stop : callable
        Asked after each batch. Training then ends with the best head so far.

    Raises
    ------
    Interrupted
        If it is to stop before the first epoch is over.
    """
    curve: list[Epoch] = []
    best: tuple[float, Head, Mapping[str, Any], int] | None = None
    stopped = False
    passes = math.ceil(_LEAST_STEPS / len(train))
    for number in range(1, epochs + 1):
        began = time.perf_counter()
        try:
            _epoch(
                trainer,
                head,
                train,
                class_weights,
                passes,
                _Bar(f"epoch {number}", passes * len(train.ids), progress, should_stop),
            )
            candidates = trainer.end_epoch()
            heads = [replace(head, layers=each.layers, skip=each.skip) for each in candidates]
            bar = _Bar("validation", len(validation.ids), progress, should_stop)
            found = measure(heads, validation, seen=bar) if len(validation.ids) else []
        except _StopAsked:
            stopped = True
            break
        scores = [-each.loss for each in found] or [float(number)]
        place = max(range(len(scores)), key=scores.__getitem__)
        seconds = round(time.perf_counter() - began, 3)
        curve.append(
            Epoch(
                number,
                round(candidates[place].loss, 5),
                round(found[place].loss, 5) if found else None,
                round(found[place].accuracy, 5) if found else None,
                seconds,
            )
        )
        _LOG.info("%s", _line(curve[-1], epochs))
        if best is None or scores[place] > best[0]:
            best = (scores[place], heads[place], candidates[place].settings, number)
        if number - best[3] >= patience:
            break
    if best is None:
        raise Interrupted("stopped before the first epoch was over: no head was made")
    _, winner, settings, best_epoch = best
    return Fitted(winner, settings, curve, best_epoch, stopped)


@dataclass
class _Bar:
    """Shows how far a pass is, and ends it when that is asked for."""

    stage: str
    total: int
    progress: Progress
    should_stop: Callable[[], bool]
    done: int = 0

    def __call__(self, images: int) -> None:
        self.done += images
        self.progress(self.stage, self.done, self.total)
        if self.should_stop():
            raise _StopAsked


def _epoch(
    trainer: Trainer,
    head: Head,
    train: FeatureDataset,
    class_weights: NDArray[np.float32],
    passes: int,
    bar: _Bar,
) -> None:
    for _ in range(passes):
        for features, labels in train:
            trainer.step(head.prepared(features), labels, class_weights[labels])
            bar(len(labels))


def _line(epoch: Epoch, epochs: int) -> str:
    measured = ""
    if epoch.validation_accuracy is not None:
        measured = f", validation accuracy {epoch.validation_accuracy:.3f}, loss {epoch.validation_loss:.3f}"
    return f"epoch {epoch.epoch} of at most {epochs}: loss {epoch.train_loss:.3f}{measured}, {epoch.seconds:.1f} s"


def class_weights_of(counts: Sequence[int] | NDArray[np.int64], balanced: bool) -> NDArray[np.float32]:
    """How much an image of each class counts: shape (classes,), float32.

    Balanced, all classes that are there count the same together, and all images as many as they are: n / (classes x
    images of the class), as scikit-learn has it.
    """
    images = np.asarray(counts, np.float64)
    there = images > 0
    if not balanced:
        return np.ones(len(images), np.float32)
    weights = np.zeros(len(images))
    weights[there] = images.sum() / (there.sum() * images[there])
    return weights.astype(np.float32)
