"""The backbones in plain words, for ``streamer models``."""

from __future__ import annotations

from typing import Any

from streamer.backbones.fetch import imagenet_path
from streamer.backbones.registry import BACKBONES

__all__ = ["describe_backbones"]


def describe_backbones() -> list[dict[str, Any]]:
    """Name, sizes, layers and weights of every backbone.

    Returns
    -------
    list of dict
        ``weights`` maps the kind of file to its path, or to None where it is not on this machine.
    """
    described = []
    for backbone in BACKBONES.values():
        files = {
            "imagenet": imagenet_path(backbone.name, top=False),
            "imagenet with top": imagenet_path(backbone.name, top=True),
        }
        described.append(
            {
                "name": backbone.name,
                "input_size": list(backbone.default_input_size),
                "default_output": backbone.default_output.name,
                "layers": list(backbone.layers),
                "weights": {kind: str(path) if path.is_file() else None for kind, path in files.items()},
            }
        )
    return described
