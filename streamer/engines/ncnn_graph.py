"""A backbone's graph as ncnn takes it, in one part or two."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from streamer.backbones.graph import Graph
from streamer.engines.ncnn_modes import NcnnMode
from streamer.engines.ncnn_writer import Kernel, PartWriter

__all__ = ["NcnnGraph", "ncnn_graphs"]


@dataclass(frozen=True, slots=True)
class NcnnGraph:
    """A network, or a part of one, as ncnn takes it.

    Attributes
    ----------
    text : str
        In the format of ncnn's ``.param`` files.
    inputs, outputs : dict of str to str
        The blob of each layer that the part reads from outside, or gives to it.
    kernels : tuple of Kernel
        In the order in which ncnn reads them, which is also that in which Keras lists their last weights.
    f43 : bool
        Whether F(4,3) is for this part, F(2,3) otherwise.
    """

    text: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    kernels: tuple[Kernel, ...]
    f43: bool


def ncnn_graphs(
    graph: Graph, wanted: Collection[str], input_size: tuple[int, int], mode: NcnnMode, *, half_dense: bool = False
) -> list[NcnnGraph]:
    """Write the part of a network that the `wanted` layers need.

    Parameters
    ----------
    graph : Graph
    wanted : collection of str
        Names of layers.
    input_size : tuple of int, (height, width)
        In pixels.
    mode : NcnnMode
    half_dense : bool
        Only the dense layers may keep their weights as float16.

    Returns
    -------
    list of NcnnGraph
        One, or two: ncnn chooses the form of Winograd's algorithm for a whole network at a time, so the network is cut
        where the maps become small enough for F(2,3). The second reads what the first gives.
    """
    nodes = graph.until(set(wanted)).nodes
    shapes = graph.shapes(input_size)
    behind: set[str] = set()  # the first convolution that takes F(2,3), and whatever depends on one
    for node in nodes:
        if (node.op == "conv" and mode.method(node, shapes) == "f23") or not behind.isdisjoint(node.inputs):
            behind.add(node.name)
    front = [node for node in nodes if node.name not in behind]
    back = [node for node in nodes if node.name in behind]
    if all(node.op == "input" for node in front):
        front, back = [], list(nodes)
    read_by_back = {name for node in back for name in node.inputs}
    graphs = []
    for part, f43 in ((front, True), (back, False)):
        outputs = [node.name for node in part if node.name in wanted or (f43 and node.name in read_by_back)]
        if part:
            writer = PartWriter(part, shapes, outputs, mode, half_dense)
            graphs.append(NcnnGraph(writer.text(), writer.inputs, writer.outputs, tuple(writer.kernels), f43))
    return graphs
