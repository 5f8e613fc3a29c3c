"""What ``auto`` stands for: which backbone, and which of its weights."""

from __future__ import annotations

import logging
from collections.abc import Collection

from streamer.backbones.fetch import imagenet_path
from streamer.backbones.registry import BACKBONES, Backbone, get_backbone
from streamer.errors import ConfigError

__all__ = ["AUTO", "choose_backbone", "named_weights"]

_LOG = logging.getLogger(__name__)

AUTO = ("vgg16", "vgg16_compact")
"""What ``name: auto`` takes: the first whose weights are on this machine. The last one's always are."""


def choose_backbone(name: str, source: str, layers: Collection[str] = ()) -> tuple[Backbone, str]:
    """Return the backbone, and the name or path of its weights, where a user left either open. Downloads nothing.

    Parameters
    ----------
    name : str
        ``"auto"``, or the name of a backbone.
    source : str
        ``"auto"``, or as `streamer.backbones.resolve_weights` takes it.
    layers : collection of str
        What the backbone must have; without any, its default output is meant.

    Raises
    ------
    ConfigError
        If there is no such backbone, or it has no weights of that kind.
    """
    if name != "auto":
        backbone = get_backbone(name)
        return backbone, named_weights(backbone, source)
    candidates = [BACKBONES[each] for each in AUTO]
    if source in ("imagenet", "bundled"):
        candidates = [each for each in candidates if each.pretrained == source]
    fitting = [each for each in candidates if set(layers) <= set(each.layers)] or candidates
    best = fitting[0]
    if source != "auto":
        return best, source
    chosen = next((each for each in fitting if _is_here(each, layers)), best)
    if chosen is not best:
        _LOG.warning(
            "backbone: auto is %s, whose weights come with the program; %s finds more: 'streamer weights fetch %s', "
            "then a new store",
            *(chosen.name, best.name, best.name),
        )
    return chosen, chosen.pretrained


def named_weights(backbone: Backbone, source: str) -> str:
    """Return what ``"auto"`` weights are for a backbone, and any other source as it is.

    Raises
    ------
    ConfigError
        If the backbone has no weights of that kind.
    """
    if source == "auto":
        return backbone.pretrained
    if source in ("imagenet", "bundled") and source != backbone.pretrained:
        others = ", ".join(each.name for each in BACKBONES.values() if each.pretrained == source)
        raise ConfigError(
            f"weights: {backbone.name} has no {source} weights (there are some of {others}); "
            f"its own are 'weights: {backbone.pretrained}', and are taken when weights is left out"
        )
    return source


def _is_here(backbone: Backbone, layers: Collection[str]) -> bool:
    if backbone.pretrained == "bundled":
        return True
    return imagenet_path(backbone.name, top=any(map(backbone.needs_top, layers))).exists()
