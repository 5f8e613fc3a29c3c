"""A network written down as plain data: enough to know every layer's shape and weights without loading Keras.

The layer names, the order of the layers and the order of a layer's weights are those of Keras, since they are what ties
a weights file to a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal, NamedTuple

__all__ = ["Graph", "LayerWeights", "Node", "Op"]

Op = Literal[
    "input",
    "zero_pad",
    "conv",
    "batch_norm",
    "relu",
    "max_pool",
    "avg_pool",
    "add",
    "concat",
    "global_avg_pool",
    "flatten",
    "dense",
]

# What Keras calls a layer that was given no name, before it adds a number.
_AUTO_NAME: dict[Op, str] = {
    "conv": "conv2d",
    "batch_norm": "batch_normalization",
    "relu": "activation",
    "max_pool": "max_pooling2d",
    "avg_pool": "average_pooling2d",
    "concat": "concatenate",
}


@dataclass(frozen=True, slots=True)
class Node:
    """One layer of a network.

    Attributes
    ----------
    name : str
        Keras' name of the layer, in a session that has built nothing before.
    op : Op
        What it computes.
    inputs : tuple of str
        Names of the layers it reads.
    channels : int
        Filters of a convolution, units of a dense layer.
    window : tuple of int, (height, width)
        Kernel of a convolution, window of a pooling layer.
    stride : int
        The same along height and width.
    padding : {"valid", "same"}
        As in Keras. Average pooling with "same" leaves the padding out of the mean.
    border : int
        Rows and columns of zeros that ``zero_pad`` puts on each side.
    bias : bool
        Whether a convolution has one (a dense layer always does).
    scale : bool
        Whether a batch normalisation has a gamma.
    epsilon : float
        Added to the variance by a batch normalisation.
    activation : {"linear", "relu", "softmax"}
        Of a convolution or a dense layer.
    """

    name: str
    op: Op
    inputs: tuple[str, ...] = ()
    channels: int = 0
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Literal["valid", "same"] = "valid"
    border: int = 0
    bias: bool = True
    scale: bool = True
    epsilon: float = 1e-3
    activation: Literal["linear", "relu", "softmax"] = "linear"

    @property
    def auto_named(self) -> bool:
        """Whether Keras made the name up: then it means nothing in a file."""
        return self.op in _AUTO_NAME and re.fullmatch(rf"{_AUTO_NAME[self.op]}(_\d+)?", self.name) is not None


class LayerWeights(NamedTuple):
    """The weights that one layer has, in Keras' order.

    Attributes
    ----------
    name : str
        Name of the layer.
    weights : tuple of (str, tuple of int)
        Name and shape of each; a kernel is ``(height, width, in, out)`` or ``(in, out)``, float32.
    auto_named : bool
        Whether `name` is one that Keras made up.
    """

    name: str
    weights: tuple[tuple[str, tuple[int, ...]], ...]
    auto_named: bool


@dataclass(frozen=True)
class Graph:
    """A network: its layers in the order of ``keras.Model.layers``, in which each comes after those that it reads."""

    nodes: tuple[Node, ...]

    def until(self, layers: set[str]) -> Graph:
        """Return the part of the network that the `layers` need."""
        needed = set(layers)
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        return Graph(tuple(node for node in self.nodes if node.name in needed))

    def shapes(self, input_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each layer's output for one image.

        Parameters
        ----------
        input_size : tuple of int, (height, width)
            In pixels.

        Returns
        -------
        dict of str to tuple of int
            ``(height, width, channels)`` for a map, ``(n,)`` for a vector.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for node in self.nodes:
            shapes[node.name] = _output_shape(node, [shapes[name] for name in node.inputs], input_size)
        return shapes

    def weights(self, input_size: tuple[int, int]) -> list[LayerWeights]:
        """Return the layers that have weights, in the order of ``keras.Model.layers``.

        Parameters
        ----------
        input_size : tuple of int, (height, width)
            In pixels; it matters only to a dense layer behind a flattened map.
        """
        shapes = self.shapes(input_size)
        layers = []
        for node in self.nodes:
            weights = tuple(_node_weights(node, shapes))
            if weights:
                layers.append(LayerWeights(node.name, weights, node.auto_named))
        return layers


def _output_shape(node: Node, inputs: list[tuple[int, ...]], input_size: tuple[int, int]) -> tuple[int, ...]:
    match node.op:
        case "input":
            return (*input_size, 3)
        case "zero_pad":
            height, width, channels = inputs[0]
            return (height + 2 * node.border, width + 2 * node.border, channels)
        case "conv":
            return (*_slid(node, inputs[0]), node.channels)
        case "max_pool" | "avg_pool":
            return (*_slid(node, inputs[0]), inputs[0][2])
        case "concat":
            return (*inputs[0][:2], sum(shape[2] for shape in inputs))
        case "global_avg_pool":
            return (inputs[0][2],)
        case "flatten":
            return (prod(inputs[0]),)
        case "dense":
            return (node.channels,)
        case "batch_norm" | "relu" | "add":
            return inputs[0]


def _slid(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width after sliding the node's window over a map."""
    if node.padding == "same":
        return ceil(shape[0] / node.stride), ceil(shape[1] / node.stride)
    return (shape[0] - node.window[0]) // node.stride + 1, (shape[1] - node.window[1]) // node.stride + 1


def _node_weights(node: Node, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    if node.op == "conv":
        yield "kernel", (*node.window, shapes[node.inputs[0]][2], node.channels)
        if node.bias:
            yield "bias", (node.channels,)
    elif node.op == "dense":
        yield "kernel", (shapes[node.inputs[0]][0], node.channels)
        yield "bias", (node.channels,)
    elif node.op == "batch_norm":
        channels = shapes[node.inputs[0]][2]
        if node.scale:
            yield "gamma", (channels,)
        yield "beta", (channels,)
        yield "moving_mean", (channels,)
        yield "moving_variance", (channels,)
