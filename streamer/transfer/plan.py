"""The memory budget of a training: what fits is told before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamer.config import format_bytes
from streamer.errors import BudgetTooSmallError

__all__ = ["TrainPlan", "has_skip", "plan_dense", "plan_linear"]

_MIB = 2**20
# Python, numpy and this package hold 54 MiB, scikit-learn (with scipy) 100 more.
_LINEAR_BYTES = 160 * _MIB
# With TensorFlow 2.21, after the first step of a small head: 692 MiB.
_DENSE_BYTES = 710 * _MIB
# Copies of the weights. scikit-learn: of each candidate the weights, Adam's two moments and the sum over the epoch;
# once, what a step makes on its way, and the best head. Keras on TensorFlow: 7.4 were measured (100,352 x 128), and
# there are the head of this epoch and the best.
_OF_EACH_CANDIDATE = 4
_OF_LINEAR = 6
_OF_DENSE = 9.5
# Copies of a batch: as it is read, standardised, and as the framework takes it and computes with it.
_OF_BATCH = 4
# Of the budget: the window that images are mixed in, at the least and at the most.
_LEAST_WINDOW = 1 / 32
_LARGEST_WINDOW = 1 / 8
# Images of the validation and the test side, which both stay open, come in the order of the store.
_PLAIN_WINDOW = 1 / 64
# Weights of a skip that are had whatever the hidden layer: 4 MiB, a twentieth of what Keras holds when it is trained.
_SMALL_SKIP = 2**20


@dataclass(frozen=True)
class TrainPlan:
    """How training keeps within the budget.

    Attributes
    ----------
    choice : int
        Candidates that are trained side by side, or units of the hidden layer.
    buffer_bytes, plain_buffer_bytes : int
        For the windows of the training side, and of each of the others.
    expected_bytes : int
        Resident size that all this should come to.
    """

    choice: int
    buffer_bytes: int
    plain_buffer_bytes: int
    expected_bytes: int


def plan_linear(budget: int, *, inputs: int, row_bytes: int, classes: int, batch: int, candidates: int) -> TrainPlan:
    """Fit logistic regression into a budget: with as many candidates as it holds, up to that number.

    Parameters
    ----------
    budget : int
        Bytes.
    inputs : int
        Features, flattened or pooled.
    row_bytes : int
        Size of one image's feature in the store.
    classes, batch, candidates : int

    Raises
    ------
    BudgetTooSmallError
        If not even one fits.
    """
    weights = 4 * (inputs + 1) * classes
    held = [
        (count, _LINEAR_BYTES + (_OF_EACH_CANDIDATE * count + _OF_LINEAR) * weights)
        for count in range(candidates, 0, -1)
    ]
    return _fitted(budget, held, batch * row_bytes, f"a linear head of {inputs} features for {classes} classes")


def plan_dense(
    budget: int, *, inputs: int, row_bytes: int, classes: int, batch: int, units: Sequence[int]
) -> TrainPlan:
    """Fit a dense head into a budget: with the first of those numbers of units that it holds; see `has_skip`.

    Parameters
    ----------
    budget, inputs, row_bytes, classes, batch
        As in `plan_linear`.
    units : sequence of int
        The largest first.

    Raises
    ------
    BudgetTooSmallError
        If not even the last fits.
    """
    held = [(count, _DENSE_BYTES + int(_OF_DENSE * 4 * _dense_weights(inputs, count, classes))) for count in units]
    what = f"a dense head of {units[-1]} units on {inputs} features for {classes} classes"
    return _fitted(budget, held, batch * row_bytes, what)


def has_skip(inputs: int, units: int, classes: int) -> bool:
    """Whether a dense head has a linear model beside its hidden layer.

    It has `inputs` x `classes` weights, so it is left out where they would be more than those of the hidden layer, and
    more than a million.
    """
    return classes <= max(units, _SMALL_SKIP // inputs)


def _dense_weights(inputs: int, units: int, classes: int) -> int:
    skip = inputs * classes if has_skip(inputs, units, classes) else 0
    return (inputs + 1) * units + (units + 1) * classes + skip


def _fitted(budget: int, held: Sequence[tuple[int, int]], batch_bytes: int, what: str) -> TrainPlan:
    """Take the first choice that leaves room for batches and windows."""
    for choice, held_bytes in held:
        fixed = held_bytes + _OF_BATCH * batch_bytes + int(_PLAIN_WINDOW * budget)
        spare = budget - fixed
        if spare >= max(_LEAST_WINDOW * budget, 2 * batch_bytes):
            window = min(int(_LARGEST_WINDOW * budget), spare)
            return TrainPlan(choice, window, int(_PLAIN_WINDOW * budget) // 2, fixed + window)
    needed = held[-1][1] + _OF_BATCH * batch_bytes
    minimum = max((needed + 2 * batch_bytes) / (1 - _PLAIN_WINDOW), needed / (1 - _PLAIN_WINDOW - _LEAST_WINDOW))
    rounded = -(-int(minimum + 1) // (16 * _MIB)) * 16 * _MIB
    raise BudgetTooSmallError(
        f"a memory budget of {format_bytes(budget)} is too small to train {what}: it takes {format_bytes(rounded)}; "
        f"give --memory {rounded // _MIB}MiB, --pool gap, fewer --units, or a pooled output",
        rounded,
    )
