"""What the Keras engine holds in memory, estimated without loading it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from streamer.backbones import Backbone, Output
from streamer.engines.base import EngineCost

__all__ = ["keras_cost"]

_MIB = 2**20
_FLOAT_BYTES = 4

# Peak resident size in MiB, TensorFlow 2.21 on the CPU, 2 threads, Linux; less 35 for Python, numpy and h5py, which
# EngineCost leaves out. In brackets what keras_cost makes of it, with the 35.
#
#   batch                    1            8           32
#   vgg16 block5_pool  785 ( 845)  1008 (1017)  1539 (1605)
#   resnet50           766 ( 864)   895 ( 928)  1086 (1149)
#   inception_v3       769 ( 859)   907 ( 932)  1138 (1186)
#   vgg16 fc2         1846 (1946)  1845 (2118)  1994 (2706)
#
# The last line was 1935 on another machine.
#
# The fits: the runtime with its work space, plus the weights, plus for each image what the largest layer reads and
# writes; TensorFlow frees the rest as it goes. While it loads, the runtime is smaller but the weight being made is
# there three times (numpy's, the tensor's, the variable's), which decides for VGG16's fc1.
# The table is tensorflow-cpu's; the full tensorflow package holds some 50 MiB more, which are added.
_RUNNING_BYTES = (765 + 48 - 35) * _MIB
_LOADING_BYTES = (690 + 48 - 35) * _MIB
_COPIES_WHILE_LOADING = 3


def keras_cost(backbone: Backbone, outputs: Sequence[Output], input_size: tuple[int, int] | None = None) -> EngineCost:
    """Estimate the memory of a `KerasEngine`.

    Parameters
    ----------
    backbone : Backbone
    outputs : sequence of Output
    input_size : tuple of int, (height, width), optional
        In pixels; without it, the backbone's default.

    Returns
    -------
    EngineCost
        Up to 15 % above what was measured on the CPU for batches of 1 to 8; with VGG16's fully connected layers and
        larger batches, more.
    """
    graph = backbone.graph.until({output.layer for output in outputs})

    loaded_bytes = loading_bytes = 0
    for layer in graph.weights(backbone.default_input_size):
        for _, shape in layer.weights:
            weight_bytes = _FLOAT_BYTES * prod(shape)
            loading_bytes = max(loading_bytes, loaded_bytes + _COPIES_WHILE_LOADING * weight_bytes)
            loaded_bytes += weight_bytes

    shapes = graph.shapes(backbone.default_input_size if input_size is None else input_size)
    per_image_bytes = _FLOAT_BYTES * max(
        prod(shapes[node.name]) + sum(prod(shapes[name]) for name in node.inputs) for node in graph.nodes
    )
    return EngineCost(
        base_bytes=max(_RUNNING_BYTES + loaded_bytes, _LOADING_BYTES + loading_bytes),
        per_image_bytes=per_image_bytes,
        kept_bytes=_LOADING_BYTES,
    )
