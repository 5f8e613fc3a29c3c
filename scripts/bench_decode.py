"""How many pictures a second are decoded, by threads and by processes: ``python scripts/bench_decode.py``.

Draws JPEG files of 300 x 200 and of 4,000 x 3,000 pixels, seeded, in a temporary folder, and turns each kind into
224 x 224 pixels by `streamer.images.decode.decode_stream`, start-up left out. Rounds alternate, so that a noisy machine
is noisy for all; medians are printed. "parent" is what a picture costs the parent process in CPU time, which has the
network to serve as well. The breakdown is one thread's, one step after the other, for the large picture.

Prints tables and writes ``bench_decode.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from streamer.images.decode import decode_stream
from streamer.images.drawn import draw_pictures
from streamer.images.feeding import usable_cores
from streamer.images.formats import DRAFT_MARGIN
from streamer.images.pixels import DecodeLimits, decode_file
from streamer.images.rgb import DECODE_RECIPE
from streamer.images.sources import FolderSource
from streamer.records import ImageRef

KINDS = {"small": (300, 200), "large": (4000, 3000)}
SIDE = 224
LIMITS = DecodeLimits(max_pixels=10**8, max_file_bytes=2**28, memory_bytes=2**29)
_WARM_UP = 4  # images a worker, while processes start


def draw(folder: Path, width: int, height: int, count: int, seed: int) -> list[ImageRef]:
    """Draw forms, brought to size, with the fine noise of a sensor; quality 90, as cameras have it."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        drawn = draw_pictures(Path(scratch), classes=count, per_class=1, side=min(800, width), seed=seed)
        for number, path in enumerate(drawn):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
            noise = np.random.default_rng([seed, number]).normal(0, 3, (height, width, 1))
            noisy = (pixels + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=90)
    return [ref for ref in FolderSource(folder) if isinstance(ref, ImageRef)]


def rate(
    refs: list[ImageRef], count: int, threads: int, processes: int, size: tuple[int, int] = (SIDE, SIDE)
) -> tuple[float, float]:
    """Decode `count` pictures, the same few again and again; return images a second and the parent's ms an image."""
    workers = threads or processes
    warm_up = _WARM_UP * workers
    ahead = 2 * workers + 8
    listing = [refs[number % len(refs)] for number in range(warm_up + count + ahead)]
    results = decode_stream(
        listing, size=size, threads=threads, processes=processes, lookahead_images=ahead, limits=LIMITS
    )
    for _ in range(warm_up):
        next(results)
    began, began_cpu = time.perf_counter(), time.process_time()
    # As many are decoded in this time as are taken: the look-ahead is full before and after.
    for _ in range(count):
        next(results)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    results.close()  # type: ignore[attr-defined]
    return count / seconds, 1e3 * cpu_seconds / count


def breakdown(ref: ImageRef, rounds: int = 9) -> dict[str, float]:
    """Median milliseconds that each step takes, and that `decode_file` takes for all of them."""
    data = Path(ref.path).read_bytes()

    def scaled(margin: int) -> Image.Image:
        picture = Image.open(BytesIO(data))
        picture.draft(None, (margin * SIDE, margin * SIDE))
        picture.load()
        return picture

    picture = scaled(DRAFT_MARGIN)
    steps: dict[str, Callable[[], object]] = {
        "read": Path(ref.path).read_bytes,
        "hash": lambda: blake2b(data, digest_size=16).digest(),
        # To an eighth, of each block only the mean is used: next to all of it is reading the entropy code.
        "entropy decoding (1/8)": lambda: scaled(1),
        f"decoding with a margin of {DRAFT_MARGIN}": lambda: scaled(DRAFT_MARGIN),
        "resize": lambda: picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR),
        "decode_file": lambda: decode_file(ref, (SIDE, SIDE), LIMITS),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = usable_cores()
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, cores}), help="threads, and processes")
    parser.add_argument("--images", type=int, default=400, help="small pictures a round; a tenth of large ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()

    counts = {"small": arguments.images, "large": max(4, arguments.images // 10)}
    with tempfile.TemporaryDirectory() as scratch:
        refs = {kind: draw(Path(scratch) / kind, *size, count=4, seed=1) for kind, size in KINDS.items()}
        file_bytes = {kind: int(statistics.mean(ref.size for ref in some)) for kind, some in refs.items()}
        steps = breakdown(refs["large"][0])
        ways = [(by, number) for number in arguments.workers for by in ("threads", "processes")]
        measured: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
        for _ in range(arguments.rounds):
            for by, number in ways:
                for kind in KINDS:
                    threads, processes = (number, 0) if by == "threads" else (0, number)
                    figures = rate(refs[kind], counts[kind], threads, processes)
                    measured.setdefault((by, number, kind), []).append(figures)

    rows = []
    for by, number in ways:
        row: dict[str, object] = {"by": by, "workers": number}
        for kind in KINDS:
            figures = measured[by, number, kind]
            row[f"{kind}_images_per_second"] = round(statistics.median(figure for figure, _ in figures), 1)
            row[f"{kind}_parent_ms"] = round(statistics.median(cost for _, cost in figures), 3)
        row["large_to_small"] = round(
            statistics.median(measured[by, number, "large"][at][0] / measured[by, number, "small"][at][0]
                              for at in range(arguments.rounds)), 4
        )  # fmt: skip
        rows.append(row)

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(f"{cores} cores, load {load}; files of {file_bytes['small']:,} and {file_bytes['large']:,} bytes")
    print(f"{'':14}{'small img/s':>12}{'parent ms':>11}{'large img/s':>13}{'parent ms':>11}{'large/small':>13}")
    for row in rows:
        print(
            f"{row['workers']:>3} {row['by']:10}{row['small_images_per_second']:12}{row['small_parent_ms']:11}"
            f"{row['large_images_per_second']:13}{row['large_parent_ms']:11}{row['large_to_small']:13}"
        )
    print("\nms for a large one, step by step")
    for name, milliseconds in steps.items():
        print(f"  {name:32}{milliseconds:8.2f}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = {"cores": cores, "load": load, "recipe": DECODE_RECIPE, "file_bytes": file_bytes, "rows": rows}
    target = arguments.output / "bench_decode.json"
    target.write_text(json.dumps({**result, "large_ms": steps}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {target}")


if __name__ == "__main__":
    main()
