"""Training on stored features: ``python scripts/bench_transfer.py [--parts NAME ...] [--photos FOLDER]``.

Parts: ``heads`` (labelled photos in folders, needs ``--photos``): accuracy of a linear head on the compact network's
pooled features and of a linear and a dense head on its conv maps, beside the nearest class mean on 16 x 16 thumbnails
and on colour histograms, all on the same split. ``epoch``: one epoch of a dense head in Keras from the store, against
the same from an array in memory. ``laptop``: the job of an 8 GB laptop, in a control group that the kernel enforces
(Linux, as root): VGG16's conv maps of 14 x 14 x 512 extracted, stored, and a dense head trained on them, all within
1 GiB. VGG16's weights are random there, which makes the work the same; photos come from ``--photos``, or are drawn.

Prints what was measured and writes ``bench_transfer.json``. ``laptop`` takes a quarter of an hour at 6,000 photos.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.config import parse_bytes
from streamer.images.drawn import draw_pictures
from streamer.images.histogram import hsv_histogram
from streamer.records import FeatureBatch, ImageRef
from streamer.store import FeatureSpec, Store, StoreWriter

ROOT = Path(__file__).resolve().parents[1]
STREAMER = [sys.executable, "-m", "streamer"]
Say = Callable[[Sequence[str]], dict[str, Any]]


def streamer(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command; the object that it prints."""
    done = subprocess.run([*STREAMER, *arguments, "--json"], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode not in (0, 3):
        sys.exit(f"streamer {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def extracted(folder: Path, photos: Path, network: str, run: Say = streamer) -> tuple[Path, dict[str, Any]]:
    """A store of a folder of photos, made by ``streamer extract``, and its report."""
    config = folder / "config.yaml"
    text = f"store: {folder / 'a.store'}\nsource: {{folder: {photos.resolve()}}}\n{network}\n"
    config.write_text(text, encoding="utf-8")
    return folder / "a.store", run(["extract", str(config)])


# -- the parts ---------------------------------------------------------------------------------------------------------


def heads(folder: Path, photos: Path, exclude: Sequence[str]) -> dict[str, Any]:
    """Accuracy on photos that no head has seen."""
    outputs = "[{layer: block4_pool, pooling: gem, grid: 3}, {layer: block4_pool}]"
    network = f"backbone: {{name: vgg16_compact, outputs: {outputs}}}\nmemory: {{budget: 1GiB}}"
    path, _ = extracted(folder, photos, network)
    left_out = [part for label in exclude for part in ("--exclude-label", label)]
    found: dict[str, Any] = {}
    for name, options in {
        "linear_pooled": ["--output", "block4_pool:gem:3x3"],
        "linear_maps": ["--output", "block4_pool"],
        "dense_pooled": ["--output", "block4_pool:gem:3x3", "--kind", "dense"],
        "dense_maps": ["--output", "block4_pool", "--kind", "dense"],
    }.items():
        report = streamer(["train", str(path), *options, *left_out])
        kept = ("classes", "train_rows", "test_rows", "before_accuracy", "test_accuracy", "seconds", "epochs")
        found[name] = {key: report[key] for key in kept}
    found |= {f"nearest_mean_{name}": value for name, value in nearest_means(path, exclude).items()}
    return found


def nearest_means(path: Path, exclude: Sequence[str]) -> dict[str, float]:
    """Accuracy of the nearest class mean, on thumbnails and on colour histograms, on the split of the heads."""
    from PIL import Image

    class Labels:
        """Those of the store, but for the excluded."""

        def __init__(self, store: Store) -> None:
            entries = store.entries(store.images()[:, 0].tolist()).values()
            self.labels = {entry.key: "" if entry.label in exclude else entry.label for entry in entries}

        def get(self, key: str, default: str, /) -> str:
            return self.labels.get(key, default)

    sides: dict[str, dict[str, NDArray[Any]]] = {}
    with Store(path) as store:
        labels = Labels(store)
        for side in ("train", "test"):
            dataset = store.dataset(framework="numpy", split=side, labels=labels)
            entries = store.entries(dataset.ids.tolist())
            thumbnails, histograms = [], []
            for number in dataset.ids.tolist():
                with Image.open(entries[number].path) as opened:
                    picture = opened.convert("RGB")
                thumbnails.append(np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR)).ravel() / 255)
                histograms.append(hsv_histogram(np.asarray(picture.resize((80, 80), Image.Resampling.BILINEAR))))
            arrays = {"thumbnails": np.array(thumbnails), "histograms": np.array(histograms)}
            sides[side] = {**arrays, "labels": dataset.labels}
    return {name: _nearest_mean(sides, name) for name in ("thumbnails", "histograms")}


def _nearest_mean(sides: dict[str, dict[str, NDArray[Any]]], name: str) -> float:
    train, test = sides["train"], sides["test"]
    classes = np.unique(train["labels"])
    means = np.stack([train[name][train["labels"] == each].mean(axis=0) for each in classes])
    away = np.square(test[name]).sum(1)[:, None] - 2 * test[name] @ means.T + np.square(means).sum(1)
    return float((classes[away.argmin(axis=1)] == test["labels"]).mean())


