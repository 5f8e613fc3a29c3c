"""The ways in which ncnn can compute convolutions: the faster ones need more memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from streamer.backbones.graph import Node

__all__ = ["MODES", "Method", "NcnnMode"]

Method = Literal["f43", "f23", "product", "direct"]
"""How one convolution is computed.

Winograd's F(4 x 4, 3 x 3), ``f43``, multiplies 4 times less than the plain sum but keeps 4 times the weights, and
F(2 x 2, 3 x 3), ``f23``, multiplies 2.25 times less and keeps 1.8 times the weights (Lavin and Gray 2016). ``product``
is a product of matrices, for which the map is unrolled. ``direct`` is the plain sum: slow, and without any work space.
"""

_NEVER = 2**63


@dataclass(frozen=True, slots=True)
class NcnnMode:
    """Which method each convolution takes.

    Measured for VGG16, milliseconds on one thread: on maps of 224 to 56 rows f43 takes 0.5 to 0.8 times as long as
    f23; on 28 rows 0.7, on 14 rows just as long. The direct sum takes 2 to 4 times as long as f43.

    Attributes
    ----------
    name : str
    f23_rows : int
        Maps of so many rows, or fewer, take f23; larger ones f43.
    direct_rows : int
        Maps of so many rows, or fewer, take the direct sum, which keeps the weights as they are.
    direct_numbers : int
        Maps of more numbers than this take the direct sum, which needs no work space.
    """

    name: str
    f23_rows: int
    direct_rows: int = 0
    direct_numbers: int = _NEVER

    def method(self, node: Node, shapes: Mapping[str, tuple[int, ...]]) -> Method:
        """Return how to compute a convolution, given the shape of each layer's output."""
        shape = shapes[node.name]
        if prod(shape) > self.direct_numbers:
            return "direct"
        if node.window != (3, 3):
            return "product"
        # On 3 channels the direct sum is the fastest: 12 ms for VGG16's first layer, where the others take 15 to 19.
        if shapes[node.inputs[0]][2] < 8 or shape[0] <= self.direct_rows:
            return "direct"
        if node.stride != 1:
            return "product"
        return "f23" if shape[0] <= self.f23_rows else "f43"


MODES = {
    mode.name: mode
    for mode in (
        NcnnMode("f43", f23_rows=14),
        NcnnMode("f43_f23", f23_rows=28),
        NcnnMode("lean", f23_rows=28, direct_rows=14, direct_numbers=1_000_000),
        NcnnMode("plain", f23_rows=0, direct_numbers=0),
    )
}
"""Every mode by name, the fastest first."""
