"""What the scripts that reproduce known systems share: a config of ours, on the data and the weights at hand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streamer.backbones import get_backbone
from streamer.backbones.fetch import imagenet_path
from streamer.config import Config, load_config
from streamer.pipeline import run
from streamer.store import Store

__all__ = ["drawn", "extracted", "say"]

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def say(line: str) -> None:
    """Print a line about the work; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def extracted(name: str, overrides: Sequence[str]) -> Config:
    """Run ``configs/<name>.yaml``.

    Where the network's ImageNet weights are not on this machine, the compact network, which is part of the package,
    stands in for it: the way is the same, the hits are not.
    """
    config = load_config(CONFIGS / f"{name}.yaml", overrides)
    if config.backbone.weights == "imagenet" and not _is_here(config):
        say(
            f"the ImageNet weights of {config.backbone.name} are not on this machine ('streamer weights fetch' gets "
            "them): the compact network stands in"
        )
        compact = get_backbone("vgg16_compact")
        output = f"{{layer: {compact.default_output.layer}, pooling: {compact.default_output.pooling}, "
        stand_in = [
            *("backbone.name=vgg16_compact", "backbone.weights=bundled", "precision=full"),
            f"backbone.input_size={compact.default_input_size[0]}",
            f"backbone.outputs=[{output}grid: {compact.default_output.grid}}}]",
        ]
        config = load_config(CONFIGS / f"{name}.yaml", [*stand_in, *overrides])
    report = run(config)
    with Store(config.store) as store:
        held = len(store)
    say(f"{held} images, {report.images['added']} of them new: {report.images_per_second:.1f} images/s")
    return config


def _is_here(config: Config) -> bool:
    backbone = get_backbone(config.backbone.name)
    layers = [output.layer for output in config.backbone.outputs or ()]
    return imagenet_path(backbone.name, top=any(map(backbone.needs_top, layers))).exists()


def drawn(count: int, among: int, seed: int) -> np.ndarray:
    """Draw `count` of so many numbers, in ascending order."""
    chosen: np.ndarray = np.sort(np.random.default_rng(seed).choice(among, min(count, among), replace=False))
    return chosen
