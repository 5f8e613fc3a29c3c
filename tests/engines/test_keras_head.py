"""The head in Keras against its formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.engines.keras_head import KerasHead

keras = pytest.importorskip("keras", reason="Keras is not installed")

RATE, DECAY = 0.01, 0.5
Arrays = list[NDArray[np.float64]]


def drawn(*shape: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def gradients(arrays: Arrays, x: NDArray[np.float64], labels: NDArray[np.int64], weights: Arrays) -> Arrays:
    """Of the mean weighted cross-entropy, by the chain rule."""
    kernel, bias, last, last_bias, *skip = arrays
    hidden = np.maximum(x @ kernel + bias, 0)
    logits = hidden @ last + last_bias + sum(x @ each for each in skip)
    away = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(3)[labels]
    away *= np.asarray(weights)[:, None] / len(x)
    back = away @ last.T * (hidden > 0)
    return [x.T @ back, back.sum(0), hidden.T @ away, away.sum(0), *[x.T @ away for _ in skip]]


@pytest.mark.parametrize("skip", [False, True])
def test_steps_are_those_of_adam_with_decoupled_weight_decay_of_the_kernels(skip: bool) -> None:
    kernel, last = drawn(6, 5, seed=0), drawn(5, 3, seed=1)
    layers = [(kernel, np.zeros(5, np.float32)), (last, np.zeros(3, np.float32))]
    head = KerasHead(layers, skip=skip, dropout=0.0, learning_rate=RATE, weight_decay=DECAY, seed=0)
    arrays: Arrays = [each.astype(np.float64) for layer in layers for each in layer]
    arrays += [np.zeros((6, 3))] if skip else []
    first, second = [np.zeros_like(each) for each in arrays], [np.zeros_like(each) for each in arrays]
    for number in range(1, 6):
        x, labels = drawn(8, 6, seed=number), np.arange(number, number + 8) % 3
        weights = np.linspace(0.5, 2, 8)
        head.step(x, labels, weights.astype(np.float32))
        for place, slope in enumerate(gradients(arrays, x.astype(np.float64), labels, list(weights))):
            first[place] += (slope - first[place]) * 0.1
            second[place] += (slope**2 - second[place]) * 0.001
            rate = RATE * np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
            arrays[place] *= 1 - RATE * DECAY * (arrays[place].ndim == 2)  # no bias decays
            arrays[place] = arrays[place] - rate * first[place] / (np.sqrt(second[place]) + 1e-7)
    found, found_skip = head.weights()
    assert (found_skip is not None) == skip
    flat = [each for layer in found for each in layer] + ([] if found_skip is None else [found_skip])
    for ours, theirs in zip(flat, arrays, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    head.close()
