"""Telling which layer of a weights file belongs to which layer of a network."""

from __future__ import annotations

from typing import NamedTuple

from streamer.backbones.graph import LayerWeights

__all__ = ["FileLayer", "LayerMismatch", "match_layers"]


class FileLayer(NamedTuple):
    """A layer found in a weights file.

    Attributes
    ----------
    name : str
    weights : tuple of (str, tuple of int)
        Path inside the file and shape of each array, in Keras' order.
    """

    name: str
    weights: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each array."""
        return tuple(shape for _, shape in self.weights)


class LayerMismatch(Exception):  # noqa: N818 - not an error until the caller knows which file and backbone
    """The file does not fit the network; the text says where."""


def match_layers(expected: list[LayerWeights], found: list[FileLayer]) -> list[FileLayer]:
    """Return the file's layer for each expected one.

    A layer whose name means something is matched by name. One that Keras numbered (``conv2d_17`` may be any
    convolution, depending on what the session had built before) or that goes by another name is matched by its order
    among the layers of its kind that are left: Keras 3 files keep that order, and no other. Layers of the file behind
    the last one needed (a classifier) are left alone; one in between means that the file is of another network, such
    as VGG19, which has all of VGG16's names.

    Parameters
    ----------
    expected : list of LayerWeights
        In Keras' model order.
    found : list of FileLayer
        In the file's order.

    Raises
    ------
    LayerMismatch
        If a layer is missing, has other shapes, or is one too many.
    """
    by_name = {layer.name: layer for layer in found}
    named = {wanted.name for wanted in expected if not wanted.auto_named and wanted.name in by_name}
    unnamed: dict[str, list[FileLayer]] = {}
    for layer in found:
        if layer.name not in named:
            unnamed.setdefault(_kind(layer.shapes), []).append(layer)

    matched = []
    for wanted in expected:
        shapes = tuple(shape for _, shape in wanted.weights)
        if wanted.name in named:
            candidate = by_name[wanted.name]
        elif queue := unnamed.get(_kind(shapes)):
            candidate = queue.pop(0)
        else:
            raise LayerMismatch(f"it has nothing for layer {wanted.name!r}, which holds {_list(wanted.weights)}")
        if candidate.shapes != shapes:
            called = "" if candidate.name == wanted.name else f" ({candidate.name!r} in the file)"
            raise LayerMismatch(
                f"layer {wanted.name!r}{called} should hold {_list(wanted.weights)}, "
                f"but holds {', '.join(map(str, candidate.shapes))}"
            )
        matched.append(candidate)
    _refuse_strangers(matched, found)
    return matched


def _refuse_strangers(matched: list[FileLayer], found: list[FileLayer]) -> None:
    """Refuse a layer that nothing was matched to when a later layer of its kind is needed."""
    needed = {layer.name for layer in matched}
    last = {_kind(layer.shapes): index for index, layer in enumerate(found) if layer.name in needed}
    for index, layer in enumerate(found):
        if layer.name not in needed and index < last.get(_kind(layer.shapes), -1):
            raise LayerMismatch(f"it has a layer {layer.name!r} that this network has not")


def _kind(shapes: tuple[tuple[int, ...], ...]) -> str:
    ranks = tuple(len(shape) for shape in shapes)
    if ranks[0] == 1:
        return "normalization"
    return {2: "dense", 4: "convolution"}.get(ranks[0], "other")


def _list(weights: tuple[tuple[str, tuple[int, ...]], ...]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in weights)
