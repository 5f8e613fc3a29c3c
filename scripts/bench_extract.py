"""Extraction speed and memory against Keras, in one run: ``python scripts/bench_extract.py [--photos FOLDER]``.

Every contender gets the same photos and network (random weights of the same kind) in a process of its own; rounds
alternate, so that a noisy machine is noisy for all. Keras' rates leave its start-up out; ours are those of the whole
``streamer extract``, start-up, decoding and storing included. Memory is the peak resident size of the process. The
limit of direct convolution is what the machine's matrix product would give if no multiplication were saved.

Prints a table, writes ``bench_extract.json`` and, where matplotlib is installed, ``bench_extract.png``.
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
from pathlib import Path

import numpy as np
import yaml

# Multiply-adds of one image, times two: from the layers' shapes at the default input size.
NETWORKS = {"vgg16": ("block5_pool", 224), "resnet50": ("conv5_block3_out", 224), "inception_v3": ("mixed10", 299)}

KERAS = r"""
import json, sys, time
import numpy as np
import keras
from pathlib import Path

name, side, way, folder, output = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
application = {"vgg16": keras.applications.vgg16, "resnet50": keras.applications.resnet50,
               "inception_v3": keras.applications.inception_v3}[name]
network = {"vgg16": "VGG16", "resnet50": "ResNet50", "inception_v3": "InceptionV3"}[name]
model = getattr(application, network)(include_top=False, weights=None, input_shape=(side, side, 3))
paths = sorted(Path(folder).rglob("*.jpg"))
import h5py
batch_size = 32 if way == "predict" else 8

def batches():
    for start in range(0, len(paths), batch_size):
        images = [keras.utils.load_img(path, target_size=(side, side), interpolation="bilinear")
                  for path in paths[start:start + batch_size]]
        yield application.preprocess_input(np.stack([keras.utils.img_to_array(image) for image in images]))

def run(x):
    return model.predict(x, verbose=0) if way == "predict" else np.asarray(model(x, training=False))

run(np.zeros((batch_size, side, side, 3), "float32"))
began = time.perf_counter()
with h5py.File(output, "w") as file:
    features = None
    for x in batches():
        y = run(x)
        if features is None:
            shape = y.shape[1:]
            features = file.create_dataset("features", (0, *shape), maxshape=(None, *shape), dtype="float32")
        features.resize(len(features) + len(y), axis=0)
        features[-len(y):] = y
print(json.dumps({"images_per_second": len(paths) / (time.perf_counter() - began)}))
"""


def peak_of(command: list[str], environment: dict[str, str] | None = None) -> tuple[dict, int]:
    """Run a command; return the JSON object it printed, and its peak resident size in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    if hasattr(os, "wait4"):
        assert process.stdout is not None and process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    else:
        import psutil

        peak, watched = 0, psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, getattr(watched.memory_info(), "peak_wset", 0))
            time.sleep(0.02)
        out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command[:4])} ... failed:\n{err[-2000:]}")
    return json.loads(out.splitlines()[-1]), peak


def streamer(network: str, budget: str, photos: Path, folder: Path) -> tuple[dict, int]:
    """One ``streamer extract`` into an empty store."""
    layer, _ = NETWORKS[network]
    settings = {
        "store": str(folder / "a.store"),
        "source": {"folder": str(photos)},
        "backbone": {"name": network, "weights": "random", "outputs": [{"layer": layer}]},
        "memory": {"budget": budget},
        "device": "cpu",
    }
    config = folder / "a.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return peak_of([sys.executable, "-m", "streamer", "extract", str(config), "--json"])


def keras(network: str, way: str, photos: Path, folder: Path) -> tuple[dict, int]:
    """The usual loop around ``model.predict``, or around the model called directly."""
    side = str(NETWORKS[network][1])
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    return peak_of([sys.executable, "-c", KERAS, network, side, way, str(photos), str(folder / "a.h5")], environment)


def matmul_gflops(size: int = 2048, rounds: int = 5) -> float:
    """Rate of the machine's float32 matrix product, GFLOP/s."""
    a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds) / 1e9


