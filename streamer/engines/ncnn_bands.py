"""Running the first layers in bands of rows: their maps are so large that the work space there sets the peak.

VGG16's second convolution, on 224 x 224 x 64, holds 105 MB with Winograd's F(4,3): more than any other layer. In two
bands, which overlap by the rows that the convolutions reach over, the peak of the whole engine fell by 70 MB (two
workers: by 80), at the same speed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import ceil, prod
from typing import NamedTuple

from streamer.backbones.graph import Node

__all__ = ["BANDS", "Band", "banded_head", "bands", "border"]

# Layers with maps of more numbers than this run in bands. Two of equal size: a pool of blocks serves those best.
_LARGE_MAP = 1_700_000
BANDS = 2

Rows = tuple[int, int]
"""First row, and the row after the last."""


class Band(NamedTuple):
    """The rows of one layer's output that belong to a band, and how they come about.

    Attributes
    ----------
    rows : tuple of int
    top, bottom : int
        Rows of zeros to put around the band's input: only where the map itself ends.
    """

    rows: Rows
    top: int
    bottom: int


def banded_head(nodes: Sequence[Node], shapes: dict[str, tuple[int, ...]], wanted: Collection[str]) -> list[Node]:
    """Return the layers behind the input to run in bands: convolutions and poolings in a row, up to a pooling.

    Parameters
    ----------
    nodes : sequence of Node
        The network; the first is its input.
    shapes : dict of str to tuple of int
        Of each layer's output.
    wanted : collection of str
        Layers whose output must be had as a whole.

    Returns
    -------
    list of Node
        Empty when the maps are small, or `wanted`, or the network does not begin like that.
    """
    chain: list[Node] = []
    length = 0
    before = nodes[0].name
    for node in nodes[1:]:
        read_once = sum(before in other.inputs for other in nodes) == 1 and before not in wanted
        if node.inputs != (before,) or node.op not in ("conv", "max_pool") or not read_once:
            break
        chain.append(node)
        if node.op == "max_pool" and prod(shapes[before]) > _LARGE_MAP:
            length = len(chain)
        before = node.name
    return chain[:length]


def bands(head: Sequence[Node], shapes: dict[str, tuple[int, ...]]) -> list[dict[str, Band]]:
    """Cut the map that the last layer makes into bands of rows, and find what each needs of the layers before it.

    Returns
    -------
    list of dict of str to Band
        For each band, from the top: the rows of each layer of the head, and of the input that the first one reads.
    """
    height = shapes[head[-1].name][0]
    found = []
    for number in range(BANDS):
        rows = height * number // BANDS, height * (number + 1) // BANDS
        band: dict[str, Band] = {}
        for node in reversed(head):
            available = shapes[node.inputs[0]][0]
            first = rows[0] * node.stride - border(node, available, axis=0)[0]
            last = (rows[1] - 1) * node.stride + node.window[0] + first - rows[0] * node.stride
            band[node.name] = Band(rows, max(0, -first), max(0, last - available))
            rows = max(0, first), min(last, available)
        band[head[0].inputs[0]] = Band(rows, 0, 0)
        found.append(band)
    return found


def border(node: Node, size: int, axis: int) -> tuple[int, int]:
    """Return how many zeros Keras puts before and after an axis (0: rows, 1: columns) of `size` pixels."""
    if node.padding == "valid":
        return 0, 0
    total = max(0, (ceil(size / node.stride) - 1) * node.stride + node.window[axis] - size)
    return total // 2, total - total // 2
