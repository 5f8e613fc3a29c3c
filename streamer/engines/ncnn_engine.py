"""The engine that runs a backbone in ncnn: on the CPU, without TensorFlow, in little memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.backbones.registry import Backbone, Output, feature_shape
from streamer.backbones.weights import Weights
from streamer.engines.base import Engine
from streamer.engines.ncnn_graph import ncnn_graphs
from streamer.engines.ncnn_modes import MODES
from streamer.engines.ncnn_weights import load_weights
from streamer.engines.pooling import pool
from streamer.engines.preprocessing import preprocessed
from streamer.errors import EngineUnavailableError, StreamerError
from streamer.memory import give_back_memory

__all__ = ["NcnnEngine", "start_ncnn"]

Array = NDArray[np.float32]


class NcnnEngine(Engine):
    """Runs a backbone in ncnn, several images at a time over one copy of the weights.

    An image's features do not depend on the images beside it.

    Parameters
    ----------
    backbone : Backbone
    outputs : sequence of Output
    weights : Weights
        From `streamer.backbones.weights.resolve_weights`; with the top if an output needs it.
    batch_size : int
        The most images one call takes.
    input_size : tuple of int, (height, width), optional
        In pixels; without it, the backbone's default.
    threads : int, optional
        In all; without it, one a core.
    mode : {"f43", "f43_f23", "lean", "leaner", "plain"}
        From the fastest to the one that takes the least memory; see `NcnnMode`.
    workers : int, optional
        Images computed at the same time; the threads are shared out among them. Two workers with one thread each are as
        fast as one with two, or faster, and one has to wait less for the slowest thread; each needs its own work space.
    precision : {"full", "mixed"}
        With ``mixed``, fully connected layers keep their weights as float16: half the memory, relative error 1e-3.

    Attributes
    ----------
    mode : str
    workers : int
        As they came out.

    Raises
    ------
    ConfigError
        If an output does not exist or cannot be pooled, or the input size does not suit it.
    EngineUnavailableError
        If ncnn is not installed.
    WeightsError
        If the weights turn out to be damaged.
    """

    name = "ncnn"
    device = "cpu"

    def __init__(
        self,
        backbone: Backbone,
        outputs: Sequence[Output],
        weights: Weights,
        *,
        batch_size: int,
        input_size: tuple[int, int] | None = None,
        threads: int | None = None,
        mode: str = "f43",
        workers: int | None = None,
        precision: str = "full",
    ) -> None:
        self.batch_size = batch_size
        self.input_size = backbone.default_input_size if input_size is None else input_size
        self.outputs = {output.name: feature_shape(backbone, output, self.input_size) for output in outputs}
        self._preprocessing = backbone.preprocessing
        self._layers: dict[str, list[Output]] = {}
        for output in outputs:
            self._layers.setdefault(output.layer, []).append(output)

        self._ncnn = start_ncnn()
        threads = threads or os.cpu_count() or 1
        self.mode = mode
        self.workers = max(1, min(workers or threads, threads, batch_size))
        half_dense = precision == "mixed"
        self._graphs = ncnn_graphs(
            backbone.graph, list(self._layers), self.input_size, MODES[mode], half_dense=half_dense
        )
        self._nets: list[Any] = []
        for graph in self._graphs:
            net = self._ncnn.Net()
            # Before the graph and the weights: both are prepared for these options.
            _set_options(net.opt, threads // self.workers, f43=graph.f43, half_dense=half_dense)
            if net.load_param_mem(graph.text) != 0:
                raise StreamerError(f"ncnn refuses the graph of {backbone.name}; please report this")
            load_weights(self._ncnn, net, graph.kernels, weights)
            self._nets.append(net)
        self._thread = threading.local()
        give_back_memory()  # 35 MB of VGG16's: each kernel as it was before it was packed
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="ncnn")

    def _extract(self, pixels: NDArray[np.uint8]) -> dict[str, Array]:
        features = {name: np.empty((len(pixels), *shape), np.float32) for name, shape in self.outputs.items()}

        def run(index: int) -> None:
            for name, values in self._forward(pixels[index]):
                features[name][index] = values

        for _ in self._pool.map(run, range(len(pixels))):
            pass
        return features

    def _forward(self, pixels: NDArray[np.uint8]) -> list[tuple[str, Array]]:
        """Run one image; return its features by the outputs' names."""
        # A Mat made of an array borrows its memory, so the array must outlive it; and a copy is needed, for some layers
        # (Crop) take it that channels begin at multiples of 16 bytes, as ncnn's own do, and numpy's need not.
        prepared = preprocessed(pixels, self._preprocessing)
        blobs = {"input": self._ncnn.Mat(prepared).clone()}
        found = []
        for net, graph in zip(self._nets, self._graphs, strict=True):
            extractor = net.create_extractor()
            blob_pool, work_pool = self._pools()
            extractor.set_blob_allocator(blob_pool)
            extractor.set_workspace_allocator(work_pool)
            for layer, blob in graph.inputs.items():
                extractor.input(blob, blobs.pop(layer))
            for layer, blob in graph.outputs.items():
                code, blobs[layer] = extractor.extract(blob)
                if code != 0:
                    raise MemoryError(f"ncnn could not compute {layer} (code {code}): most likely out of memory")
                values = np.asarray(blobs[layer])
                if values.ndim == 3:
                    values = values.transpose(1, 2, 0)  # ncnn: (channels, height, width)
                # Still ncnn's memory where it is not pooled: the caller copies it.
                outputs = self._layers.get(layer, ())
                found += [(output.name, pool(values[None], output.pooling, output.grid)[0]) for output in outputs]
        return found

    def _pools(self) -> tuple[Any, Any]:
        """Return this thread's pools of memory, for maps and for work space.

        ncnn's own belong to a net, so that two nets keep twice the memory: with these, VGG16 on two workers took 331
        instead of 383 MB.
        """
        if not hasattr(self._thread, "pools"):
            self._thread.pools = self._ncnn.UnlockedPoolAllocator(), self._ncnn.PoolAllocator()
            for pool_ in self._thread.pools:
                pool_.set_size_compare_ratio(0)  # any block that is large enough will do
        pools: tuple[Any, Any] = self._thread.pools
        return pools

    def close(self) -> None:
        """Let go of the network; a second call does nothing."""
        self._pool.shutdown()
        for net in self._nets:
            net.clear()


def start_ncnn() -> Any:
    """Import ncnn.

    Raises
    ------
    EngineUnavailableError
        If it is not installed, or does not run on this machine.
    """
    try:
        import ncnn
    except (ImportError, OSError) as error:
        raise EngineUnavailableError(
            f"engine: ncnn, but it cannot be loaded ({error}). Run `pip install ncnn`; where there is no wheel for "
            "this platform, set engine: keras (pip install 'streamer[keras]')"
        ) from error
    return ncnn


def _set_options(options: Any, threads: int, *, f43: bool, half_dense: bool) -> None:
    options.num_threads = threads
    options.lightmode = True  # frees a layer's input, and its kernel as it was before it was packed
    options.use_vulkan_compute = False
    options.use_winograd_convolution = True
    options.use_winograd63_convolution = False
    options.use_winograd43_convolution = f43
    options.use_winograd23_convolution = True
    # Everything in float32, but what the graph lets be otherwise.
    options.use_fp16_storage = half_dense
    for name in ("fp16_packed", "fp16_arithmetic", "bf16_storage", "bf16_packed", "int8_inference"):
        setattr(options, f"use_{name}", False)
