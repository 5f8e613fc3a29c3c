"""The ways in which ncnn can compute convolutions: the faster ones need more memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from streamer.backbones.graph import Node

__all__ = ["MODES", "Method", "NcnnMode"]

Method = Literal["f43", "f23", "product", "direct"]
"""How one convolution is computed.

Winograd's F(4 x 4, 3 x 3), ``f43``, multiplies 4 times less than the plain sum but keeps 4 times the weights, and
F(2 x 2, 3 x 3), ``f23``, multiplies 2.25 times less and keeps 1.8 times the weights (Lavin and Gray 2016). ``product``
is a product of matrices, for which the map is unrolled. ``direct`` is the plain sum: slow, and without any work space.
"""


@dataclass(frozen=True, slots=True)
class NcnnMode:
    """Which method each convolution takes.

    Measured for VGG16, milliseconds on one thread: on maps of 224 to 56 rows f43 takes 0.5 to 0.8 times as long as
    f23; on 28 rows 0.7, on 14 rows just as long. The product takes twice as long as f23, the direct sum four times.
    The smaller a map, the more weights stand behind it: 89 % of those of VGG16's convolutions work on 28 rows or fewer.

    Attributes
    ----------
    name : str
    f23_rows : int
        Maps of so many rows, or fewer, take f23; larger ones f43.
    product_rows : int
        Maps of so many rows, or fewer, take the product, which keeps the weights as they are.
    direct : bool
        All take the direct sum.
    """

    name: str
    f23_rows: int = 0
    product_rows: int = 0
    direct: bool = False

    def method(self, node: Node, shapes: Mapping[str, tuple[int, ...]]) -> Method:
        """Return how to compute a convolution, given the shape of each layer's output."""
        if self.direct:
            return "direct"
        if node.window != (3, 3):
            return "product"
        # On 3 channels the direct sum is the fastest: 12 ms for VGG16's first layer, where the others take 15 to 19.
        if shapes[node.inputs[0]][2] < 8:
            return "direct"
        rows = shapes[node.name][0]
        if node.stride != 1 or rows <= self.product_rows:
            return "product"
        return "f23" if rows <= self.f23_rows else "f43"


MODES = {
    mode.name: mode
    for mode in (
        NcnnMode("f43", f23_rows=14),
        NcnnMode("f43_f23", f23_rows=28),
        NcnnMode("lean", f23_rows=28, product_rows=14),
        NcnnMode("leaner", product_rows=28),
        NcnnMode("plain", direct=True),
    )
}
"""Every mode by name, the fastest first."""
