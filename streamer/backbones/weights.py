"""Where a backbone's weights come from, and how to read them one array at a time, without Keras."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.backbones.choice import named_weights
from streamer.backbones.fetch import (
    KERAS_FILES,
    Progress,
    bundled_path,
    fetch_weights,
    file_digest,
    imagenet_path,
    missing_weights,
)
from streamer.backbones.graph import LayerWeights
from streamer.backbones.keras_h5 import file_layers, opened, unreadable
from streamer.backbones.matching import FileLayer, LayerMismatch, match_layers
from streamer.backbones.registry import BACKBONES, Backbone
from streamer.errors import WeightsError

__all__ = ["LayerArrays", "RandomWeights", "Weights", "WeightsFile", "resolve_weights"]

_log = logging.getLogger(__name__)

_RANDOM_SCHEME = "he-normal-1"
_OUTPUTS_A_DRAW = 64
_NUMBERS_A_SLICE = 2**20

Index = Any
"""What a numpy array can be indexed by: ``...`` or a tuple of slices."""


class LayerArrays(NamedTuple):
    """The weights of one layer, to be read on demand.

    Attributes
    ----------
    name : str
        Name of the layer in the network.
    weights : tuple of (str, tuple of int)
        Name and shape of each weight, in Keras' order; a kernel is ``(height, width, in, out)`` or ``(in, out)``.
    read : callable
        ``read("kernel")`` gives the whole weight as a float32 ndarray; ``read("kernel", np.s_[:, 0:256])`` a part of
        it, so that VGG16's fc1 (411 MB) never needs to be in memory at once. Works only until the iterator that gave
        this record moves on.
    """

    name: str
    weights: tuple[tuple[str, tuple[int, ...]], ...]
    read: Callable[..., NDArray[np.float32]]


class Weights(Protocol):
    """Weights of one backbone, wherever they come from."""

    @property
    def sha256(self) -> str:
        """What tells these weights from others, 64 hexadecimal digits."""

    def describe(self) -> str:
        """Say in a few words where the weights come from."""

    def layers(self) -> Iterator[LayerArrays]:
        """Give the layers that have weights, in Keras' model order."""


@dataclass(frozen=True)
class WeightsFile:
    """Weights in a Keras HDF5 file that was checked against the network.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the file's bytes.
    expected : tuple of LayerWeights
    matched : tuple of FileLayer
        Where each expected layer lies in the file.
    """

    path: Path
    sha256: str
    expected: tuple[LayerWeights, ...]
    matched: tuple[FileLayer, ...]

    def describe(self) -> str:
        """Name the file."""
        return str(self.path)

    def layers(self) -> Iterator[LayerArrays]:
        """Give the layers that have weights, in Keras' model order; the file stays open meanwhile."""
        with opened(self.path) as file:
            for layer, place in zip(self.expected, self.matched, strict=True):
                paths = {name: path for (name, _), (path, _) in zip(layer.weights, place.weights, strict=True)}

                def read(name: str, index: Index = ..., paths: dict[str, str] = paths) -> NDArray[np.float32]:
                    try:
                        return _as_float32(file[paths[name]], index)
                    except (OSError, RuntimeError) as error:
                        raise unreadable(self.path, error) from error

                yield LayerArrays(layer.name, layer.weights, read)


