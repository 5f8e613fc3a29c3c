"""Moments, measures and plans against arrays in memory."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from streamer.errors import BudgetTooSmallError
from streamer.transfer.fit import class_weights_of
from streamer.transfer.measure import measure
from streamer.transfer.moments import moments
from streamer.transfer.plan import _DENSE_BYTES, _OF_BATCH, _OF_DENSE, has_skip, plan_dense, plan_linear
from tests.transfer.test_head import a_head

MIB = 2**20


def cut(features: np.ndarray, labels: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(features[start : start + size], labels[start : start + size]) for start in range(0, len(labels), size)]


@pytest.mark.parametrize("shape", [(4,), (3, 2, 4)])
def test_moments_are_numpys_whatever_the_batches(shape: tuple[int, ...]) -> None:
    features = (np.random.default_rng(0).normal(size=(101, *shape)) * [1, 2, 3, 4] + 1000).astype(np.float32)
    exact = features.astype(np.float64).reshape(-1, 4)
    for size in (1, 7, 101):
        seen: list[int] = []
        mean, scale = moments(cut(features, np.zeros(101, np.int64), size), seen.append)
        np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(scale, exact.std(axis=0), rtol=1e-4)
        assert sum(seen) == 101 and mean.dtype == scale.dtype == np.float32


def test_channels_that_hardly_vary_are_not_blown_up() -> None:
    features = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32) * np.array([1, 1e-6, 0], np.float32)
    _, scale = moments(cut(features, np.zeros(100, np.int64), 10), lambda _: None)
    assert scale[1] == scale[2] == pytest.approx(0.01 * scale[0] / np.sqrt(3), rel=0.01)
    _, scale = moments(cut(np.zeros((100, 3), np.float32), np.zeros(100, np.int64), 10), lambda _: None)
    np.testing.assert_array_equal(scale, 1)


def test_measures_are_those_of_scikit_learn() -> None:
    head = a_head()
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 3, 3, 4)).astype(np.float32)
    labels = random.integers(0, 3, 200)
    probabilities = head.probabilities(features)
    chosen = probabilities.argmax(axis=1)
    found, other = measure([head, a_head()], cut(features, labels, 17), confusion=True)
    assert found.accuracy == other.accuracy == pytest.approx((chosen == labels).mean())
    assert found.loss == pytest.approx(log_loss(labels, probabilities), rel=1e-4)
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, chosen))
    expected = np.array(precision_recall_fscore_support(labels, chosen, zero_division=0))
    table = found.per_class(head.classes)
    assert [each["class"] for each in table] == list(head.classes)
    for row, each in zip(expected.T, table, strict=True):
        assert [each[name] for name in ("precision", "recall", "f1", "support")] == pytest.approx(list(row), abs=1e-4)


def test_class_weights_make_classes_count_the_same() -> None:
    weights = class_weights_of([90, 10, 0], balanced=True)
    assert weights[0] * 90 == pytest.approx(50) == weights[1] * 10 and weights[2] == 0
    assert class_weights_of([90, 10, 0], balanced=False).tolist() == [1, 1, 1]


def test_a_plan_takes_what_fits_and_names_the_smallest_budget_that_would_do() -> None:
    maps = {"inputs": 14 * 14 * 512, "row_bytes": 4 * 14 * 14 * 512, "classes": 10}
    units = (256, 128, 64, 32, 16)
    # Of 70 classes, a skip would outweigh a hidden layer of 32, and is left out; with one of 128 it is not.
    for budget, classes, expected in (
        *((8 * 2**30, 10, 256), (1536 * MIB, 10, 128), (2**30, 10, 32)),
        *((1792 * MIB, 70, 128), (2**30, 70, 32)),
    ):
        plan = plan_dense(budget, batch=32, units=units, **(maps | {"classes": classes}))
        assert plan.choice == expected and plan.expected_bytes <= budget
    # All windows are within what is expected: the validation and the test side stay open together.
    alone = plan_dense(2**30, batch=32, units=[32], **maps)
    weights = 4 * ((maps["inputs"] + 1) * 32 + 33 * 10 + maps["inputs"] * 10)
    held = _DENSE_BYTES + int(_OF_DENSE * weights) + _OF_BATCH * 32 * maps["row_bytes"]
    assert held + alone.buffer_bytes + 2 * alone.plain_buffer_bytes <= alone.expected_bytes
    assert plan_linear(2**30, batch=64, candidates=4, **maps).choice == 4
    assert 1 <= plan_linear(640 * MIB, batch=64, candidates=4, **(maps | {"classes": 60})).choice < 4
    for plan_of, options in (
        (plan_dense, {"units": units, "batch": 32}),
        (plan_linear, {"candidates": 4, "batch": 64}),
    ):
        with pytest.raises(BudgetTooSmallError, match=r"it takes .*--memory") as error:
            plan_of(100 * MIB, **maps, **options)
        smallest = error.value.minimum_bytes
        assert plan_of(smallest, **maps, **options).expected_bytes <= smallest
        with pytest.raises(BudgetTooSmallError):
            plan_of(smallest - 32 * MIB, **maps, **options)


def test_a_skip_is_left_out_where_it_would_outweigh_the_hidden_layer() -> None:
    assert has_skip(14 * 14 * 512, units=64, classes=64) and not has_skip(14 * 14 * 512, units=64, classes=65)
    assert has_skip(512, units=8, classes=1000)  # half a million weights are little
    assert not has_skip(7 * 7 * 512, units=256, classes=1000)
