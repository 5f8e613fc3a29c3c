"""Choosing an engine by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from streamer.backbones import Backbone, Output, Weights
from streamer.engines.base import Engine, EngineMode
from streamer.engines.ncnn_cost import ncnn_modes
from streamer.engines.ncnn_engine import NcnnEngine, start_ncnn
from streamer.errors import ConfigError, EngineUnavailableError

__all__ = ["ENGINES", "choose_engine", "engine_modes", "open_engine"]

_log = logging.getLogger(__name__)

ENGINES = ("auto", "ncnn", "keras")


def choose_engine(name: str, device: str = "cpu") -> str:
    """Return which engine to run: ``"ncnn"`` or ``"keras"``.

    Parameters
    ----------
    name : {"auto", "ncnn", "keras"}
        ``auto`` is ncnn on the CPU, Keras on a GPU.
    device : {"cpu", "gpu"}

    Raises
    ------
    ConfigError
        If there is no engine of that name.
    EngineUnavailableError
        If ncnn is asked for on a GPU.
    """
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}; take one of {', '.join(ENGINES)}")
    if name == "ncnn" and device == "gpu":
        raise EngineUnavailableError("engine: ncnn runs on the CPU only; set device: cpu, or engine: keras")
    if name != "auto":
        return name
    if device == "gpu":
        return "keras"
    return _cpu_engine()


@cache
def _cpu_engine() -> str:
    """Return the better engine that there is; say only once that it is not the best."""
    try:
        start_ncnn()
    except EngineUnavailableError as error:
        _log.warning("Keras runs the network, slower and in more memory than ncnn could: %s", error.__cause__)
        return "keras"
    return "ncnn"


def open_engine(
    name: str,
    backbone: Backbone,
    outputs: Sequence[Output],
    weights: Weights,
    *,
    batch_size: int,
    input_size: tuple[int, int] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    gpu_memory_fraction: float | None = None,
    mode: EngineMode | None = None,
    precision: str = "full",
) -> Engine:
    """Load a backbone into an engine.

    Parameters
    ----------
    name : {"auto", "ncnn", "keras"}
        See `choose_engine`.
    backbone, outputs, weights, batch_size, input_size, device, threads, gpu_memory_fraction
        See `KerasEngine` and `NcnnEngine`.
    mode : EngineMode, optional
        One of `engine_modes`; without it, the fastest.
    precision : {"full", "mixed"}
        With ``mixed``, an engine may keep the weights of fully connected layers as float16; ncnn does.

    Raises
    ------
    ConfigError
        If there is no engine of that name, or an output or the input size does not suit the backbone.
    EngineUnavailableError
        If the engine or the device is not there.
    """
    if choose_engine(name, device) == "ncnn":
        chosen = mode or engine_modes(name, backbone, outputs, input_size, threads=threads, precision=precision)[0]
        return NcnnEngine(
            backbone,
            outputs,
            weights,
            batch_size=batch_size,
            input_size=input_size,
            threads=threads,
            mode=chosen.name,
            workers=chosen.workers,
            precision=precision,
        )
    from streamer.engines.keras_engine import KerasEngine

    return KerasEngine(
        backbone,
        outputs,
        weights,
        batch_size=batch_size,
        input_size=input_size,
        device=device,
        threads=threads,
        gpu_memory_fraction=gpu_memory_fraction,
    )


def engine_modes(
    name: str,
    backbone: Backbone,
    outputs: Sequence[Output],
    input_size: tuple[int, int] | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "full",
) -> list[EngineMode]:
    """Return the ways to run a backbone, the fastest first, with what each will hold in memory. Loads nothing.

    Parameters
    ----------
    name : {"auto", "ncnn", "keras"}
    backbone : Backbone
    outputs : sequence of Output
    input_size : tuple of int, (height, width), optional
        In pixels; without it, the backbone's default.
    device, threads, precision
        As `open_engine` will get them.
    """
    if choose_engine(name, device) == "ncnn":
        return ncnn_modes(backbone, outputs, input_size, threads=threads, precision=precision)
    from streamer.engines.keras_cost import keras_cost

    return [EngineMode("keras", 1, keras_cost(backbone, outputs, input_size))]
