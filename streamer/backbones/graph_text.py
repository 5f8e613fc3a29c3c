"""Networks as text, one line a layer: ``pool = max_pool(conv) window=2x2 stride=2``.

The attributes are those of `Node`; one that is left out has its default. The files in ``graphs/`` are written by
``scripts/export_graphs.py``.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from streamer.backbones.graph import Graph, Node, Op

__all__ = ["GRAPHS", "graph_text", "parse_graph", "read_graph"]

GRAPHS = Path(__file__).with_name("graphs")
"""Where the backbones' graphs lie."""

_LINE = re.compile(r"(?P<name>\w+) = (?P<op>\w+)\((?P<inputs>[\w, ]*)\)(?P<attributes>( \w+=\S+)*)")
_ATTRIBUTES = {field.name: field.default for field in fields(Node) if field.name not in ("name", "op", "inputs")}


def read_graph(name: str) -> Graph:
    """Read the graph of a backbone."""
    return parse_graph((GRAPHS / f"{name}.txt").read_text(encoding="utf-8"))


def parse_graph(text: str) -> Graph:
    """Make a graph of its text.

    Raises
    ------
    ValueError
        If a line cannot be understood, or reads a layer that does not stand above it; it names the line.
    """
    nodes: dict[str, Node] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or match["op"] not in get_args(Op):
            raise ValueError(f"line {number} describes no layer: {line!r}")
        inputs = tuple(match["inputs"].split(", ")) if match["inputs"] else ()
        if unknown := [name for name in inputs if name not in nodes]:
            raise ValueError(f"line {number} reads {unknown[0]!r}, which is not above it: {line!r}")
        pairs = [pair.split("=") for pair in match["attributes"].split()]
        try:
            attributes = {key: _value(value, _ATTRIBUTES[key]) for key, value in pairs}
        except (KeyError, ValueError) as error:
            raise ValueError(f"line {number} has an attribute that makes no sense ({error}): {line!r}") from None
        nodes[match["name"]] = Node(match["name"], match["op"], inputs, **attributes)  # type: ignore[arg-type]
    return Graph(tuple(nodes.values()))


def graph_text(graph: Graph) -> str:
    """Write a graph as text; `parse_graph` reads it back."""
    return "".join(_line(node) + "\n" for node in graph.nodes)


def _line(node: Node) -> str:
    words = [f"{node.name} = {node.op}({', '.join(node.inputs)})"]
    for name, default in _ATTRIBUTES.items():
        value = getattr(node, name)
        if value != default:
            words.append(f"{name}={'x'.join(map(str, value)) if isinstance(value, tuple) else value}")
    return " ".join(words)


def _value(text: str, default: Any) -> Any:
    """Read a value of the same type as the default."""
    if isinstance(default, bool):
        return {"True": True, "False": False}[text]
    if isinstance(default, tuple):
        height, width = text.split("x")
        return int(height), int(width)
    return type(default)(text)
