"""The backbones in plain words, for ``streamer models``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamer.backbones.fetch import bundled_path, imagenet_path
from streamer.backbones.registry import BACKBONES, Backbone

__all__ = ["describe_backbones"]


def describe_backbones() -> list[dict[str, Any]]:
    """Name, sizes, layers and weights of every backbone.

    Returns
    -------
    list of dict
        ``weights`` maps the kind of file to its path, or to None where it is not on this machine.
    """
    return [
        {
            "name": backbone.name,
            "input_size": list(backbone.default_input_size),
            "default_output": backbone.default_output.name,
            "layers": list(backbone.layers),
            "weights": {kind: str(path) if path.is_file() else None for kind, path in _files(backbone).items()},
        }
        for backbone in BACKBONES.values()
    ]


def _files(backbone: Backbone) -> dict[str, Path]:
    if backbone.pretrained == "bundled":
        return {"bundled": bundled_path(backbone.name)}
    return {
        "imagenet": imagenet_path(backbone.name, top=False),
        "imagenet with top": imagenet_path(backbone.name, top=True),
    }
