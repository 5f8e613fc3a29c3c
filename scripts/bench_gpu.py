"""What a GPU makes of a backbone, and whether it is fed: ``python scripts/bench_gpu.py [--photos FOLDER]``.

Runs the Keras engine on whatever backend (``KERAS_BACKEND``) and device there are, in float32 and bfloat16: over arrays
that are ready in memory (the network alone), over JPEG files that are only decoded (by threads, by processes), and over
both together; then the CPU engine on the same photos. Weights are random: speed does not depend on them. Start-up and
compiling are left out everywhere. Without a GPU it runs too, slowly, and with fewer images.

"bound by" is the slower of network and decoding; "of bound" is the rate of the whole as a share of that one's. The
cosine is between bfloat16's features and float32's, the lowest over the photos.

Prints a table and writes ``bench_gpu_<network>_<backend>_<device>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_decode import LIMITS, draw, rate

from streamer.backbones import RandomWeights, get_backbone
from streamer.engines import Engine, choose_device, forward, open_engine
from streamer.images.batches import batches
from streamer.images.decode import decode_stream
from streamer.images.feeding import usable_cores
from streamer.images.sources import FolderSource
from streamer.records import Batch, ImageRef

DTYPES = ("float32", "bfloat16")
# A drawn picture is as large as the pictures of usual training sets, such as ImageNet.
DRAWN_SIZE = (500, 375)


def keras_engine(network: str, batch: int, device: str, dtype: str) -> Engine:
    from streamer.engines.keras_engine import KerasEngine

    backbone = get_backbone(network)
    outputs = [backbone.default_output]
    weights = RandomWeights(backbone, backbone.outputs_need_top(outputs), 1)
    return KerasEngine(backbone, outputs, weights, batch_size=batch, device=device, compute_dtype=dtype)


def network_alone(engine: Engine, count: int) -> float:
    """Images a second over arrays that are ready."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (engine.batch_size, *engine.input_size, 3), np.uint8) for _ in range(2)]
    ref = ImageRef("", "", 0, 0, "")
    n_batches = max(2, count // engine.batch_size)
    ready = (
        Batch((ref,) * engine.batch_size, (b"",) * engine.batch_size, pixels[number % 2]) for number in range(n_batches)
    )
    engine.extract(pixels[0])
    engine.extract(pixels[1])
    began = time.perf_counter()
    n_images = sum(len(features.refs) for features in forward(engine, ready))
    return n_images / (time.perf_counter() - began)


def whole(engine: Engine, refs: Sequence[ImageRef], count: int, threads: int, processes: int) -> float:
    """Images a second from files to features; two batches are let pass first, in which processes start."""
    n_ahead = 2 * engine.batch_size + (threads or processes)
    warm_up = 2 * engine.batch_size
    # More than are measured: the look-ahead is full at the start of the measurement and at its end.
    listing = (refs[number % len(refs)] for number in range(warm_up + count + n_ahead + 4 * engine.batch_size))
    decoded = decode_stream(
        listing, size=engine.input_size, threads=threads, processes=processes, lookahead_images=n_ahead, limits=LIMITS
    )
    passed, measured, began = 0, 0, time.perf_counter()
    results = forward(engine, batches(decoded, engine.batch_size, engine.input_size))
    for features in results:
        passed += len(features.refs)
        if passed <= warm_up:
            began = time.perf_counter()
            continue
        measured += len(features.refs)
        if measured >= count:
            break
    seconds = time.perf_counter() - began
    results.close()  # type: ignore[attr-defined]
    decoded.close()  # type: ignore[attr-defined]
    return measured / seconds


def features_of(engine: Engine, refs: Sequence[ImageRef]) -> np.ndarray:
    """Features of photos, one row each."""
    name = next(iter(engine.outputs))
    decoded = decode_stream(refs, size=engine.input_size, threads=2, lookahead_images=8, limits=LIMITS)
    rows = [part.features[name] for part in forward(engine, batches(decoded, engine.batch_size, engine.input_size))]
    features = np.concatenate(rows)
    return features.reshape(len(features), -1).astype(np.float64)


def lowest_cosine(left: np.ndarray, right: np.ndarray) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


def photos(folder: Path | None, scratch: Path) -> list[ImageRef]:
    """The photos of a folder, or a dozen drawn ones."""
    if folder is None:
        return draw(scratch / "photos", *DRAWN_SIZE, count=12, seed=1)
    refs = [ref for ref in FolderSource(folder) if isinstance(ref, ImageRef)]
    if not refs:
        sys.exit(f"{folder}: no pictures there")
    return refs


def cpu_rate(network: str, refs: Sequence[ImageRef], count: int) -> dict[str, Any]:
    """Run by the subprocess: the CPU engine over the same photos, decoding included."""
    backbone = get_backbone(network)
    outputs = [backbone.default_output]
    weights = RandomWeights(backbone, backbone.outputs_need_top(outputs), 1)
    with open_engine("auto", backbone, outputs, weights, batch_size=4, device="cpu") as engine:
        figure = whole(engine, refs, count, usable_cores(), 0)
        return {"engine": engine.name, "images_per_second": round(figure, 2)}


def cpu_rate_in_a_process(network: str, refs: Sequence[ImageRef], count: int) -> dict[str, Any]:
    """A process of its own: where Keras has a GPU, it keeps it."""
    code = "import sys, json, bench_gpu; from streamer.records import ImageRef\n"
    code += "network, paths, count = json.load(sys.stdin)\n"
    code += "refs = [ImageRef(path, path, 0, 0, '') for path in paths]\n"
    code += "print(json.dumps(bench_gpu.cpu_rate(network, refs, count)))"
    request = json.dumps([network, [ref.path for ref in refs], count])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=request, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"the CPU engine failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(arguments: argparse.Namespace, refs: list[ImageRef], device: str) -> dict[str, Any]:
    """All figures, as they go into the file."""
    count, batch, rounds = arguments.images, arguments.batch, arguments.rounds
    size = get_backbone(arguments.network).default_input_size
    ways = {"threads": (arguments.threads, 0), "processes": (0, arguments.processes)}
    decoding = {
        way: round(statistics.median(rate(refs, count, *workers, size)[0] for _ in range(rounds)), 1)
        for way, workers in ways.items()
    }
    rows = []
    exact: np.ndarray | None = None
    few = refs[: 2 * batch]
    for dtype in arguments.dtypes:
        with keras_engine(arguments.network, batch, device, dtype) as engine:
            network = statistics.median(network_alone(engine, count) for _ in range(rounds))
            features = features_of(engine, few)
            together = {
                way: statistics.median(whole(engine, refs, count, *workers) for _ in range(rounds))
                for way, workers in ways.items()
            }
        exact = features if dtype == "float32" else exact
        for way in ways:
            bound = min(network, decoding[way])
            rows.append(
                {
                    "dtype": dtype,
                    "decoding_by": way,
                    "network_images_per_second": round(network, 1),
                    "decoding_images_per_second": decoding[way],
                    "whole_images_per_second": round(together[way], 1),
                    "bound_by": "network" if network < decoding[way] else "decoding",
                    "of_bound": round(together[way] / bound, 3),
                    "lowest_cosine": None if exact is None else round(lowest_cosine(features, exact), 6),
                }
            )
    return {"decoding": decoding, "rows": rows}


def device_name(device: str) -> str:
    """The GPU as its driver calls it, or the processor."""
    if device == "gpu":
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            return "GPU"
    return platform.processor() or platform.machine()


def defaults(device: str) -> Iterator[tuple[str, int]]:
    yield from {"images": 8192, "batch": 128, "rounds": 3}.items() if device == "gpu" else {
        "images": 16, "batch": 4, "rounds": 1
    }.items()  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of pictures; without it, a dozen are drawn")
    parser.add_argument("--network", choices=("vgg16", "resnet50", "inception_v3"), default="vgg16")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--images", type=int, help="a measurement (default 8192 with a GPU, 16 without)")
    parser.add_argument("--batch", type=int, help="images in one forward pass (default 128 with a GPU, 4 without)")
    parser.add_argument("--rounds", type=int, help="median of so many (default 3 with a GPU, 1 without)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--processes", type=int, default=usable_cores())
    parser.add_argument("--cpu-images", type=int, default=16, help="for the CPU engine; 0 leaves it out (default 16)")
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    for name, value in defaults(device):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)

    with tempfile.TemporaryDirectory() as scratch:
        refs = photos(arguments.photos, Path(scratch))
        result = measure(arguments, refs, device)
        cpu = cpu_rate_in_a_process(arguments.network, refs, arguments.cpu_images) if arguments.cpu_images else None
    backend = os.environ["KERAS_BACKEND"]  # set by the engine where the user did not
    settings = {name: getattr(arguments, name) for name in ("network", "images", "batch", "threads", "processes")}
    settings |= {"backend": backend, "device": device, "device_name": device_name(device)}
    settings["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None

    print(
        f"{arguments.network}, batch {arguments.batch}, {backend} on {settings['device_name']}, {usable_cores()} cores"
    )
    print(f"{'':22}{'network':>10}{'decoding':>10}{'whole':>10}  {'bound by':10}{'of bound':>9}{'cosine':>11}")
    for row in result["rows"]:
        cosine = "-" if row["lowest_cosine"] is None else f"{row['lowest_cosine']:.6f}"
        print(
            f"{row['dtype'] + ', ' + row['decoding_by']:22}{row['network_images_per_second']:10}"
            f"{row['decoding_images_per_second']:10}{row['whole_images_per_second']:10}  {row['bound_by']:10}"
            f"{row['of_bound']:9.2f}{cosine:>11}"
        )
    if cpu is not None:
        best = max(row["whole_images_per_second"] for row in result["rows"])
        cpu["speed_ratio"] = round(best / cpu["images_per_second"], 2)
        ratio = f"the best above is {cpu['speed_ratio']} times as fast"
        print(f"{cpu['engine'] + ' on the CPU':42}{cpu['images_per_second']:10}  {ratio}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / f"bench_gpu_{arguments.network}_{backend}_{device}.json"
    target.write_text(json.dumps({**settings, **result, "cpu": cpu}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {target}")


if __name__ == "__main__":
    main()