def _as_float32(dataset: Any, index: Index) -> NDArray[np.float32]:
    """Read an array of the file; one of another precision is cast a slice at a time, never held twice as a whole."""
    if dataset.dtype == np.float32 or index is not ...:
        return np.asarray(dataset[index], dtype=np.float32)
    values = np.empty(dataset.shape, np.float32)
    # HDF5 can cast, too: a kernel of 331,776 numbers took it 20 ms, and numpy 1 ms.
    step = max(1, _NUMBERS_A_SLICE // max(1, prod(dataset.shape[1:])))
    for first in range(0, len(values), step):
        values[first : first + step] = dataset[first : first + step]
    return values


@dataclass(frozen=True)
class RandomWeights:
    """Weights drawn from a seed: every engine gets the same, and no file is needed. For tests only.

    Kernels are He normal: mean 0, variance 2 / fan-in (He et al. 2015, eq. 10). Biases, betas and moving means are 0;
    gammas and moving variances 1.

    Attributes
    ----------
    backbone : Backbone
    top : bool
        Whether the fully connected layers are wanted too.
    seed : int
    """

    backbone: Backbone
    top: bool
    seed: int = 0

    @cached_property
    def sha256(self) -> str:
        """Hash of the scheme's name and the seed."""
        return hashlib.sha256(f"{_RANDOM_SCHEME}:{self.seed}".encode()).hexdigest()

    def describe(self) -> str:
        """Name the seed."""
        return f"random weights (seed {self.seed}), for tests only"

    def layers(self) -> Iterator[LayerArrays]:
        """Give the layers that have weights, in Keras' model order."""
        for number, layer in enumerate(self.backbone.weight_layout(top=self.top)):
            shapes = dict(layer.weights)

            def read(
                name: str, index: Index = ..., number: int = number, shapes: dict[str, tuple[int, ...]] = shapes
            ) -> NDArray[np.float32]:
                if name == "kernel":
                    return self._kernel(number, shapes[name], index)
                value = 1.0 if name in ("gamma", "moving_variance") else 0.0
                return np.full(shapes[name], value, np.float32)[index]

            yield LayerArrays(layer.name, layer.weights, read)

    def _kernel(self, number: int, shape: tuple[int, ...], index: Index) -> NDArray[np.float32]:
        """Draw a kernel, or as much of it as a slice over its outputs (the last axis) asks for.

        Each block of outputs has a generator of its own, so that a part is drawn without the rest.
        """
        fan_in, outputs = prod(shape[:-1]), shape[-1]
        last = index[-1] if isinstance(index, tuple) and len(index) == len(shape) else slice(None)
        start, stop, _ = last.indices(outputs) if isinstance(last, slice) else (0, outputs, 1)
        first_block = start // _OUTPUTS_A_DRAW
        first = first_block * _OUTPUTS_A_DRAW
        kernel = np.empty((fan_in, min(-(-stop // _OUTPUTS_A_DRAW) * _OUTPUTS_A_DRAW, outputs) - first), np.float32)
        scale = np.float32(np.sqrt(2 / fan_in))
        for begin in range(0, kernel.shape[1], _OUTPUTS_A_DRAW):
            block = kernel[:, begin : begin + _OUTPUTS_A_DRAW]
            generator = np.random.default_rng((self.seed, number, first_block + begin // _OUTPUTS_A_DRAW))
            block[...] = generator.standard_normal(block.shape[::-1], dtype=np.float32).T * scale
        part = kernel.reshape(*shape[:-1], -1)
        if isinstance(last, slice) and last != slice(None):
            index = (*index[:-1], slice(start - first, max(start, stop) - first, last.step))
        return np.ascontiguousarray(part[index])


def resolve_weights(
    backbone: Backbone,
    source: str,
    needs_top: bool,
    *,
    seed: int = 0,
    download: bool = False,
    progress: Progress | None = None,
) -> WeightsFile | RandomWeights:
    """Find the weights of a backbone and check that they are its own.

    Parameters
    ----------
    backbone : Backbone
    source : str
        ``"auto"`` (the backbone's own, one of the next two), ``"imagenet"``, ``"bundled"``, ``"random"``, or the path
        of a Keras ``.h5`` or ``.weights.h5`` file.
    needs_top : bool
        Whether the fully connected layers are needed.
    seed : int
        Of random weights.
    download : bool
        Whether to fetch ImageNet weights that are not on this machine.
    progress : callable, optional
        See `fetch_weights`.

    Raises
    ------
    ConfigError
        If the backbone has no weights of that kind.
    WeightsError
        If there is no such file, or it is damaged or holds the weights of another network.
    """
    source = named_weights(backbone, source)
    if source == "random":
        _log.warning("RANDOM WEIGHTS (seed %d): the features mean nothing; for tests only", seed)
        return RandomWeights(backbone, needs_top, seed)
    if source == "bundled":
        return _weights_file(bundled_path(backbone.name), backbone, needs_top)
    if source != "imagenet":
        return _weights_file(Path(source).expanduser(), backbone, needs_top)

    path = imagenet_path(backbone.name, top=needs_top)
    if not path.exists():
        if not download:
            raise missing_weights(backbone.name, top=needs_top)
        fetch_weights(backbone.name, top=needs_top, progress=progress)
    elif file_digest(path, "md5") != KERAS_FILES[backbone.name, needs_top].md5:
        raise WeightsError(
            f"{path} is damaged, or not the file that Keras published: its MD5 is not "
            f"{KERAS_FILES[backbone.name, needs_top].md5}. Run `streamer weights fetch {backbone.name}` to replace it"
        )
    return _weights_file(path, backbone, needs_top)


def _weights_file(path: Path, backbone: Backbone, needs_top: bool) -> WeightsFile:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"weights: {path} {what}; give a Keras .h5 file, or one of auto, imagenet, bundled, random")
    found = file_layers(path)
    expected = backbone.weight_layout(top=needs_top)
    try:
        matched = match_layers(expected, found)
    except LayerMismatch as mismatch:
        raise WeightsError(
            f"{path} does not hold the weights of {backbone.name}{'' if needs_top else ' (without top)'}: {mismatch}. "
            f"The file has {len(found)} layers with weights, the network {len(expected)}.{_likeness(found)}"
        ) from None
    return WeightsFile(path, file_digest(path, "sha256"), tuple(expected), tuple(matched))


def _likeness(found: list[FileLayer]) -> str:
    """Say which backbone the file fits, if it fits another."""
    for other in BACKBONES.values():
        for top in (True, False):
            try:
                match_layers(other.weight_layout(top=top), found)
            except LayerMismatch:
                continue
            return f" It looks like a file of {other.name}{'' if top else ' without its top'}"
    return ""
