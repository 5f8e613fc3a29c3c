"""A backbone's graph as a Keras model: pixels in, pooled features out, everything between inside the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from streamer.backbones.graph import Node
from streamer.backbones.registry import Backbone, Output
from streamer.backbones.weights import LayerArrays, Weights
from streamer.engines.pooling import pooled
from streamer.engines.preprocessing import IMAGENET_MEANS_BGR

__all__ = ["build_model"]


def build_model(
    keras: Any,
    backbone: Backbone,
    outputs: Sequence[Output],
    weights: Weights,
    batch_shape: tuple[int, int, int, int],
    compute_dtype: str = "float32",
) -> Any:
    """Build the part of the backbone that the outputs need, with its weights.

    Parameters
    ----------
    keras : module
    backbone : Backbone
    outputs : sequence of Output
    weights : Weights
    batch_shape : tuple of int, (batch, height, width, 3)
    compute_dtype : {"float32", "bfloat16"}
        Of the layers; the weights are float32.

    Returns
    -------
    keras.Model
        Takes uint8 RGB of `batch_shape`; gives a dict of float32 arrays by the outputs' names.
    """
    policies = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
    if compute_dtype not in policies:
        raise ValueError(f"compute_dtype must be one of {', '.join(policies)}, not {compute_dtype!r}")
    policy = policies[compute_dtype]
    pixels = keras.Input(batch_shape=batch_shape, dtype="uint8")
    results: dict[str, Any] = {}
    arrays = weights.layers()
    for node in backbone.graph.until({output.layer for output in outputs}).nodes:
        if node.op == "input":
            results[node.name] = _preprocessed(keras, backbone, pixels)
        else:
            inputs = [results[name] for name in node.inputs]
            layer = _layer(keras, node, _initializers(keras, node, arrays), policy)
            results[node.name] = layer(inputs if len(inputs) > 1 else inputs[0])
    if compute_dtype != "float32":
        results = {output.layer: keras.ops.cast(results[output.layer], "float32") for output in outputs}
    features = {
        output.name: pooled(results[output.layer], output.pooling, keras.ops, output.grid) for output in outputs
    }
    return keras.Model(pixels, features)


def _initializers(keras: Any, node: Node, arrays: Iterator[LayerArrays]) -> dict[str, Any]:
    """Make each weight start as what the file holds.

    Assigning after the fact holds one more copy of the weight: with VGG16's fc1, 2304 MB at the peak against 1846.
    """
    if node.op not in ("conv", "dense", "batch_norm"):
        return {}
    record = next(record for record in arrays if record.name == node.name)
    return {f"{name}_initializer": _initializer(keras, record, name) for name, _ in record.weights}


def _initializer(keras: Any, record: LayerArrays, name: str) -> Any:
    def initial(shape: tuple[int, ...], dtype: Any = None) -> Any:
        values = record.read(name)
        assert values.shape == tuple(shape), f"{record.name}/{name}: {values.shape} for {shape}"
        return keras.ops.convert_to_tensor(values, dtype)

    return initial


def _preprocessed(keras: Any, backbone: Backbone, pixels: Any) -> Any:
    x = keras.ops.cast(pixels, "float32")
    if backbone.preprocessing == "tf":
        return x / 127.5 - 1.0
    return keras.ops.flip(x, axis=-1) - np.array(IMAGENET_MEANS_BGR, np.float32)


def _layer(keras: Any, node: Node, initializers: dict[str, Any], policy: str) -> Any:
    """Make the Keras layer of a node. Data format and dtype are given, for a user's keras.json may say otherwise."""
    common: dict[str, Any] = {"name": node.name, "dtype": policy}
    last: dict[str, Any] = {**common, "data_format": "channels_last"}
    layers = keras.layers
    match node.op:
        case "conv":
            return layers.Conv2D(
                node.channels,
                node.window,
                strides=node.stride,
                padding=node.padding,
                use_bias=node.bias,
                activation=node.activation,
                **initializers,
                **last,
            )
        case "dense":
            return layers.Dense(node.channels, activation=node.activation, **initializers, **common)
        case "batch_norm":
            return layers.BatchNormalization(axis=-1, scale=node.scale, epsilon=node.epsilon, **initializers, **common)
        case "max_pool":
            return layers.MaxPooling2D(node.window, strides=node.stride, padding=node.padding, **last)
        case "avg_pool":
            return layers.AveragePooling2D(node.window, strides=node.stride, padding=node.padding, **last)
        case "zero_pad":
            return layers.ZeroPadding2D(node.border, **last)
        case "global_avg_pool":
            return layers.GlobalAveragePooling2D(**last)
        case "flatten":
            return layers.Flatten(**last)
        case "relu":
            return layers.Activation("relu", **common)
        case "add":
            return layers.Add(**common)
        case "concat":
            return layers.Concatenate(axis=-1, **common)
        case "input":
            raise ValueError("the input is no layer")
