"""How good a head is: accuracy, precision and recall by class, confusion; streamed over one side of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.transfer.head import Head

__all__ = ["MOST_CONFUSED", "Measured", "measure"]

MOST_CONFUSED = 1000
"""Of more classes no confusion matrix is kept: it grows with their square."""

_TINY = 1e-12


@dataclass
class Measured:
    """What came out of a head against what is so.

    Attributes
    ----------
    support, predicted, right : ndarray of shape (classes,), int64
        Images of each class, images taken for it, and those of them that are of it.
    confusion : ndarray of shape (classes, classes), int64, or None
        Rows are what an image is, columns what it was taken for.
    loss : float
        Mean cross-entropy, nats.
    """

    support: NDArray[np.int64]
    predicted: NDArray[np.int64]
    right: NDArray[np.int64]
    confusion: NDArray[np.int64] | None
    loss: float

    @property
    def rows(self) -> int:
        """Images that were looked at."""
        return int(self.support.sum())

    @property
    def accuracy(self) -> float:
        """Share that was right; 0 of none."""
        return float(self.right.sum() / max(1, self.rows))

    def per_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Precision, recall, F1 and support of each class. What has no denominator is 0, as is usual."""
        precision = self.right / np.maximum(1, self.predicted)
        recall = self.right / np.maximum(1, self.support)
        f1 = 2 * self.right / np.maximum(1, self.predicted + self.support)
        return [
            {
                "class": name,
                "precision": round(float(precision[place]), 4),
                "recall": round(float(recall[place]), 4),
                "f1": round(float(f1[place]), 4),
                "support": int(self.support[place]),
            }
            for place, name in enumerate(classes)
        ]


def measure(
    heads: Sequence[Head],
    batches: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]],
    *,
    confusion: bool = False,
    seen: Callable[[int], None] = lambda images: None,
) -> list[Measured]:
    """Measure heads that differ in their layers only, in one pass over the data.

    Parameters
    ----------
    heads : sequence of Head
        One at least.
    batches : iterable of (features, labels)
    confusion : bool
        Whether to keep the confusion matrix; of more than `MOST_CONFUSED` classes it is never kept.
    seen : callable, optional
        Told the images of each batch.

    Returns
    -------
    list of Measured
        Of each head.
    """
    count = len(heads[0].classes)
    square = (count, count)
    keep = confusion and count <= MOST_CONFUSED
    found = [
        Measured(
            support=np.zeros(count, np.int64),
            predicted=np.zeros(count, np.int64),
            right=np.zeros(count, np.int64),
            confusion=np.zeros(square, np.int64) if keep else None,
            loss=0.0,
        )
        for _ in heads
    ]
    for features, labels in batches:
        rows = heads[0].prepared(features)
        for head, each in zip(heads, found, strict=True):
            probabilities = head.classified(rows)
            chosen = probabilities.argmax(axis=1)
            each.support += np.bincount(labels, minlength=count)
            each.predicted += np.bincount(chosen, minlength=count)
            each.right += np.bincount(labels[chosen == labels], minlength=count)
            each.loss -= float(np.log(probabilities[np.arange(len(labels)), labels] + _TINY).sum())
            if each.confusion is not None:
                np.add.at(each.confusion, (labels, chosen), 1)
        seen(len(labels))
    for each in found:
        each.loss /= max(1, each.rows)
    return found
