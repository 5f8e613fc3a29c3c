"""Extraction speed and memory against Keras, in one run: ``python scripts/bench_extract.py [--photos FOLDER]``.

Every contender gets the same photos and network (random weights of the same kind) in a process of its own; rounds
alternate, so that a noisy machine is noisy for all. Keras' images per second leave its start-up out; ours are those of
the whole ``streamer extract``, start-up, decoding and storing included. Seconds are those of the whole process, once
with all photos and once with one of them: what passes before the first feature is there. Memory is the peak resident
size of the process. The limit of direct convolution is what the machine's matrix product would give if no
multiplication were saved.

Prints a table, writes ``bench_extract.json`` and, where matplotlib is installed, ``bench_extract.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
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
KERAS_WAYS = {"Keras predict, batch 32": "predict", "Keras called, batch 8": "call"}

KERAS = r"""
import json, sys, time
import numpy as np
import keras
from pathlib import Path

name, layer, side, way, folder, output = sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:7]
application = {"vgg16": keras.applications.vgg16, "resnet50": keras.applications.resnet50,
               "inception_v3": keras.applications.inception_v3}[name]
network = {"vgg16": "VGG16", "resnet50": "ResNet50", "inception_v3": "InceptionV3"}[name]
top = layer in ("fc1", "fc2", "avg_pool", "predictions")
model = getattr(application, network)(include_top=top, weights=None, input_shape=(side, side, 3))
model = keras.Model(model.input, model.get_layer(layer).output)
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


def measured(command: list[str], environment: dict[str, str] | None = None) -> dict:
    """Run a command; return its images per second, its peak resident size in bytes, and the seconds it took."""
    began = time.perf_counter()
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
    rate = json.loads(out.splitlines()[-1])["images_per_second"]
    return {"images_per_second": rate, "peak_rss_bytes": peak, "seconds": time.perf_counter() - began}


def streamer(network: str, layer: str, budget: str, precision: str, photos: Path, folder: Path) -> dict:
    """One ``streamer extract`` into an empty store."""
    settings = {
        "store": str(folder / "a.store"),
        "source": {"folder": str(photos)},
        "backbone": {"name": network, "weights": "random", "outputs": [{"layer": layer}]},
        "memory": {"budget": budget},
        "device": "cpu",
        "precision": precision,
    }
    config = folder / "a.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return measured([sys.executable, "-m", "streamer", "extract", str(config), "--json"])


def keras(network: str, layer: str, way: str, photos: Path, folder: Path) -> dict:
    """The usual loop around ``model.predict``, or around the model called directly."""
    side = str(NETWORKS[network][1])
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    code = [sys.executable, "-c", KERAS]
    return measured([*code, network, layer, side, way, str(photos), str(folder / "a.h5")], environment)


def matmul_gflops(size: int = 2048, rounds: int = 5) -> float:
    """Rate of the machine's float32 matrix product, GFLOP/s."""
    a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds) / 1e9


def network_gflop(network: str, layer: str) -> float:
    """Operations of one image up to the layer that is extracted, in GFLOP."""
    from streamer.backbones import get_backbone

    backbone = get_backbone(network)
    graph = backbone.graph.until({layer})
    shapes = graph.shapes(backbone.default_input_size)
    weights = {layer.name: layer.weights for layer in graph.weights(backbone.default_input_size)}
    return sum(
        2 * int(np.prod(weights[node.name][0][1])) * int(np.prod(shapes[node.name][:-1]))
        for node in graph.nodes
        if node.op in ("conv", "dense")
    ) / 1e9  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; without it, pictures are drawn")
    parser.add_argument("--images", type=int, default=120, help="how many pictures to draw (default 120)")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="vgg16")
    parser.add_argument("--layer", help="default: the last map")
    parser.add_argument("--budgets", nargs="+", default=["1GiB", "384MiB", "256MiB"], help="'512MiB:mixed' is possible")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()
    network, layer = arguments.network, arguments.layer or NETWORKS[arguments.network][0]

    def run(name: str, photos: Path) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            if name in KERAS_WAYS:
                return keras(network, layer, KERAS_WAYS[name], photos, Path(folder))
            budget, _, precision = name.removeprefix("streamer, ").partition(":")
            return streamer(network, layer, budget, precision or "full", photos, Path(folder))

    contenders = [*KERAS_WAYS, *(f"streamer, {budget}" for budget in arguments.budgets)]
    runs: dict[str, list[dict]] = {name: [] for name in contenders}
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        photos, one = arguments.photos or Path(scratch) / "photos", Path(scratch) / "one"
        if arguments.photos is None:
            from streamer.images.drawn import draw_pictures

            draw_pictures(photos, classes=None, per_class=-(-arguments.images // 12), side=320, seed=1)
        paths = sorted(photos.rglob("*.jpg"))
        one.mkdir()
        shutil.copy(paths[0], one)
        for number in range(arguments.rounds):
            for name in contenders:
                runs[name].append(run(name, photos))
                line = "{images_per_second:.2f} img/s, {peak_rss_bytes:,} bytes, {seconds:.1f} s".format(
                    **runs[name][-1]
                )
                print(f"round {number + 1}: {name}: {line}", file=sys.stderr, flush=True)
        for name in contenders:
            first[name] = run(name, one)["seconds"]

    def median(name: str, figure: str) -> float:
        return statistics.median(each[figure] for each in runs[name])

    base = contenders[0]
    limit = matmul_gflops() / network_gflop(network, layer)
    rows = [
        {
            "contender": name,
            "images_per_second": round(median(name, "images_per_second"), 3),
            "peak_rss_bytes": int(median(name, "peak_rss_bytes")),
            "seconds": round(median(name, "seconds"), 2),
            "seconds_for_one": round(first[name], 2),
            "speed_ratio": round(median(name, "images_per_second") / median(base, "images_per_second"), 3),
            "process_ratio": round(median(base, "seconds") / median(name, "seconds"), 3),
            "memory_ratio": round(median(name, "peak_rss_bytes") / median(base, "peak_rss_bytes"), 3),
        }
        for name in contenders
    ]
    machine = platform.processor() or platform.machine()
    print(f"\n{network} {layer}, {len(paths)} photos, {os.cpu_count()} cores ({machine})")
    print(f"{'':28}{'img/s':>8}{'s':>7}{'s for one':>11}{'peak MB':>9}{'img/s':>9}{'whole s':>9}{'memory':>9}")
    for row in rows:
        print(
            f"{row['contender']:28}{row['images_per_second']:8.2f}{row['seconds']:7.1f}{row['seconds_for_one']:11.1f}"
            f"{row['peak_rss_bytes'] / 1e6:9.0f}{row['speed_ratio']:8.2f}x{row['process_ratio']:8.2f}x"
            f"{row['memory_ratio']:8.2f}x"
        )
    print(f"{'direct-convolution limit':28}{limit:8.2f}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = {"network": network, "layer": layer, "photos": len(paths), "rows": rows, "rounds": runs}
    result["direct_convolution_limit"] = round(limit, 3)
    target = arguments.output / f"bench_extract_{network}_{layer}.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(rows, limit, f"{network} {layer}", target.with_suffix(".png"))
    print(f"written: {target}")


def draw(rows: list[dict], limit: float, title: str, target: Path) -> None:
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
    left.set_title(f"{title}: images per second\n(dashed: direct-convolution limit)", fontsize=10)
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
