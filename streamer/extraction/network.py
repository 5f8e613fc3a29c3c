"""Which features: a backbone with weights, cut at the outputs that are wanted, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamer.backbones import (
    Backbone,
    Output,
    RandomWeights,
    WeightsFile,
    choose_backbone,
    feature_shape,
    resolve_weights,
)
from streamer.store import FeatureSpec

__all__ = ["Network"]


@dataclass(frozen=True)
class Network:
    """A backbone with weights, cut at the outputs that are wanted.

    Attributes
    ----------
    backbone : Backbone
    outputs : tuple of Output
        The first is the one that gets indexed.
    input_size : tuple of int, (height, width)
    weights : WeightsFile or RandomWeights
    weights_source : str
        As the user named them; what was left open is settled.
    weights_seed : int
        Of random weights.
    precision : {"full", "mixed"}
        Mixed keeps the weights of fully connected layers as float16.
    """

    backbone: Backbone
    outputs: tuple[Output, ...]
    input_size: tuple[int, int]
    weights: WeightsFile | RandomWeights
    weights_source: str
    weights_seed: int
    precision: str

    @classmethod
    def choose(
        cls,
        name: str,
        outputs: Iterable[Output] | None,
        input_size: tuple[int, int] | None,
        weights_source: str,
        weights_seed: int,
        precision: str,
        *,
        download: bool,
    ) -> Network:
        """Settle what a config leaves open.

        Raises
        ------
        ConfigError
            If a layer does not exist, or does not work at that size, or the backbone has no such weights.
        WeightsError
            If the weights are missing, damaged, or of another network.
        """
        wanted = tuple(outputs or ())
        backbone, weights_source = choose_backbone(name, weights_source, [output.layer for output in wanted])
        chosen = wanted or (backbone.default_output,)
        size = input_size or backbone.default_input_size
        for output in chosen:
            feature_shape(backbone, output, size)
        top = backbone.outputs_need_top(chosen)
        weights = resolve_weights(backbone, weights_source, needs_top=top, download=download, seed=weights_seed)
        return cls(backbone, chosen, size, weights, weights_source, weights_seed, precision)

    @classmethod
    def of_store(cls, spec: FeatureSpec) -> Network:
        """The network that made a store's features, for its queries."""
        outputs = [Output.from_name(name) for name in spec.outputs]
        return cls.choose(
            spec.backbone, outputs, spec.input_size, spec.weights, spec.weights_seed, spec.precision, download=False
        )

    def spec(self) -> FeatureSpec:
        """What its features are."""
        from streamer.images.pixels import DECODE_RECIPE

        return FeatureSpec(
            backbone=self.backbone.name,
            weights=self.weights_source,
            weights_seed=self.weights_seed,
            weights_sha256=self.weights.sha256,
            input_size=self.input_size,
            decoding=DECODE_RECIPE,
            precision=self.precision,
            outputs={output.name: feature_shape(self.backbone, output, self.input_size) for output in self.outputs},
        )
