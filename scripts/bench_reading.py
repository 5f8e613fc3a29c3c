"""How fast an epoch reads: ``python scripts/bench_reading.py [--mib 1024] [--budget 1GiB]``.

Makes a store of drawn features, pooled vectors of 512 and conv maps of 14 x 14 x 512, and reads it in turn: the files
of its shards from their beginning to their end by plain ``read()``, and one shuffled epoch in batches through
``Store.dataset(framework="numpy")``, all images and the train side of a split. Before each of these the system is asked
to forget what it holds of the files, where it can be asked (Linux). Then all is read once more from its cache. MB are
of features for an epoch, of file for ``read()``: an epoch of the train side reads more than it gives.

Prints a table, writes ``bench_reading.json``. The goal is 0.7 of ``read()`` from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from hashlib import blake2b
from pathlib import Path

import numpy as np

from streamer.config import format_bytes, parse_bytes
from streamer.records import FeatureBatch, ImageRef
from streamer.store import FeatureSpec, Store, StoreWriter

SHAPES = {"pooled": (512,), "conv map": (14, 14, 512)}
_BUFFER_SHARE = 8
_CLASSES = 10


def fill(path: Path, shape: tuple[int, ...], n_bytes: int, shard_bytes: int) -> int:
    """Write a store of that many bytes; returns the number of rows.

    Rows are the same thousand values from another place on each time, and half of them 0, as after a ReLU.
    """
    row_floats = int(np.prod(shape))
    drawn = np.maximum(np.random.default_rng(0).normal(size=4 * row_floats), 0).astype(np.float32)
    spec = FeatureSpec("vgg16", "random", 0, "0" * 64, (224, 224), "bench", "full", {"features": shape})
    count = n_bytes // (4 * row_floats)
    with StoreWriter(path, spec, engine="bench", limits="none", commit_bytes=shard_bytes) as writer:
        for start in range(0, count, 64):
            numbers = range(start, min(count, start + 64))
            refs = tuple(
                ImageRef(f"{number * _CLASSES // count}/{number}", "", 1, 1, str(number * _CLASSES // count))
                for number in numbers
            )
            contents = tuple(blake2b(str(number).encode(), digest_size=16).digest() for number in numbers)
            rows = np.stack([drawn[number % row_floats :][:row_floats] for number in numbers]).reshape(-1, *shape)
            writer.append(FeatureBatch(refs, contents, {"features": rows}))
    return count


def forget(files: list[Path]) -> bool:
    """Have the system drop what its cache holds of these files; whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


def read_plainly(files: list[Path]) -> tuple[float, float]:
    """Seconds, and MB a second of ``read()`` into one buffer, file after file."""
    block = memoryview(bytearray(2**20))
    total = 0
    began = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while got := opened.readinto(block):
                total += got
    seconds = time.perf_counter() - began
    return seconds, total / seconds / 1e6


def read_epoch(path: Path, split: str | None, buffer_bytes: int, batch_size: int) -> tuple[float, float]:
    """Seconds, and MB a second of one shuffled epoch, from the moment the dataset is made."""
    with Store(path) as store:
        dataset = store.dataset(framework="numpy", split=split, buffer_bytes=buffer_bytes, batch_size=batch_size)
        total = rows = 0
        began = time.perf_counter()
        for features, labels in dataset:
            total += features.nbytes
            rows += len(labels)
        seconds = time.perf_counter() - began
        assert rows == len(dataset.ids)
        return seconds, total / seconds / 1e6


def measure(folder: Path, name: str, arguments: argparse.Namespace, *, cold: bool) -> dict[str, object]:
    """Rates of one kind of row, medians of the rounds."""
    files = sorted((folder / "features").glob("*.h5"))
    ways = {
        "read": lambda: read_plainly(files),
        "epoch": lambda: read_epoch(folder, None, arguments.budget // _BUFFER_SHARE, arguments.batch),
        "train": lambda: read_epoch(folder, "train", arguments.budget // _BUFFER_SHARE, arguments.batch),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    ratios = []
    for _ in range(arguments.rounds):
        for way, read in ways.items():
            if cold:
                forget(files)
            taken[way].append(read()[1])
        ratios.append(taken["epoch"][-1] / taken["read"][-1])
    row: dict[str, object] = {"rows": name, "cache": "cold" if cold else "warm"}
    row |= {f"{way}_mb_per_second": round(statistics.median(values)) for way, values in taken.items()}
    return row | {"epoch_to_read": round(statistics.median(ratios), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="features in each store, MiB")
    parser.add_argument("--budget", type=parse_bytes, default=2**30, help="an eighth of it is for the rows read ahead")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to make the stores: the disk that is measured")
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()

    results = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        for name, shape in SHAPES.items():
            folder = Path(scratch) / "a.store"
            fill(folder, shape, arguments.mib * 2**20, min(256, max(1, arguments.mib // 4)) * 2**20)
            if forget(sorted((folder / "features").glob("*.h5"))):
                results.append(measure(folder, name, arguments, cold=True))
            else:
                print("this system cannot be asked to forget files: cold reading is not measured")
            read_plainly(sorted((folder / "features").glob("*.h5")))
            results.append(measure(folder, name, arguments, cold=False))
            shutil.rmtree(folder)

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    ahead = format_bytes(arguments.budget // _BUFFER_SHARE)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}")
    print(f"{arguments.mib} MiB, batches of {arguments.batch}, {ahead} for rows read ahead; MB/s")
    print(f"{'':10}{'cache':>6}{'read()':>8}{'epoch':>8}{'train':>8}{'epoch / read()':>16}")
    for row in results:
        print(
            f"{row['rows']:10}{row['cache']:>6}{row['read_mb_per_second']:>8}{row['epoch_mb_per_second']:>8}"
            f"{row['train_mb_per_second']:>8}{row['epoch_to_read']:>16}"
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "bench_reading.json"
    settings = {"mib": arguments.mib, "budget_bytes": arguments.budget, "batch": arguments.batch, "load": load}
    target.write_text(json.dumps({**settings, "results": results}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {target}")


if __name__ == "__main__":
    main()
