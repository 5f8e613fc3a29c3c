"""Weights from a Keras file straight into ncnn's memory, one array at a time, in the order in which ncnn asks for them.

No converted file is kept: conversion is a transposition, and takes a fraction of the time in which ncnn packs the same
weights for the processor. So there is no cache to check, to bound, to find full or read-only, or to repair.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.backbones.graph import Node
from streamer.backbones.weights import LayerArrays, Weights
from streamer.engines.ncnn_writer import Kernel
from streamer.errors import StreamerError
from streamer.memory import give_back_memory

__all__ = ["load_weights"]

Array = NDArray[np.float32]

_BLOCK_OUTPUTS = 256
_FLOAT32_TAG = 0
# ncnn frees each kernel as it has packed it. Given back so often, VGG16 loads in 170 MB and not in 210.
_TIDY_BYTES = 16 * 2**20

# The one way to the memory that ncnn wants filled: it hands out a pointer in a capsule without a name.
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _Piece(NamedTuple):
    """What ncnn will ask for next: so many numbers, and what writes them."""

    what: str
    size: int
    write: Callable[[Array], None]


def load_weights(ncnn: Any, net: Any, kernels: Sequence[Kernel], weights: Weights) -> None:
    """Fill a network whose graph is loaded.

    Parameters
    ----------
    ncnn : module
    net : ncnn.Net
    kernels : sequence of Kernel
        What the graph needs, in order.
    weights : Weights

    Raises
    ------
    WeightsError
        If the file turns out to be damaged.
    """
    pieces = _pieces(kernels, weights)
    loaded = 0
    failures: list[BaseException] = []

    class Reader(ncnn.DataReader):  # type: ignore[misc]
        def read(self, buffer: object, size: int) -> int:
            nonlocal loaded
            try:
                _fill(next(pieces), buffer, size)
                if loaded // _TIDY_BYTES < (loaded := loaded + size) // _TIDY_BYTES:
                    give_back_memory()
            except BaseException as error:  # noqa: BLE001 - inside ncnn it would end the process; raised again below
                failures.append(error)
                return 0
            return size

    reader = Reader()
    code = net.load_model(reader)
    if failures:
        raise failures[0]
    if code != 0:
        raise StreamerError(f"ncnn could not load {weights.describe()} (code {code}): most likely out of memory")


def _fill(piece: _Piece, buffer: object, size: int) -> None:
    if size != 4 * piece.size:
        raise StreamerError(f"ncnn asks for {size} bytes as {piece.what}, which has {4 * piece.size}: another format")
    address = _pointer(buffer, None)
    memory = (ctypes.c_char * size).from_address(address)
    piece.write(np.frombuffer(memoryview(memory).cast("B"), np.float32))


def _pieces(kernels: Sequence[Kernel], weights: Weights) -> Iterator[_Piece]:
    """Give all that ncnn will read, in its order: for each kernel a tag, the kernel, the bias."""
    by_arrival: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        by_arrival.setdefault(kernel.norm.name if kernel.norm else kernel.layer, []).append(kernel)
    wait_for_norm = {kernel.layer for kernel in kernels if kernel.norm}
    held: dict[str, tuple[Array, Array]] = {}
    for record in weights.layers():
        if record.name in wait_for_norm:
            held[record.name] = (record.read("kernel"), _bias(record))
        for kernel in by_arrival.get(record.name, ()):
            if kernel.norm is not None:
                values, bias = _folded(*held.pop(kernel.layer), record, kernel.norm)
                yield from _kernel_pieces(kernel, values.size, _copied(values), bias)
            elif len(dict(record.weights)["kernel"]) == 4:
                values = _turned(record.read("kernel"))
                yield from _kernel_pieces(kernel, values.size, _copied(values), _bias(record))
            else:
                inputs = dict(record.weights)["kernel"][0]
                size = inputs * (kernel.last - kernel.first)
                yield from _kernel_pieces(
                    kernel, size, _dense(kernel, record), _bias(record)[kernel.first : kernel.last]
                )


def _kernel_pieces(kernel: Kernel, size: int, write: Callable[[Array], None], bias: Array) -> Iterator[_Piece]:
    yield _Piece(f"the tag of {kernel.layer}", 1, _copied(np.array([_FLOAT32_TAG], np.uint32).view(np.float32)))
    yield _Piece(f"the kernel of {kernel.layer}", size, write)
    yield _Piece(f"the bias of {kernel.layer}", bias.size, _copied(bias))


def _copied(values: Array) -> Callable[[Array], None]:
    def write(target: Array) -> None:
        target.reshape(values.shape)[...] = values

    return write


def _dense(kernel: Kernel, record: LayerArrays) -> Callable[[Array], None]:
    """Turn (in, out) to (out, in) block by block: VGG16's fc1 is never in memory as a whole."""

    def write(target: Array) -> None:
        rows = target.reshape(kernel.last - kernel.first, -1)
        for first in range(kernel.first, kernel.last, _BLOCK_OUTPUTS):
            last = min(first + _BLOCK_OUTPUTS, kernel.last)
            rows[first - kernel.first : last - kernel.first] = record.read("kernel", np.s_[:, first:last]).T

    return write


def _turned(kernel: Array) -> Array:
    """Turn a kernel (height, width, in, out) to (out, in, height, width)."""
    return np.transpose(kernel, (3, 2, 0, 1))


def _bias(record: LayerArrays) -> Array:
    weights = dict(record.weights)
    return record.read("bias") if "bias" in weights else np.zeros(weights["kernel"][-1], np.float32)


def _folded(kernel: Array, bias: Array, record: LayerArrays, norm: Node) -> tuple[Array, Array]:
    """Fold ``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` into the convolution that makes x (in float64)."""
    scale = 1 / np.sqrt(record.read("moving_variance").astype(np.float64) + norm.epsilon)
    if norm.scale:
        scale *= record.read("gamma")
    shift = (bias - record.read("moving_mean").astype(np.float64)) * scale + record.read("beta")
    return (_turned(kernel) * scale[:, None, None, None]).astype(np.float32), shift.astype(np.float32)
