"""What the tests of the ncnn engine share: weights of which no two are alike, a small network, and a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamer.backbones import Backbone, Output, RandomWeights
from streamer.backbones.graph_text import parse_graph
from streamer.backbones.weights import LayerArrays

# All that makes padding, strides and order go wrong: odd windows, even maps, asymmetric SAME, a branch, a dense layer.
_ODD_GRAPH = """
input = input()
a = conv(input) channels=6 window=3x3 stride=2 padding=same
a_norm = batch_norm(a) scale=False
a_relu = relu(a_norm)
b = conv(a_relu) channels=16 window=5x3 padding=same bias=False
b_norm = batch_norm(b)
c = conv(a_relu) channels=16 window=3x3 padding=same activation=relu
d = avg_pool(c) window=3x3 padding=same
sum = add(b_norm, d)
sum_relu = relu(sum)
e = conv(sum_relu) channels=24 window=3x3 padding=same activation=relu
pad = zero_pad(sum_relu) border=2
f = max_pool(pad) window=3x3 stride=2
g = max_pool(e) window=3x3 stride=2 padding=same
h = conv(f) channels=8 window=3x3 stride=2
i = conv(g) channels=8 window=2x2 stride=2 padding=same
last_map = concat(c, e)
pooled = max_pool(last_map) window=4x4 stride=4
flat = flatten(pooled)
fc = dense(flat) channels=30 activation=relu
predictions = dense(fc) channels=7 activation=softmax
"""

ODD = Backbone(
    "odd",
    (22, 17),
    4,
    "tf",
    ("a_relu", "b_norm", "c", "d", "sum", "sum_relu", "e", "last_map", "flat", "fc", "predictions"),
    "last_map",
    Output("last_map", "avg"),
    lambda: parse_graph(_ODD_GRAPH),
)


@dataclass(frozen=True)
class DrawnWeights:
    """Random weights in which biases and batch normalisations are drawn too, so that a mix-up of two shows."""

    backbone: Backbone
    top: bool
    seed: int = 1

    @property
    def sha256(self) -> str:
        return f"{self.seed:064x}"

    def describe(self) -> str:
        return "drawn weights"

    def layers(self) -> Iterator[LayerArrays]:
        for number, layer in enumerate(RandomWeights(self.backbone, self.top, self.seed).layers()):
            shapes = dict(layer.weights)

            def read(name: str, index: Any = ..., number: int = number, layer: LayerArrays = layer) -> Any:
                if name == "kernel":
                    return layer.read(name, index)
                rng = np.random.default_rng((self.seed, number, *name.encode()))
                low, high = {"gamma": (0.7, 1.3), "moving_variance": (0.5, 2.0)}.get(name, (-0.2, 0.2))
                return rng.uniform(low, high, dict(layer.weights)[name]).astype(np.float32)[index]

            yield LayerArrays(layer.name, tuple(shapes.items()), read)


def pixels(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise that looks like photos to a network: uint8 RGB of shape (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def every_output(backbone: Backbone, size: tuple[int, int], *, top: bool = False) -> list[Output]:
    """Return every layer that works at that size, and every pooling of those that are maps."""
    layers = [layer for layer in backbone.layers if top or not backbone.needs_top(layer)]
    maps = [layer for layer in layers if len(backbone.layer_shape(layer, size)) == 3]
    return [
        *(Output(layer) for layer in layers),
        *(Output(layer, pooling) for layer in maps for pooling in ("avg", "max", "gem")),
        *(Output(layer, "gem", 2) for layer in maps if min(backbone.layer_shape(layer, size)[:2]) >= 2),
    ]


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    """Compare each image's features: the largest difference relative to the largest feature, and the same for norms."""
    assert list(found) == list(expected)
    for name, wanted in expected.items():
        features = found[name]
        assert features.shape == wanted.shape and features.dtype == np.float32 and features.flags.c_contiguous, name
        for ours, theirs in zip(features, wanted, strict=True):
            assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max(), name
            assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs), name
            assert theirs.std() > 0, name
