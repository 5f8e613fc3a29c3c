"""From trained weights to what is shipped: an HDF5 file that the package reads, its graph, and its card.

The same input gives the same bytes, so that a file can be made again and compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.backbones import get_backbone
from streamer.backbones.graph import Graph, Node
from streamer.backbones.graph_text import graph_text

__all__ = ["BACKBONE", "SHIPPED_WIDTH", "card_text", "compact_graph", "export", "folded", "read_npz"]

BACKBONE = "vgg16_compact"
SHIPPED_WIDTH = Fraction(3, 8)
_INPUT_SIZE = (64, 64)
_LARGEST_HALF = float(np.finfo(np.float16).max)

Arrays = Mapping[str, NDArray[np.floating[Any]]]
"""Weights by ``layer/kernel`` ``(height, width, in, out)`` and ``layer/bias`` ``(out,)``."""


def folded(
    kernel: NDArray[np.float32],
    gamma: NDArray[np.float32],
    beta: NDArray[np.float32],
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    epsilon: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold ``(x * kernel - mean) / sqrt(variance + epsilon) * gamma + beta`` into one convolution (in float64).

    Parameters
    ----------
    kernel : ndarray of shape (height, width, in, out)
        Of a convolution without a bias.
    gamma, beta, mean, variance : ndarray of shape (out,)
        Of the batch normalisation behind it, the latter two as its moving averages.
    epsilon : float

    Returns
    -------
    kernel : float32 ndarray of shape (height, width, in, out)
    bias : float32 ndarray of shape (out,)
    """
    scale = gamma / np.sqrt(variance.astype(np.float64) + epsilon)
    return (kernel * scale).astype(np.float32), (beta - mean * scale).astype(np.float32)


def compact_graph(width: Fraction = SHIPPED_WIDTH) -> Graph:
    """Return VGG16 without its top, every convolution at that share of its channels."""
    whole = get_backbone("vgg16").graph.until({"block5_pool"})

    def narrowed(node: Node) -> Node:
        channels = node.channels * width
        if channels.denominator != 1:
            raise ValueError(f"{node.name} would have {channels} channels; take a width in sixty-fourths")
        return replace(node, channels=int(channels)) if node.op == "conv" else node

    return Graph(tuple(map(narrowed, whole.nodes)))


def read_npz(path: Path) -> dict[str, NDArray[np.floating[Any]]]:
    """Read folded weights from an ``.npz`` file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def export(arrays: Arrays, record: Mapping[str, Any], folder: Path, graph: Graph | None = None) -> Path:
    """Write ``vgg16_compact.h5``, ``vgg16_compact.txt`` (its graph) and ``CARD.md``.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Folded weights.
    record : mapping
        How they came about: see `card_text`.
    folder : Path
        Made when missing.
    graph : Graph, optional
        Another width than the one that is shipped.

    Returns
    -------
    Path
        The weights.

    Raises
    ------
    ValueError
        If the weights are not those of the network, or are no numbers that float16 can hold.
    """
    graph = graph or get_backbone(BACKBONE).graph
    layers = list(_checked(arrays, graph))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{BACKBONE}.h5"
    # No times and no driver newer than the oldest: the bytes depend on the weights alone.
    with h5py.File(path, "w", libver="earliest", track_order=False) as file:
        file.attrs["layer_names"] = np.array([name for name, _ in layers], dtype="S")
        for name, weights in layers:
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([f"{name}/{weight}:0" for weight in weights], dtype="S")
            for weight, values in weights.items():
                group.create_dataset(f"{name}/{weight}:0", data=values, track_times=False)
    (folder / f"{BACKBONE}.txt").write_text(graph_text(graph), encoding="utf-8", newline="\n")
    (folder / "CARD.md").write_text(card_text(record, path, graph), encoding="utf-8", newline="\n")
    return path


def _checked(arrays: Arrays, graph: Graph) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Give each layer's kernel as float16 and bias as float32, in the network's order."""
    layout = graph.weights(_INPUT_SIZE)
    expected = {f"{layer.name}/{weight}": shape for layer in layout for weight, shape in layer.weights}
    found = {name: tuple(values.shape) for name, values in arrays.items()}
    if found != expected:
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ValueError(
            f"these are not the weights of {BACKBONE}: {wrong[0]} is {found.get(wrong[0], 'missing')}, "
            f"and should be {expected.get(wrong[0], 'absent')} ({len(wrong)} differ)"
        )
    for layer in layout:
        weights = {}
        for weight, _ in layer.weights:
            values = np.asarray(arrays[f"{layer.name}/{weight}"], np.float32)
            if not (np.abs(values) <= _LARGEST_HALF).all():
                raise ValueError(f"{layer.name}/{weight} holds what is no number, or too large for float16")
            weights[weight] = values.astype(np.float16 if weight == "kernel" else np.float32)
        yield layer.name, weights


def card_text(record: Mapping[str, Any], weights: Path, graph: Graph) -> str:
    """Describe weights for those who will use them.

    Parameters
    ----------
    record : mapping
        ``data`` (text), ``recipe`` (mapping of option to value), ``figures`` (list of tables, each ``title``, ``head``
        and ``rows``), ``limits`` (list of text).
    weights : Path
    graph : Graph
    """
    content = weights.read_bytes()
    count = sum(int(np.prod(shape)) for layer in graph.weights(_INPUT_SIZE) for _, shape in layer.weights)
    lines = [
        f"# {BACKBONE}",
        "",
        "Written by `scripts/train_compact.py`: do not edit.",
        "",
        f"`{weights.name}`: {count:,} weights, batch normalisation folded away; kernels float16, biases float32; "
        f"{len(content):,} bytes, SHA-256 `{hashlib.sha256(content).hexdigest()}`.",
        "",
        "## Data",
        "",
        record["data"],
        "",
        "## Recipe",
        "",
        *(f"- {option.replace('_', ' ')}: {_value(value)}" for option, value in record["recipe"].items()),
        "",
        "## Figures",
        "",
    ]
    for table in record["figures"]:
        lines += [table["title"], "", _row(table["head"]), _row(["---"] * len(table["head"]))]
        lines += [*map(_row, table["rows"]), ""]
    return "\n".join([*lines, "## Limits", "", *(f"- {limit}" for limit in record["limits"]), ""])


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
