"""What the ncnn engine holds in memory in each of its modes, and which of them is the fastest, without loading it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod

from streamer.backbones import Backbone, Output
from streamer.backbones.graph import Graph, Node
from streamer.engines.base import EngineCost, EngineMode
from streamer.engines.ncnn_bands import BANDS, banded_head
from streamer.engines.ncnn_modes import MODES, NcnnMode

__all__ = ["ncnn_cost", "ncnn_modes"]

_MIB = 2**20
_FLOAT_BYTES = 4

# Peak resident size in MiB, ncnn 20261020, 2 cores (AVX-512), Linux; less the 47 of Python, numpy and this package's
# own imports, which EngineCost leaves out. In brackets what ncnn_cost makes of it.
#
#                        f43         f43_f23        lean         leaner        plain
#   workers            1     2      1     2      1     2      1     2      1     2
#   vgg16 block5_pool  242   313    193   264    172   243    154   224    102   133
#                     (258) (332)  (208) (282)  (187) (261)  (169) (243)  (106) (136)
#   resnet50           179   196    172   193    142   162    139   160    140   145
#                     (178) (208)  (173) (203)  (142) (172)  (140) (170)  (139) (169)
#   inception_v3       177   245    177   245    168   236    168   238    112   132
#                     (195) (272)  (195) (272)  (186) (263)  (186) (263)  (132) (160)
#   vgg16 fc2          699   768                              611   680
#                     (714) (788)                            (625) (699)
#     mixed precision  474   544
#                     (486) (560)
#
# The fit: ncnn itself; the weights, as many times as the convolution's method keeps them; and for each worker its pools
# of memory, which keep what they have: a layer that wants more than any before it adds a block.
_LIBRARY_BYTES = 9 * _MIB
_LOADING_BYTES = 40 * _MIB
_KEPT_BYTES = 28 * _MIB  # 25 after VGG16 without its top
_POOL_BYTES = 24 * _MIB
_POOL_BYTES_DIRECT = 4 * _MIB
_THREAD_BYTES = 5 * _MIB
_COPIES_OF_WEIGHTS = {"f43": 4.0, "f23": 16 / 9, "product": 1.0, "direct": 1.0}

# Images per second relative to f43, VGG16 without its top.
_SPEED = {"f43": 1.0, "f43_f23": 0.87, "lean": 0.74, "leaner": 0.6, "plain": 0.22}
# How much each further thread of a worker slows them all: one worker with two threads gave 0.93 of two with one each.
_SHARING = 0.07


def ncnn_modes(
    backbone: Backbone,
    outputs: Sequence[Output],
    input_size: tuple[int, int] | None = None,
    *,
    threads: int | None = None,
    precision: str = "full",
) -> list[EngineMode]:
    """Return every way to run a backbone, the fastest first.

    Parameters
    ----------
    backbone : Backbone
    outputs : sequence of Output
    input_size : tuple of int, (height, width), optional
        In pixels; without it, the backbone's default.
    threads : int, optional
        In all; without it, one a core.
    precision : {"full", "mixed"}
    """
    threads = threads or os.cpu_count() or 1
    counts = {max(1, threads >> shift) for shift in range(threads.bit_length())}

    def speed(mode: EngineMode) -> float:
        return _SPEED[mode.name] / (1 + _SHARING * (threads // mode.workers - 1))

    modes = []
    for name in MODES:
        for workers in counts:
            cost = ncnn_cost(
                backbone, outputs, input_size, mode=name, workers=workers, threads=threads, precision=precision
            )
            modes.append(EngineMode(name, workers, cost))
    return sorted(modes, key=speed, reverse=True)


def ncnn_cost(
    backbone: Backbone,
    outputs: Sequence[Output],
    input_size: tuple[int, int] | None = None,
    *,
    mode: str = "f43",
    workers: int = 1,
    threads: int | None = None,
    precision: str = "full",
) -> EngineCost:
    """Estimate the memory of an `NcnnEngine`.

    Parameters
    ----------
    backbone : Backbone
    outputs : sequence of Output
    input_size : tuple of int, (height, width), optional
        In pixels; without it, the backbone's default.
    mode, workers, threads, precision
        See `NcnnEngine`; the threads are one a worker if they are left out.

    Returns
    -------
    EngineCost
        Up to 15 % off what was measured, mostly above.
    """
    wanted = {output.layer for output in outputs}
    graph = backbone.graph.until(wanted)
    shapes = graph.shapes(backbone.default_input_size if input_size is None else input_size)
    head = {node.name for node in banded_head(graph.nodes, shapes, wanted)}
    weights_bytes = _weights_bytes(graph, shapes, MODES[mode], head, 0.5 if precision == "mixed" else 1.0)
    worker_bytes = _worker_bytes(graph, shapes, MODES[mode], head)
    worker_bytes += sum(_FLOAT_BYTES * prod(shapes[layer]) for layer in wanted)
    worker_bytes += _THREAD_BYTES * max(0, (threads or workers) // workers - 1)
    base_bytes = _LIBRARY_BYTES + weights_bytes + max(_LOADING_BYTES, workers * worker_bytes)
    # A batch's pixels and features are the caller's: only what is in a worker's hands costs more.
    return EngineCost(base_bytes=base_bytes, per_image_bytes=0, kept_bytes=_KEPT_BYTES)


def _weights_bytes(
    graph: Graph, shapes: dict[str, tuple[int, ...]], mode: NcnnMode, head: set[str], dense_share: float
) -> int:
    total = 0.0
    for node in graph.nodes:
        if node.op == "dense":
            total += dense_share * prod(shapes[node.inputs[0]]) * node.channels
        elif node.op == "conv":
            kernel = prod(node.window) * shapes[node.inputs[0]][2] * node.channels
            total += _COPIES_OF_WEIGHTS[mode.method(node, shapes)] * kernel * (BANDS if node.name in head else 1)
    return int(_FLOAT_BYTES * total)


def _worker_bytes(graph: Graph, shapes: dict[str, tuple[int, ...]], mode: NcnnMode, head: set[str]) -> int:
    """Add up the layers that each want more than any before them."""
    blocks = largest = 0.0
    fixed_bytes = _POOL_BYTES_DIRECT
    for node in graph.nodes:
        if node.op == "conv":
            wanted = _work_numbers(node, shapes, mode) / (BANDS if node.name in head else 1)
            if wanted > largest:
                blocks += wanted
                largest = wanted
            if mode.method(node, shapes) != "direct":
                fixed_bytes = _POOL_BYTES
    return fixed_bytes + int(_FLOAT_BYTES * blocks)


def _work_numbers(node: Node, shapes: dict[str, tuple[int, ...]], mode: NcnnMode) -> float:
    """Return how many numbers a convolution holds: its input, its output, and the work space between.

    For Winograd's algorithm, from the peaks of single layers of 56 to 224 rows.
    """
    read, written = prod(shapes[node.inputs[0]]), prod(shapes[node.name])
    match mode.method(node, shapes):
        case "f43":
            return 3.9 * (read + written)
        case "f23":
            return 5.7 * (read + written)
        case "direct":
            return 3 * read + written
        case "product":
            unrolled = prod(shapes[node.name][:2]) * prod(node.window) * shapes[node.inputs[0]][2]
            return read + written + unrolled