def network_gflop(network: str) -> float:
    """Operations of one image up to the layer that is extracted, in GFLOP."""
    from streamer.backbones import get_backbone

    backbone = get_backbone(network)
    graph = backbone.graph.until({NETWORKS[network][0]})
    shapes = graph.shapes(backbone.default_input_size)
    weights = {layer.name: layer.weights for layer in graph.weights(backbone.default_input_size)}
    return sum(
        2 * int(np.prod(weights[node.name][0][1])) * int(np.prod(shapes[node.name][:2]))
        for node in graph.nodes
        if node.op == "conv"
    ) / 1e9  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; without it, pictures are drawn")
    parser.add_argument("--images", type=int, default=120, help="how many pictures to draw (default 120)")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="vgg16")
    parser.add_argument("--budgets", nargs="+", default=["1GiB", "384MiB", "256MiB"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()

    contenders = {"Keras predict, batch 32": ("predict",), "Keras called, batch 8": ("call",)}
    contenders |= {f"streamer, {budget}": (None, budget) for budget in arguments.budgets}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, list[int]] = {name: [] for name in contenders}
    details: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        photos = arguments.photos or Path(scratch) / "photos"
        if arguments.photos is None:
            from streamer.images.drawn import draw_pictures

            draw_pictures(photos, classes=None, per_class=-(-arguments.images // 10), side=320, seed=1)
        count = len(list(photos.rglob("*.jpg")))
        for number in range(arguments.rounds):
            for name, (way, *budget) in contenders.items():
                with tempfile.TemporaryDirectory() as folder:
                    if way is None:
                        data, peak = streamer(arguments.network, budget[0], photos, Path(folder))
                    else:
                        data, peak = keras(arguments.network, way, photos, Path(folder))
                rates[name].append(data["images_per_second"])
                peaks[name].append(peak)
                details[name] = data
                line = f"round {number + 1}: {name}: {rates[name][-1]:.2f} img/s, {peak / 1e6:.0f} MB"
                print(line, file=sys.stderr, flush=True)

    base = "Keras predict, batch 32"
    limit = matmul_gflops() / network_gflop(arguments.network)
    rows = [
        {
            "contender": name,
            "images_per_second": round(statistics.median(rates[name]), 3),
            "peak_rss_bytes": int(statistics.median(peaks[name])),
            "speed_ratio": round(statistics.median(rates[name]) / statistics.median(rates[base]), 3),
            "memory_ratio": round(statistics.median(peaks[name]) / statistics.median(peaks[base]), 3),
        }
        for name in contenders
    ]
    print(
        f"\n{arguments.network}, {count} photos, {os.cpu_count()} cores ({platform.processor() or platform.machine()})"
    )
    print(f"{'':28}{'img/s':>8}{'peak MB':>9}{'speed':>9}{'memory':>9}")
    for row in rows:
        print(
            f"{row['contender']:28}{row['images_per_second']:8.2f}{row['peak_rss_bytes'] / 1e6:9.0f}"
            f"{row['speed_ratio']:8.2f}x{row['memory_ratio']:8.2f}x"
        )
    print(f"{'direct-convolution limit':28}{limit:8.2f}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = {"network": arguments.network, "photos": count, "rows": rows, "direct_convolution_limit": round(limit, 3)}
    result["rounds"] = {name: {"images_per_second": rates[name], "peak_rss_bytes": peaks[name]} for name in contenders}
    target = arguments.output / f"bench_extract_{arguments.network}.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(rows, limit, arguments.network, target.with_suffix(".png"))
    print(f"written: {target}")


def draw(rows: list[dict], limit: float, network: str, target: Path) -> None:
    """Two bar charts side by side: rate and peak memory."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no picture: matplotlib is not installed (pip install 'streamer[plots]')")
        return
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [row["contender"] for row in rows]
    colours = ["#9ca3af" if name.startswith("Keras") else "#2563eb" for name in names]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.5 * len(rows) + 1.6), sharey=True)
    rate = left.barh(names, [row["images_per_second"] for row in rows], color=colours)
    left.bar_label(rate, fmt="%.1f", padding=3)
    left.axvline(limit, color="#dc2626", linestyle="--", linewidth=1)
    left.set_title(f"{network}: images per second\n(dashed: direct-convolution limit)", fontsize=10)
    memory = right.barh(names, [row["peak_rss_bytes"] / 1e6 for row in rows], color=colours)
    right.bar_label(memory, fmt="%.0f", padding=3)
    right.set_title("peak resident memory, MB", fontsize=10)
    left.invert_yaxis()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main()