def epoch(folder: Path, rows: int, rounds: int = 3) -> dict[str, Any]:
    """Seconds of an epoch from the store and from memory, the same model and batches of 32."""
    import keras

    found: dict[str, Any] = {}
    for name, shape, count in (("pooled", (512,), 20 * rows), ("maps", (14, 14, 512), rows)):
        path = folder / f"{name}.store"
        _fill(path, shape, count)
        with Store(path) as store:
            dataset = store.dataset(framework="keras")
            plain = store.dataset(framework="numpy", shuffle=False, batch_size=256)
            in_memory = np.concatenate([features for features, _ in plain])
            labels = plain.labels

            def model(shape: tuple[int, ...] = shape) -> Any:
                keras.utils.set_random_seed(0)
                layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(64, "relu")]
                made = keras.Sequential([*layers, keras.layers.Dropout(0.5), keras.layers.Dense(10, "softmax")])
                made.compile("adam", "sparse_categorical_crossentropy")
                return made

            stored, held = model(), model()
            taken: dict[str, list[float]] = {"store": [], "memory": []}
            for number in range(rounds + 1):
                for side, fit in {
                    "store": partial(stored.fit, dataset, shuffle=False, verbose=0),
                    "memory": partial(held.fit, in_memory, labels, batch_size=32, verbose=0),
                }.items():
                    began = time.perf_counter()
                    fit()
                    if number:  # the first round compiles
                        taken[side].append(time.perf_counter() - began)
        seconds = {side: statistics.median(each) for side, each in taken.items()}
        found[name] = {"rows": count, **{f"{side}_seconds": round(value, 3) for side, value in seconds.items()}}
        found[name]["ratio"] = round(seconds["store"] / seconds["memory"], 3)
    return found


def _fill(path: Path, shape: tuple[int, ...], count: int) -> None:
    """Write a store of drawn features in ten classes, half of them zeros."""
    random = np.random.default_rng(0)
    spec = FeatureSpec("vgg16", "random", 0, "0" * 64, (224, 224), "bench", "full", {"features": shape})
    with StoreWriter(path, spec, engine="drawn", limits="none") as writer:
        for start in range(0, count, 100):
            numbers = range(start, min(count, start + 100))
            refs = tuple(ImageRef(f"{number % 10}/{number}", "", 1, 1, str(number % 10)) for number in numbers)
            contents = tuple(blake2b(str(number).encode(), digest_size=16).digest() for number in numbers)
            drawn = np.maximum(random.standard_normal((len(numbers), *shape), dtype=np.float32), 0)
            writer.append(FeatureBatch(refs, contents, {"features": drawn}))


def laptop(folder: Path, photos: Path | None, count: int, budget: str) -> dict[str, Any]:
    """Conv maps of so many photos, and a dense head on them, each command in a group of so much memory."""
    sys.path.insert(0, str(ROOT))
    from tests.memory_group import memory_group

    chosen = folder / "photos"
    if photos is None:
        draw_pictures(chosen, classes=20, per_class=count // 20, side=160, seed=1)
    else:
        _link(photos, chosen, count)
    found: dict[str, Any] = {}
    network = (
        "backbone: {name: vgg16, weights: random, outputs: [{layer: block5_conv3}]}\nindex: {kind: exact}\n"
        f"memory: {{budget: {budget}}}\nstorage: {{compression: gzip}}"
    )

    def within(name: str) -> Say:
        def run(arguments: Sequence[str]) -> dict[str, Any]:
            began = time.perf_counter()
            with memory_group(parse_bytes(budget)) as group:
                done = group.run([*STREAMER, *arguments, "--json"])
                peak = group.peak_bytes
            if done.returncode not in (0, 3):
                sys.exit(f"streamer {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
            found[f"{name}_seconds"] = round(time.perf_counter() - began, 1)
            found[f"{name}_group_peak_mib"] = round(peak / 2**20)
            return dict(json.loads(done.stdout))

        return run

    path, report = extracted(folder, chosen, network, within("extract"))
    raw = 4 * 14 * 14 * 512 * report["images"]["added"]
    stored = sum(file.stat().st_size for file in (path / "features").iterdir())
    trained = within("train")(["train", str(path), "--kind", "dense", "--memory", budget, "--epochs", "5"])
    return {
        "images": report["images"]["added"],
        "images_per_second": report["images_per_second"],
        "peak_rss_mib": round(report["peak_rss_bytes"] / 2**20),
        "raw_mb": round(raw / 1e6),
        "stored_share": round(stored / raw, 3),
        **{f"train_{name}": trained[name] for name in ("classes", "train_rows", "epochs", "test_accuracy", "settings")},
        **found,
    }


def _link(photos: Path, target: Path, count: int) -> None:
    """Take `count` photos evenly from all folders."""
    every = sorted(path for path in photos.rglob("*") if path.is_file())
    for number in np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int).tolist():
        place = target / every[number].relative_to(photos)
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            place.symlink_to(every[number].resolve())


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=["heads", "epoch", "laptop"], default=["heads", "epoch", "laptop"]
    )
    parser.add_argument("--photos", type=Path, help="folders of photos, a class each")
    parser.add_argument("--exclude-label", nargs="*", default=[], dest="exclude", help="classes that are clutter")
    parser.add_argument("--images", type=int, default=6000, help="of the part laptop")
    parser.add_argument("--rows", type=int, default=1000, help="conv maps of the part epoch")
    parser.add_argument("--budget", default="1GiB", help="of the part laptop")
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if part == "heads":
                if arguments.photos is None:
                    print("heads: left out, it needs --photos")
                    continue
                found[part] = heads(folder, arguments.photos, arguments.exclude)
            elif part == "epoch":
                found[part] = epoch(folder, arguments.rows)
            else:
                found[part] = laptop(folder, arguments.photos, arguments.images, arguments.budget)
        print(f"{part}:")
        for name, value in found[part].items():
            print(f"  {name:28} {value}", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "bench_transfer.json"
    target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written: {target}")


if __name__ == "__main__":
    main()
