"""The backbones a user may name, their layers, and the shape of what each layer gives."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Literal, NoReturn

from streamer.backbones.graph import Graph, LayerWeights
from streamer.backbones.graph_text import read_graph
from streamer.errors import ConfigError

__all__ = ["BACKBONES", "POOLINGS", "Backbone", "Output", "feature_shape", "get_backbone"]

POOLINGS = ("none", "avg", "max", "gem")


@dataclass(frozen=True)
class Output:
    """One kind of feature: a layer of the backbone, and how its map becomes a vector.

    Attributes
    ----------
    layer : str
        Name of the layer, as in Keras.
    pooling : {"none", "avg", "max", "gem"}
        Over height and width; see `streamer.engines.pooling`.
    grid : int
        The map is pooled in that many rows of as many cells, not as a whole: a vector that still knows where.
    """

    layer: str
    pooling: str = "none"
    grid: int = 1

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ConfigError(f"unknown pooling {self.pooling!r}; take one of {', '.join(POOLINGS)}")
        if self.grid < 1 or (self.grid > 1 and self.pooling == "none"):
            raise ConfigError(f"a grid of {self.grid} makes no sense with pooling: {self.pooling}")

    @property
    def name(self) -> str:
        """Name of these features in a store: ``"fc2"``, ``"block5_pool:gem"``, ``"block4_pool:gem:3x3"``."""
        parts = [self.layer, *([self.pooling] if self.pooling != "none" else [])]
        return ":".join([*parts, *([f"{self.grid}x{self.grid}"] if self.grid > 1 else [])])

    @classmethod
    def from_name(cls, name: str) -> Output:
        """Return the output of that name."""
        layer, _, pooling = name.partition(":")
        pooling, _, grid = pooling.partition(":")
        return cls(layer, pooling or "none", int(grid.partition("x")[0] or 1))


@dataclass(frozen=True)
class Backbone:
    """A network that turns pixels into features.

    Attributes
    ----------
    name : str
    default_input_size : tuple of int, (height, width)
        The size it was trained at, in pixels. The top works at no other.
    minimum_size : int
        Smallest height and width, in pixels.
    preprocessing : {"caffe", "tf"}
        ``caffe``: RGB to BGR, minus the ImageNet means 103.939, 116.779, 123.68. ``tf``: ``x / 127.5 - 1``.
    layers : tuple of str
        The layers a user may name, from the pixels to the classes.
    last_map : str
        The last layer before the top.
    default_output : Output
        What is extracted when the user names nothing.
    build : callable
        Makes the network's graph.
    pretrained : {"imagenet", "bundled"}
        Its trained weights: ``imagenet`` ones are Keras' own and fetched; ``bundled`` ones come with the package.
    """

    name: str
    default_input_size: tuple[int, int]
    minimum_size: int
    preprocessing: Literal["caffe", "tf"]
    layers: tuple[str, ...]
    last_map: str
    default_output: Output
    build: Callable[[], Graph]
    pretrained: Literal["imagenet", "bundled"] = "imagenet"

    @cached_property
    def graph(self) -> Graph:
        """The whole network, top included."""
        return self.build()

    @cached_property
    def _without_top(self) -> Graph:
        return self.graph.until({self.last_map})

    @property
    def has_top(self) -> bool:
        """Whether there are layers behind `last_map`."""
        return self.graph.nodes[-1].name != self.last_map

    def needs_top(self, layer: str) -> bool:
        """Say whether `layer` lies in the classifier, which works at the default input size only."""
        self._check_layer(layer)
        return all(node.name != layer for node in self._without_top.nodes)

    def outputs_need_top(self, outputs: Iterable[Output]) -> bool:
        """Say whether any of the `outputs` lies in the classifier."""
        return any(self.needs_top(output.layer) for output in outputs)

    def layer_shape(self, layer: str, input_size: tuple[int, int] | None = None) -> tuple[int, ...]:
        """Return the shape of what `layer` gives for one image.

        Parameters
        ----------
        layer : str
            One of `layers`.
        input_size : tuple of int, (height, width), optional
            In pixels; without it, the default size.

        Returns
        -------
        tuple of int
            ``(height, width, channels)`` for a map, ``(n,)`` for a vector.

        Raises
        ------
        ConfigError
            If there is no such layer, or the input is too small, or not the default size for a layer of the top.
        """
        size = self.default_input_size if input_size is None else input_size
        self.check_input_size(size, top=self.needs_top(layer))
        return _shapes(self.graph, size)[layer]

    def weight_layout(self, *, top: bool) -> list[LayerWeights]:
        """Return the layers that have weights, in Keras' model order, with the names and shapes of each weight."""
        return (self.graph if top else self._without_top).weights(self.default_input_size)

    def check_input_size(self, size: tuple[int, int], *, top: bool) -> None:
        """Raise `ConfigError` unless the network runs at `size` (height, width), with its top or without it."""
        if top and size != self.default_input_size:
            needed = f"{self.default_input_size[0]} x {self.default_input_size[1]}"
            raise ConfigError(
                f"{self.name}: the fully connected layers work at {needed} pixels only, not at {size[0]} x {size[1]}; "
                f"leave input_size out, or take features from {self.last_map} or a layer before it"
            )
        if min(size) < self.minimum_size:
            raise ConfigError(
                f"{self.name}: an input of {size[0]} x {size[1]} pixels is too small; "
                f"the least is {self.minimum_size} x {self.minimum_size}"
            )

    def _check_layer(self, layer: str) -> None:
        if layer not in self.layers:
            some = self.layers if len(self.layers) <= 12 else (*self.layers[:3], "...", *self.layers[-6:])
            _refuse(f"{self.name} has no layer", layer, self.layers, some)


