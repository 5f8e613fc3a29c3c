"""What each way of storing features takes and gives: ``python scripts/bench_storage.py [--photos FOLDER]``.

Unpooled maps of VGG16's ``block5_conv3`` (14 x 14 x 512) and ``block5_pool`` (7 x 7 x 512), by every compression and
dtype that ``storage`` knows: bytes against raw float32, rates in MB of raw float32 a second for writing and for reading
in sequence, and rows a second for reading rows that lie apart. Shards are written and read by the package's own code,
on a disk whose cache is warm: the rates are those of the work, not of the disk.

Where VGG16's ImageNet weights are not on this machine, the compact network that comes with the package stands in (its
maps are smaller, and have fewer zeros: each table says how many). Beside them stand drawn maps of the whole size with
85 % zeros, at random places: real zeros come in runs and compress better.

Without ``--photos`` the pictures are drawn. Prints tables and writes ``bench_storage.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.backbones import Output
from streamer.errors import WeightsError
from streamer.extraction import Extractor, ExtractSettings, Network
from streamer.images import FolderSource
from streamer.images.drawn import draw_pictures
from streamer.records import FeatureBatch, ImageRef
from streamer.store import FeatureSpec, Store, StoreWriter
from streamer.store.compression import COMPRESSIONS

LAYERS = ("block5_conv3", "block5_pool")
DRAWN_ZEROS = 0.85
_BATCH = 8
_BLOCK_ROWS = 64

Maps = dict[str, NDArray[np.float32]]


def network() -> Network:
    """VGG16 where its weights are, else the compact one; cut at the unpooled maps."""
    outputs = [Output(layer) for layer in LAYERS]
    try:
        return Network.choose("vgg16", outputs, None, "imagenet", 0, "full", download=False)
    except WeightsError:
        return Network.choose("vgg16_compact", outputs, None, "bundled", 0, "full", download=False)


def extract(chosen: Network, photos: Path, count: int) -> Maps:
    """Maps of the first `count` photos, evenly spread over the folder."""
    refs = [ref for ref in FolderSource(photos) if isinstance(ref, ImageRef)]
    refs = refs[:: max(1, len(refs) // count)][:count]
    settings = ExtractSettings("auto", "cpu", 2**30, None, None, 10**8, 2**28)
    with Extractor(chosen, settings) as extractor:
        batches = [batch.features for batch in extractor.features(refs)]
    return {name: np.concatenate([each[name] for each in batches if each]) for name in chosen.spec().outputs}


def draw(count: int, zeros: float) -> Maps:
    """Half-normal maps of VGG16's sizes with that share of zeros, at random places."""
    random = np.random.default_rng(0)
    threshold = statistics.NormalDist().inv_cdf(zeros)
    shapes = {"block5_conv3": (14, 14, 512), "block5_pool": (7, 7, 512)}
    drawn = {name: random.standard_normal((count, *shape), np.float32) for name, shape in shapes.items()}
    return {name: np.maximum(values - np.float32(threshold), 0) for name, values in drawn.items()}


def batches(values: NDArray[np.float32], name: str) -> Iterator[FeatureBatch]:
    """The rows as the engine hands them on."""
    for start in range(0, len(values), _BATCH):
        rows = values[start : start + _BATCH]
        numbers = range(start, start + len(rows))
        refs = tuple(ImageRef(f"{number:06d}.jpg", "", 1, 1, "") for number in numbers)
        yield FeatureBatch(refs, tuple(number.to_bytes(16, "big") for number in numbers), {name: rows})


def measure(
    path: Path, spec: FeatureSpec, compression: str, values: NDArray[np.float32], apart: int
) -> dict[str, float]:
    """Write a store of one output, read it in sequence and by rows that lie apart."""
    began = time.perf_counter()
    with StoreWriter(path, spec, engine="bench", limits="", compression=compression, commit_seconds=1e9) as writer:
        for batch in batches(values, spec.indexed):
            writer.append(batch)
    written = time.perf_counter() - began
    with Store(path) as store:
        n_bytes = store.info()["bytes"]
        began = time.perf_counter()
        n_rows = sum(len(ids) for ids, _ in store.blocks(spec.indexed, _BLOCK_ROWS))
        read = time.perf_counter() - began
        assert n_rows == len(values)
        places = store.images()[np.random.default_rng(1).permutation(n_rows)[:apart]]
    with Store(path) as store:
        began = time.perf_counter()
        for _, shard, row in places:
            store.rows(spec.indexed, np.array([shard]), np.array([row]))
        looked_up = time.perf_counter() - began
    raw = values.nbytes
    return {
        "share": n_bytes / raw,
        "write_mb_s": raw / written / 1e6,
        "read_mb_s": raw / read / 1e6,
        "rows_s": len(places) / looked_up,
    }


def table(
    name: str, values: NDArray[np.float32], spec: FeatureSpec, rounds: int, apart: int
) -> list[dict[str, object]]:
    """Every way of storing one kind of map; rounds alternate, medians are kept."""
    ways = [(compression, dtype) for dtype in ("float32", "float16") for compression in COMPRESSIONS]
    measured: dict[tuple[str, str], list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for compression, dtype in ways:
            with tempfile.TemporaryDirectory() as scratch:
                made = replace(spec, outputs={name: values.shape[1:]}, dtype=dtype)
                figures = measure(Path(scratch) / "a.store", made, compression, values, apart)
                measured[compression, dtype].append(figures)
    rows: list[dict[str, object]] = []
    for compression, dtype in ways:
        figures = measured[compression, dtype]
        medians = {key: round(statistics.median(each[key] for each in figures), 3) for key in figures[0]}
        rows.append({"dtype": dtype, "compression": compression, **medians})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photos; without it, pictures are drawn")
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--drawn", type=int, default=80, help="drawn maps of VGG16's size")
    parser.add_argument("--apart", type=int, default=200, help="rows that are read one by one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)

    chosen = network()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.photos is None:
            draw_pictures(Path(scratch), classes=8, per_class=-(-arguments.images // 8), side=224, seed=1)
        maps = extract(chosen, arguments.photos or Path(scratch), arguments.images)
    kinds = [(chosen.backbone.name, name, values) for name, values in maps.items()]
    kinds += [(f"drawn, {DRAWN_ZEROS:.0%} zeros", *each) for each in draw(arguments.drawn, DRAWN_ZEROS).items()]

    result = []
    for source, name, values in kinds:
        zeros = float(np.mean([(rows == 0).mean() for rows in values]))
        print(f"\n{source}: {name} {values.shape[1:]}, {len(values)} maps, {zeros:.0%} zeros")
        print(f"{'dtype':9}{'compression':12}{'of float32':>11}{'write MB/s':>12}{'read MB/s':>11}{'rows/s apart':>14}")
        rows = table(name, values, chosen.spec(), arguments.rounds, arguments.apart)
        for row in rows:
            print(
                f"{row['dtype']:9}{row['compression']:12}{row['share']:11.3f}{row['write_mb_s']:12.0f}"
                f"{row['read_mb_s']:11.0f}{row['rows_s']:14.0f}"
            )
        result.append(
            {"source": source, "layer": name, "shape": values.shape[1:], "zeros": round(zeros, 4), "rows": rows}
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "bench_storage.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {target}")


if __name__ == "__main__":
    main()
