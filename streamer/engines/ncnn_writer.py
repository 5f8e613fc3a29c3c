"""Layers of a backbone as lines of ncnn's text format.

What changes on the way: a batch normalisation is folded into the convolution before it, and a ReLU into what stands
before that; a large dense layer is cut into slices of its outputs, and the first layers, whose maps are the largest,
into bands of rows. Values stay the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from streamer.backbones.graph import Node
from streamer.engines.ncnn_bands import banded_head, bands, border
from streamer.engines.ncnn_modes import NcnnMode

__all__ = ["Kernel", "PartWriter"]

_MAGIC = 7767517

# A layer's line may switch things off for it alone: key 31, a bit for each (ncnn's `featmask`).
_MASK = 31
_NO_FP16_STORAGE = 1 << 1
_NO_SGEMM = 1 << 5
_NO_WINOGRAD = 1 << 6

# ncnn holds a dense layer twice while it packs it. In slices, the peak of loading VGG16's fc1 fell from 1084 to 782 MB.
_SLICE_WEIGHTS = 13_000_000


@dataclass(frozen=True, slots=True)
class Kernel:
    """The weights that one ncnn layer reads: a kernel, then a bias.

    Attributes
    ----------
    layer : str
        The convolution or dense layer that has them.
    norm : Node or None
        The batch normalisation to fold in.
    first, last : int
        The outputs wanted: `first` to `last` - 1.
    """

    layer: str
    norm: Node | None
    first: int
    last: int


class PartWriter:
    """Writes one part of a network.

    Parameters
    ----------
    nodes : sequence of Node
        The part. What it reads from outside becomes its inputs.
    shapes : dict of str to tuple of int
        Of each layer's output.
    wanted : collection of str
        The layers whose outputs are asked for.
    mode : NcnnMode
    half_dense : bool
        Only the dense layers may keep their weights as float16.

    Attributes
    ----------
    inputs, outputs : dict of str to str
        The blob of each layer that is read from outside, or wanted.
    kernels : list of Kernel
        In the order in which ncnn reads them, which is also that in which Keras lists their last weights.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        shapes: dict[str, tuple[int, ...]],
        wanted: Collection[str],
        mode: NcnnMode,
        half_dense: bool,
    ) -> None:
        self.nodes = nodes
        self.shapes = shapes
        self.wanted = wanted
        self.mode = mode
        self.half_dense = half_dense
        self.readers: dict[str, list[Node]] = {node.name: [] for node in nodes}
        for node in nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.unread: dict[str, list[str]] = {}  # blobs by layer: ncnn lets each be read once
        self.lines: list[str] = []
        self.blob_count = 0
        self.kernels: list[Kernel] = []
        self.inputs: dict[str, str] = {}
        self._write()
        self.outputs = {name: self._take(name) for name in wanted}

    def text(self) -> str:
        """Return the part in the format of ncnn's ``.param`` files."""
        return f"{_MAGIC}\n{len(self.lines)} {self.blob_count}\n" + "".join(f"{line}\n" for line in self.lines)

    def _write(self) -> None:
        inside = {node.name for node in self.nodes if node.op != "input"}
        for name in self.readers:
            if name not in inside:
                self.inputs[name] = name
                self._add("Input", name, [])
        done = self._head()
        waiting: dict[str, Node] = {}
        for node in self.nodes:
            if node.name in done or node.op == "input":
                continue
            if node.op == "conv" and (norm := self._only_reader(node, "batch_norm")):
                # Written where the normalisation stands, whose weights arrive later.
                waiting[norm.name] = node
            elif node.op in ("conv", "batch_norm"):
                done |= self._convolution(waiting.pop(node.name, node), node)
            elif node.op == "dense":
                self._dense(node)
            elif node.op == "flatten":
                # Keras flattens (height, width, channels), and the map that ncnn holds is (channels, height, width).
                turned = f"{node.name}_turned"
                self._line("Permute", self._sources(node), [turned], {0: 3})
                self._add("Flatten", node.name, [turned])
            else:
                kind, parameters = _plain_layer(node, self.shapes)
                self._add(kind, node.name, self._sources(node), parameters)

    def _head(self) -> set[str]:
        """Write the first layers in bands, if their maps are large; return which."""
        head = banded_head(self.nodes, self.shapes, self.wanted) if self.nodes[0].op == "input" else []
        if not head:
            return set()
        source, last = head[0].inputs[0], head[-1].name
        parts = bands(head, self.shapes)
        blobs = self._split(self._take(source), f"{source}_band", len(parts))
        for number, part in enumerate(parts):
            first, end = part[source].rows
            name = f"{source}_rows{number}"
            crop = {0: 0, 1: first, 2: 0, 3: self.shapes[source][1], 4: end - first, 5: self.shapes[source][2]}
            self._line("Crop", [blobs[number]], [name], crop)
            blobs[number] = name
        # Layer by layer, for so the weights arrive; ncnn goes band by band, as the end of each is needed.
        for node in head:
            for number, part in enumerate(parts):
                name = f"{node.name}_rows{number}"
                if node.op == "conv":
                    left, right = border(node, self.shapes[node.inputs[0]][1], axis=1)
                    around = {4: left, 15: right, 14: part[node.name].top, 16: part[node.name].bottom}
                    parameters = {**self._conv_parameters(node, node), **around}
                    self._line("Convolution", [blobs[number]], [name], parameters, self._conv_mask(node))
                else:
                    kind, parameters = _plain_layer(node, self.shapes)
                    around = {13: part[node.name].top, 15: part[node.name].bottom}
                    self._line(kind, [blobs[number]], [name], {**parameters, **around})
                blobs[number] = name
        self._add("Concat", last, blobs, {0: 1})
        return {node.name for node in head}

    def _convolution(self, node: Node, last: Node) -> set[str]:
        """Write a convolution, with the normalisation `last` if it is one, and the ReLU behind; return what it did."""
        relu = self._only_reader(last, "relu") if node.activation == "linear" else None
        name = relu.name if relu else last.name
        top, bottom = border(node, self.shapes[node.inputs[0]][0], axis=0)
        left, right = border(node, self.shapes[node.inputs[0]][1], axis=1)
        parameters = {**self._conv_parameters(node, last), 4: left, 15: right, 14: top, 16: bottom}
        if relu:
            parameters[9] = 1
        self._add("Convolution", name, self._sources(node), parameters, self._conv_mask(node))
        return {name}

    def _conv_parameters(self, node: Node, last: Node) -> dict[int, int]:
        """Return all but the border, and note that the kernel will be read."""
        self.kernels.append(Kernel(node.name, last if last is not node else None, 0, node.channels))
        height, width = node.window
        size = height * width * self.shapes[node.inputs[0]][2] * node.channels
        relu = int(node.activation == "relu")
        return {0: node.channels, 1: width, 11: height, 3: node.stride, 5: 1, 6: size, 9: relu}

    def _conv_mask(self, node: Node) -> int:
        method = self.mode.method(node, self.shapes)
        return (_NO_SGEMM if method == "direct" else 0) | (_NO_WINOGRAD if method in ("direct", "product") else 0)

    def _dense(self, node: Node) -> None:
        inputs = self.shapes[node.inputs[0]][0]
        slices = -(-inputs * node.channels // _SLICE_WEIGHTS)
        step = -(-node.channels // slices)
        starts = range(0, node.channels, step)
        sources = self._sources(node)
        if len(starts) > 1:
            sources = self._split(sources[0], f"{node.name}_in", len(starts))
        parts = []
        for first, source in zip(starts, sources, strict=True):
            last = min(first + step, node.channels)
            parts.append(f"{node.name}_{first}")
            parameters = {0: last - first, 1: 1, 2: inputs * (last - first), 9: int(node.activation == "relu")}
            self._line("InnerProduct", [source], parts[-1:], parameters)
            self.kernels.append(Kernel(node.name, None, first, last))
        if node.activation == "softmax":
            logits = f"{node.name}_logits"
            self._line("Concat", parts, [logits], {0: 0})
            self._add("Softmax", node.name, [logits], {0: 0})
        else:
            self._add("Concat", node.name, parts, {0: 0})

    def _only_reader(self, node: Node, op: str) -> Node | None:
        """Return the layer that reads this one, if it is the only one, of that kind, and the user does not want it."""
        readers = self.readers[node.name]
        return readers[0] if len(readers) == 1 and readers[0].op == op and node.name not in self.wanted else None

    def _sources(self, node: Node) -> list[str]:
        return [self._take(name) for name in node.inputs]

    def _take(self, name: str) -> str:
        return self.unread[name].pop()

    def _add(
        self, kind: str, name: str, sources: list[str], parameters: dict[int, int] | None = None, mask: int = 0
    ) -> None:
        """Write what makes a layer's output, with a copy for each reader: copies cost ncnn nothing."""
        self._line(kind, sources, [name], parameters, mask)
        count = len(self.readers[name]) + (name in self.wanted)
        self.unread[name] = [name] if count == 1 else self._split(name, name, count)

    def _split(self, blob: str, name: str, count: int) -> list[str]:
        copies = [f"{name}_copy{number}" for number in range(count)]
        self._line("Split", [blob], copies)
        return copies

    def _line(
        self, kind: str, sources: list[str], results: list[str], parameters: dict[int, int] | None = None, mask: int = 0
    ) -> None:
        if self.half_dense and kind != "InnerProduct":
            mask |= _NO_FP16_STORAGE
        values = {**(parameters or {}), **({_MASK: mask} if mask else {})}
        self.blob_count += len(results)
        words = [kind, results[0], str(len(sources)), str(len(results)), *sources, *results]
        self.lines.append(" ".join(words + [f"{key}={value}" for key, value in values.items()]))


def _plain_layer(node: Node, shapes: dict[str, tuple[int, ...]]) -> tuple[str, dict[int, int]]:
    """Return ncnn's name and parameters for a layer without weights."""
    match node.op:
        case "relu":
            return "ReLU", {}
        case "add":
            return "BinaryOp", {0: 0}
        case "concat":
            return "Concat", {0: 0}
        case "zero_pad":
            return "Padding", dict.fromkeys(range(4), node.border)
        case "max_pool" | "avg_pool":
            # SAME in plain numbers: ncnn's own counts the border in a mean, which Keras leaves out.
            height, width = shapes[node.inputs[0]][:2]
            (top, bottom), (left, right) = border(node, height, axis=0), border(node, width, axis=1)
            window = {0: int(node.op == "avg_pool"), 1: node.window[1], 11: node.window[0], 2: node.stride}
            return "Pooling", {**window, 3: left, 14: right, 13: top, 15: bottom, 5: 1, 6: 0}
        case "global_avg_pool":
            return "Pooling", {0: 1, 4: 1}
        case _:
            raise ValueError(f"layer {node.name!r}: no way to write {node.op!r} for ncnn")
