"""Write ``streamer/backbones/graphs/*.txt`` from Keras models: ``python scripts/export_graphs.py``.

Needs the `keras` extra; no weights are loaded. tests/backbones/test_graph.py runs it and compares.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import keras

from streamer.backbones.graph import Graph, Node
from streamer.backbones.graph_text import GRAPHS, graph_text

APPLICATIONS = {"vgg16": "VGG16", "resnet50": "ResNet50", "inception_v3": "InceptionV3"}
COMPACT_WIDTH = Fraction(3, 8)


def application(name: str) -> Any:
    """Build one of Keras' own networks, top included, without weights."""
    return getattr(keras.applications, APPLICATIONS[name])(weights=None)


def compact_vgg16() -> Any:
    """Build VGG16 without its top, every convolution at `COMPACT_WIDTH` of its channels."""
    whole = keras.applications.VGG16(weights=None, include_top=False)

    def narrowed(layer: Any) -> Any:
        config = layer.get_config()
        if "filters" in config:
            width = config["filters"] * COMPACT_WIDTH
            assert width.denominator == 1
            config["filters"] = int(width)
        return type(layer).from_config(config)

    return keras.models.clone_model(whole, clone_function=narrowed)


MODELS: dict[str, tuple[str, Callable[[], Any]]] = {
    **{name: (f"keras.applications.{each}", partial(application, name)) for name, each in APPLICATIONS.items()},
    "vgg16_compact": (f"keras.applications.VGG16 at {COMPACT_WIDTH} of its width", compact_vgg16),
}
"""By backbone: what its network is, and what builds it."""


def exported(name: str) -> str:
    """Return the text of one backbone's graph."""
    keras.utils.clear_session()  # the unnamed layers are numbered from nothing
    origin, build = MODELS[name]
    nodes = tuple(_node(layer) for layer in build().layers)
    return f"# {origin}, by scripts/export_graphs.py: do not edit.\n" + graph_text(Graph(nodes))


def _node(layer: Any) -> Node:
    if isinstance(layer, keras.layers.InputLayer):
        return Node("input", "input")
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    sources = [tensor._keras_history.operation for tensor in tensors]
    inputs = tuple("input" if isinstance(source, keras.layers.InputLayer) else source.name for source in sources)
    op, attributes = _described(layer)
    return Node(layer.name, op, inputs, **attributes)


def _described(layer: Any) -> tuple[Any, dict[str, Any]]:
    """Return what a layer computes, and with which numbers."""
    match type(layer).__name__:
        case "Conv2D":
            assert layer.groups == 1 and layer.dilation_rate == (1, 1)
            return "conv", {
                "channels": layer.filters,
                "window": layer.kernel_size,
                "stride": _square(layer.strides),
                "padding": layer.padding,
                "bias": layer.use_bias,
                "activation": layer.activation.__name__,
            }
        case "BatchNormalization":
            assert layer.center and layer.axis in (-1, 3)
            return "batch_norm", {"scale": layer.scale, "epsilon": layer.epsilon}
        case "Dense":
            assert layer.use_bias
            return "dense", {"channels": layer.units, "activation": layer.activation.__name__}
        case "MaxPooling2D" | "AveragePooling2D" as kind:
            op = "max_pool" if kind == "MaxPooling2D" else "avg_pool"
            return op, {"window": layer.pool_size, "stride": _square(layer.strides), "padding": layer.padding}
        case "ZeroPadding2D":
            (top, bottom), (left, right) = layer.padding
            assert top == bottom == left == right
            return "zero_pad", {"border": top}
        case "Activation":
            assert layer.activation.__name__ == "relu"
            return "relu", {}
        case "Add":
            return "add", {}
        case "Concatenate":
            assert layer.axis in (-1, 3)
            return "concat", {}
        case "GlobalAveragePooling2D":
            return "global_avg_pool", {}
        case "Flatten":
            return "flatten", {}
        case kind:
            raise ValueError(f"{layer.name}: the text format has no word for {kind}")


def _square(strides: tuple[int, int]) -> int:
    assert strides[0] == strides[1]
    return strides[0]


def main() -> int:
    """Write every graph."""
    GRAPHS.mkdir(exist_ok=True)
    for name in MODELS:
        path = GRAPHS / f"{name}.txt"
        path.write_text(exported(name), encoding="utf-8", newline="\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
