"""Which network, and which weights. Nothing here loads Keras or TensorFlow."""

from streamer.backbones.choice import choose_backbone
from streamer.backbones.fetch import fetch_weights
from streamer.backbones.registry import BACKBONES, Backbone, Output, feature_shape, get_backbone
from streamer.backbones.weights import RandomWeights, Weights, WeightsFile, resolve_weights

__all__ = [
    "BACKBONES",
    "Backbone",
    "Output",
    "RandomWeights",
    "Weights",
    "WeightsFile",
    "choose_backbone",
    "feature_shape",
    "fetch_weights",
    "get_backbone",
    "resolve_weights",
]