@lru_cache(maxsize=32)
def _shapes(graph: Graph, input_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    return graph.shapes(input_size)


def _refuse(problem: str, value: str, known: Iterable[str], shown: Iterable[str]) -> NoReturn:
    nearest = difflib.get_close_matches(value, list(known), n=1, cutoff=0.5)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise ConfigError(f"{problem} {value!r}{hint}; known: {', '.join(shown)}")


def _all_layers(name: str) -> tuple[str, ...]:
    return tuple(node.name for node in read_graph(name).nodes if node.op != "input")


_RESNET50_LAYERS = (
    "conv1_relu",
    "pool1_pool",
    *(f"conv{stack}_block{k}_out" for stack, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)) for k in range(1, blocks + 1)),
    "avg_pool",
    "predictions",
)
_INCEPTION_V3_LAYERS = (*(f"mixed{block}" for block in range(11)), "avg_pool", "predictions")

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="vgg16",
            default_input_size=(224, 224),
            minimum_size=32,
            preprocessing="caffe",
            layers=_all_layers("vgg16"),
            last_map="block5_pool",
            default_output=Output("block5_pool", "gem"),
            build=partial(read_graph, "vgg16"),
        ),
        Backbone(
            name="vgg16_compact",
            default_input_size=(80, 80),
            minimum_size=32,
            preprocessing="caffe",
            layers=_all_layers("vgg16_compact"),
            last_map="block5_pool",
            default_output=Output("block4_pool", "gem", 3),
            build=partial(read_graph, "vgg16_compact"),
            pretrained="bundled",
        ),
        Backbone(
            name="resnet50",
            default_input_size=(224, 224),
            minimum_size=32,
            preprocessing="caffe",
            layers=_RESNET50_LAYERS,
            last_map="conv5_block3_out",
            default_output=Output("conv5_block3_out", "gem"),
            build=partial(read_graph, "resnet50"),
        ),
        Backbone(
            name="inception_v3",
            default_input_size=(299, 299),
            minimum_size=75,
            preprocessing="tf",
            layers=_INCEPTION_V3_LAYERS,
            last_map="mixed10",
            default_output=Output("mixed10", "gem"),
            build=partial(read_graph, "inception_v3"),
        ),
    )
}
"""Every backbone by name."""


def get_backbone(name: str) -> Backbone:
    """Return the backbone of that name.

    Raises
    ------
    ConfigError
        If there is none; it names the nearest.
    """
    if name not in BACKBONES:
        _refuse("unknown backbone", name, BACKBONES, BACKBONES)
    return BACKBONES[name]


def feature_shape(backbone: Backbone, output: Output, input_size: tuple[int, int] | None = None) -> tuple[int, ...]:
    """Return the shape of one image's features.

    Parameters
    ----------
    backbone : Backbone
    output : Output
    input_size : tuple of int, (height, width), optional
        In pixels; without it, the backbone's default.

    Returns
    -------
    tuple of int
        ``(cells * channels,)`` if the output is pooled, else the shape of the layer.

    Raises
    ------
    ConfigError
        If the layer does not exist, does not work at that size, gives a vector where a map is to be pooled, or a map
        that is smaller than the grid.
    """
    shape = backbone.layer_shape(output.layer, input_size)
    if output.pooling == "none":
        return shape
    if len(shape) == 1:
        raise ConfigError(
            f"{backbone.name}: layer {output.layer!r} gives a vector of {shape[0]} numbers, "
            f"so there is no map for pooling {output.pooling!r} to work on; use pooling: none"
        )
    height, width, channels = shape
    if output.grid > min(height, width):
        raise ConfigError(
            f"{backbone.name}: layer {output.layer!r} gives a map of {height} x {width}, "
            f"too small for a grid of {output.grid} x {output.grid}; set a smaller grid or a larger input_size"
        )
    return (output.grid**2 * channels,)
