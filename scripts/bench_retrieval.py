"""Compare retrieval recipes on labelled photos: ``python scripts/bench_retrieval.py FOLDER [--exclude-label LABEL]``.

Leave-one-out over all photos: P@1, P@5 and mAP of the ranking by cosine of full-precision features, for each input
size, layer and pooling; and, for one recipe of them, with PCA, whitening and mirror images. Defaults of the compact net
come from here; its card has the table. R-MAC is that of Tolias, Sicre and Jegou 2016: 3 scales, without its PCA.

Prints tables, writes ``bench_retrieval.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.backbones import Output, get_backbone, resolve_weights
from streamer.engines import open_engine, pool
from streamer.evaluation import precision
from streamer.images import FolderSource
from streamer.images.decode import decode_stream
from streamer.images.pixels import DecodeLimits
from streamer.records import Decoded, ImageRef

LIMITS = DecodeLimits(max_pixels=100_000_000, max_file_bytes=2**28, memory_bytes=2**28)
BATCH = 8

Rows = NDArray[np.float32]


def normalised(rows: Rows) -> Rows:
    """Scale rows to length 1."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, np.where(norms == 0, 1, norms), dtype=np.float32)


def r_mac(maps: Rows, scales: int = 3) -> Rows:
    """Sum the L2-normalised maxima of square regions at several scales."""
    height, width = maps.shape[1:3]
    total = np.zeros((len(maps), maps.shape[3]), np.float32)
    for scale in range(1, scales + 1):
        side = max(1, 2 * min(height, width) // (scale + 1))
        for top in np.unique(np.linspace(0, height - side, scale).round().astype(int)):
            for left in np.unique(np.linspace(0, width - side, scale).round().astype(int)):
                total += normalised(maps[:, top : top + side, left : left + side].max(axis=(1, 2)))
    return total


POOLINGS: dict[str, Callable[[Rows], Rows]] = {
    "avg": lambda maps: pool(maps, "avg"),
    "max": lambda maps: pool(maps, "max"),
    "gem": lambda maps: pool(maps, "gem"),
    "R-MAC": r_mac,
    "gem, grid 2": lambda maps: pool(maps, "gem", 2),
    "gem, grid 3": lambda maps: pool(maps, "gem", 3),
    "none": lambda maps: maps.reshape(len(maps), -1),
}
SMALLEST = {"gem, grid 2": 2, "gem, grid 3": 3}


def reduced(rows: Rows, components: int, whiten: bool) -> Rows:
    """L2, PCA, L2; exact, from the covariance or the Gram matrix, whichever is smaller."""
    centred = normalised(rows).astype(np.float64)
    centred -= centred.mean(0)
    gram = centred @ centred.T if len(rows) < rows.shape[1] else centred.T @ centred
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:components], vectors[:, ::-1][:, :components]
    projected = vectors * np.sqrt(np.maximum(values, 0)) if len(rows) < rows.shape[1] else centred @ vectors
    if whiten:
        projected = projected / np.sqrt(np.maximum(values, values[0] * 1e-9))
    return normalised(projected.astype(np.float32))


def quality(rows: Rows, labels: NDArray[np.int64]) -> list[float]:
    """P@1, P@5, mAP."""
    rows = normalised(rows)
    found = []
    for place in range(len(rows)):
        scores = rows @ rows[place]
        scores[place] = -np.inf
        order = np.argsort(-scores, kind="stable")[:-1]
        found.append(precision(labels[order] == labels[place]))
    return [round(float(value), 3) for value in np.mean(found, axis=0)]


def maps_of(refs: list[ImageRef], backbone: str, layers: list[str], size: int, mirrored: bool) -> dict[str, Rows]:
    """Unpooled maps of every photo, by layer."""
    net = get_backbone(backbone)
    outputs = [Output(layer) for layer in layers]
    weights = resolve_weights(net, "auto", needs_top=False)
    found: dict[str, list[Rows]] = {layer: [] for layer in layers}
    with open_engine("ncnn", net, outputs, weights, batch_size=BATCH, input_size=(size, size)) as engine:
        stream = decode_stream(iter(refs), size=(size, size), threads=2, lookahead_images=32, limits=LIMITS)
        pixels = [decoded.pixels for decoded in stream if isinstance(decoded, Decoded)]
        for start in range(0, len(pixels), BATCH):
            batch = np.stack(pixels[start : start + BATCH])
            for layer, maps in engine.extract(np.ascontiguousarray(batch[:, :, ::-1] if mirrored else batch)).items():
                found[layer].append(maps)
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one sub-folder for each label; every file must be readable")
    parser.add_argument("--exclude-label", action="append", default=[])
    parser.add_argument("--backbone", default="vgg16_compact")
    parser.add_argument("--layers", nargs="+", default=["block4_pool", "block5_conv3", "block5_pool"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 80, 96, 128])
    parser.add_argument("--chosen", nargs=3, default=["80", "block4_pool", "gem, grid 3"], metavar="SIZE LAYER POOLING")
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()

    exclude = [f"{label}/**" for label in arguments.exclude_label]
    refs = [ref for ref in FolderSource(arguments.folder, exclude) if isinstance(ref, ImageRef)]
    numbers = {label: number for number, label in enumerate(sorted({ref.label for ref in refs}))}
    labels = np.array([numbers[ref.label] for ref in refs], dtype=np.int64)
    print(f"{len(refs)} photos, {len(numbers)} labels: P@1 P@5 mAP")
    rows: list[dict] = []

    def note(size: int, layer: str, recipe: str, features: Rows) -> None:
        row = {"size": size, "layer": layer, "recipe": recipe, "numbers": int(features.shape[1])}
        row |= dict(zip(("p_at_1", "p_at_5", "map"), quality(features, labels), strict=True))
        rows.append(row)
        figures = "  ".join(f"{row[name]:.3f}" for name in ("p_at_1", "p_at_5", "map"))
        print(f"{size:4} {layer:14}{recipe:34}{row['numbers']:6}  {figures}", flush=True)

    side, chosen_layer, chosen_pooling = arguments.chosen
    for size in arguments.sizes:
        for layer, maps in maps_of(refs, arguments.backbone, arguments.layers, size, mirrored=False).items():
            for name, pooling in POOLINGS.items():
                if min(maps.shape[1:3]) >= SMALLEST.get(name, 1):
                    note(size, layer, name, pooling(maps))
            if (size, layer) == (int(side), chosen_layer):
                features = POOLINGS[chosen_pooling](maps)
    for components in (64, 128, 256):
        for whiten in (False, True):
            name = f"{chosen_pooling}, PCA {components}{', whitened' if whiten else ''}"
            note(int(side), chosen_layer, name, reduced(features, components, whiten))
    mirrored = maps_of(refs, arguments.backbone, [chosen_layer], int(side), mirrored=True)[chosen_layer]
    both = normalised(features) + normalised(POOLINGS[chosen_pooling](mirrored))
    note(int(side), chosen_layer, f"{chosen_pooling}, with mirror image", both)
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "bench_retrieval.json"
    target.write_text(json.dumps({"photos": len(refs), "labels": len(numbers), "rows": rows}, indent=1) + "\n")
    print(f"written: {target}")


if __name__ == "__main__":
    main()
