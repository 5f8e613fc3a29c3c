"""Train the compact VGG16 that comes with the package, or write the shipped files from trained weights.

    python scripts/train_compact.py train DATA --output FOLDER [--minutes 95]
    python scripts/train_compact.py export WEIGHTS.npz RECORD.json --output FOLDER

DATA is a folder of photos with one sub-folder for each label (Tiny ImageNet's own layout, with ``images`` in between,
works too), or a .tar of one. Training needs PyTorch (the extra ``train``), runs on a GPU or a CPU, stops when its time
is up, and may be interrupted: the same command goes on from the last checkpoint in FOLDER. Then it folds the batch
normalisation away and writes ``vgg16_compact.h5``, ``vgg16_compact.txt`` (the graph) and ``CARD.md``.

The recipe: SGD with Nesterov momentum 0.9, batches of 128, weight decay 5e-4 on every parameter; the learning rate
rises for the first tenth of the time to 0.12 and falls by a cosine to 1e-4; label smoothing 0.1; random flips and
square crops of 44 to 64 pixels, resized to the working size: 32 pixels for the first 35 % of the time, 48 until 75 %,
then 64. The head, global average pooling and one linear layer, is thrown away. One photo in twenty of each label is
held out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import signal
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from compact_export import SHIPPED_WIDTH, compact_graph, export, folded, read_npz
from numpy.typing import NDArray

from streamer.images import FolderSource
from streamer.images.decode import decode_stream
from streamer.images.pixels import DecodeLimits
from streamer.records import Decoded, ImageRef

if TYPE_CHECKING:
    import torch

SIDE = 64
MEANS = (103.939, 116.779, 123.68)  # of ImageNet, blue, green, red: what Keras' VGG16 subtracts
HELD_OUT = 20
CHECKPOINT_SECONDS = 60.0
REPORT_SECONDS = 15.0
TEST_SIZES = (64, 72, 80)
LIMITS = DecodeLimits(max_pixels=100_000_000, max_file_bytes=2**28, memory_bytes=2**28)
LIMITS_OF_USE = (
    "It saw photos of things that fill the picture. What was not among its photos it knows nothing of.",
    "Its preprocessing is VGG16's: BGR, minus the ImageNet means.",
    "What its photos over- and under-represent, it does too. Not for decisions about people.",
)


@dataclass(frozen=True)
class Recipe:
    """What decides how the weights come out, besides the photos and the machine's speed."""

    minutes: float = 95
    width: str = str(SHIPPED_WIDTH)
    seed: int = 0
    batch: int = 128
    momentum: float = 0.9
    peak_rate: float = 0.12
    last_rate: float = 1e-4
    warm_up: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    smallest_crop: int = 44
    sizes: tuple[tuple[int, float], ...] = ((32, 0.35), (48, 0.75), (64, 1.0))

    def rate(self, share: float) -> float:
        """Learning rate when that share of the time is over."""
        if share < self.warm_up:
            return self.peak_rate * max(share / self.warm_up, 0.01)
        fallen = (1 + math.cos(math.pi * min(1.0, (share - self.warm_up) / (1 - self.warm_up)))) / 2
        return self.last_rate + (self.peak_rate - self.last_rate) * fallen

    def size(self, share: float) -> int:
        """Working size, pixels."""
        return next((size for size, until in self.sizes if share < until), self.sizes[-1][0])


# -- photos -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photos:
    """Decoded photos: on disk, read a batch at a time.

    Attributes
    ----------
    pixels : ndarray of shape (n, 64, 64, 3), uint8
        RGB.
    labels : ndarray of shape (n,), int64
    names : list of str
    source : str
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: list[str]
    source: str

    def split(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Places to train on, and places held out: one in twenty of each label, and at least one."""
        order = np.random.default_rng(0).permutation(len(self.labels))
        by_label = [order[self.labels[order] == label] for label in range(len(self.names))]
        held = np.concatenate([places[: max(1, len(places) // HELD_OUT)] for places in by_label])
        return np.setdiff1d(order, held), np.sort(held)


def label_of(ref: ImageRef) -> str:
    """Name of the photo's folder; of the one above where that is just called images."""
    parts = ref.key.split("/")[:-1]
    if parts and parts[-1] == "images":
        parts.pop()
    return parts[-1] if parts else ""


def load_photos(data: Path, output: Path) -> Photos:
    """Decode every photo once, into a file that is memory-mapped: a small machine trains on many photos."""
    about, array = output / "photos.json", output / "photos.npy"
    if not about.exists():
        folder = data
        if data.is_file():
            folder = output / "photos"
            with tarfile.open(data) as archive:
                archive.extractall(folder, filter="data")
        refs = [ref for ref in FolderSource(folder) if isinstance(ref, ImageRef) and label_of(ref)]
        if len({label_of(ref) for ref in refs}) < 2:
            sys.exit(
                f"{data}: holds photos of {len({*map(label_of, refs)})} labels; one sub-folder a label is expected"
            )
        pixels = np.lib.format.open_memmap(array, "w+", np.uint8, (len(refs), SIDE, SIDE, 3))
        threads = os.cpu_count() or 1
        stream = decode_stream(
            iter(refs), size=(SIDE, SIDE), threads=threads, lookahead_images=4 * threads, limits=LIMITS
        )
        labels: list[str] = []
        for decoded in stream:
            if isinstance(decoded, Decoded):
                pixels[len(labels)] = decoded.pixels
                labels.append(label_of(decoded.ref))
            else:
                print(f"left out: {decoded.ref.key}: {decoded.reason}", file=sys.stderr)
        pixels.flush()
        write_whole(about, json.dumps({"source": data.name, "labels": labels}))
    record = json.loads(about.read_text(encoding="utf-8"))
    names = sorted(set(record["labels"]))
    number = {name: place for place, name in enumerate(names)}
    labels = np.array([number[label] for label in record["labels"]], dtype=np.int64)
    return Photos(np.load(array, mmap_mode="r")[: len(labels)], labels, names, record["source"])


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    part = path.with_name(path.name + ".partial")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def batches(places: NDArray[np.intp], batch: int, seed: int, done: int) -> Iterator[NDArray[np.intp]]:
    """Batches without end, each epoch in an order of its own; `done` of them are passed over."""
    per_epoch = max(1, len(places) // batch)
    for number in itertools.count(done):
        epoch, at = divmod(number, per_epoch)
        if at == 0 or number == done:
            order = np.random.default_rng((seed, epoch)).permutation(places)
        yield order[at * batch : (at + 1) * batch]


# -- network ----------------------------------------------------------------------------------------------------------


def build(width: Fraction, labels: int) -> torch.nn.Module:
    """Build the network as it is trained: convolutions without bias, batch normalisation, ReLU; and the head."""
    from torch import nn

    layers: dict[str, nn.Module] = {}
    channels = 3
    for node in compact_graph(width).nodes:
        if node.op == "conv":
            layers[node.name] = nn.Conv2d(channels, node.channels, 3, padding=1, bias=False)
            layers[f"{node.name}_norm"] = nn.BatchNorm2d(node.channels)
            layers[f"{node.name}_relu"] = nn.ReLU(inplace=True)
            channels = node.channels
        elif node.op == "max_pool":
            layers[node.name] = nn.MaxPool2d(2)
    body = nn.Sequential()
    for name, layer in layers.items():
        body.add_module(name, layer)
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, labels))
    return nn.Sequential(body, head)


def preprocessed(pixels: torch.Tensor) -> torch.Tensor:
    """Turn RGB bytes ``(n, height, width, 3)`` into what the network takes: BGR minus the means, channels first."""
    import torch

    bgr = pixels.permute(0, 3, 1, 2).flip(1).float()
    return bgr - torch.tensor(MEANS, device=pixels.device).view(1, 3, 1, 1)


def augmented(images: torch.Tensor, size: int, smallest: int, generator: torch.Generator) -> torch.Tensor:
    """Flip half of the images, and resize a random square crop of each to `size`, in one resampling."""
    import torch

    count, side = len(images), images.shape[-1]
    crop = torch.randint(smallest, side + 1, (count,), generator=generator).float()
    corner = torch.rand(count, 2, generator=generator) * (side - crop)[:, None]
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    centre = (2 * corner + crop[:, None]) / side - 1
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = crop / side * flip, crop / side
    theta[:, :, 2] = centre
    grid = torch.nn.functional.affine_grid(theta.to(images.device), [count, 3, size, size], align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False, padding_mode="border")


def folded_weights(model: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """Fold each batch normalisation into the convolution before it; by ``layer/kernel`` and ``layer/bias``."""
    from torch import nn

    arrays: dict[str, NDArray[np.float32]] = {}
    body = dict(model[0].named_children())
    for name, layer in body.items():
        if isinstance(layer, nn.Conv2d):
            norm = body[f"{name}_norm"]
            statistics = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            gamma, beta, mean, variance = (each.detach().float().cpu().numpy() for each in statistics)
            kernel = layer.weight.detach().float().cpu().numpy().transpose(2, 3, 1, 0)
            arrays[f"{name}/kernel"], arrays[f"{name}/bias"] = folded(kernel, gamma, beta, mean, variance, norm.eps)
    return arrays


# -- training ---------------------------------------------------------------------------------------------------------


class Training:
    """The network, its optimiser and how far they are; in a checkpoint, and out of it."""

    def __init__(self, recipe: Recipe, photos: Photos, output: Path, device: str) -> None:
        import torch

        self.recipe, self.photos, self.output, self.device = recipe, photos, output, device
        torch.manual_seed(recipe.seed)
        self.model = build(Fraction(recipe.width), len(photos.names)).to(device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.SGD(
            self.model.parameters(), 0.0, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
        )
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.seconds, self.steps, self.samples = 0.0, 0, 0
        self._resume()

    @property
    def share(self) -> float:
        """How much of the time is over."""
        return self.seconds / (60 * self.recipe.minutes)

    def _resume(self) -> None:
        import torch

        path = self.output / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, value in asdict(self.recipe).items():
            was = state["recipe"][name]
            if json.dumps(value) != json.dumps(was):
                sys.exit(f"{path}: was made with {name} {was}, not {value}; give the same, or another --output")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.seconds, self.steps, self.samples = state["seconds"], state["steps"], state["samples"]
        print(f"going on from {path}: {self.samples} samples, {self.seconds / 60:.1f} minutes", flush=True)

    def save(self) -> None:
        """Write a checkpoint; the one before it is there until this one is whole."""
        import torch

        part = self.output / "checkpoint.pt.partial"
        state = {name: getattr(self, name) for name in ("seconds", "steps", "samples")}
        state |= {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        state |= {"generator": self.generator.get_state(), "recipe": json.loads(json.dumps(asdict(self.recipe)))}
        torch.save(state, part)
        part.replace(self.output / "checkpoint.pt")

    def run(self, stopped: list[int]) -> bool:
        """Train until the time is over; return False if a signal came before."""
        places, _ = self.photos.split()
        saved = reported = time.monotonic()
        since = self.samples
        for batch in batches(places, self.recipe.batch, self.recipe.seed, self.steps):
            if self.share >= 1 or stopped:
                break
            began = time.monotonic()
            loss = self._step(batch)
            now = time.monotonic()
            self.seconds += now - began
            if now - reported > REPORT_SECONDS:
                rate = (self.samples - since) / (now - reported)
                left = (1 - self.share) * self.recipe.minutes
                size, speed = self.recipe.size(self.share), self.recipe.rate(self.share)
                print(
                    f"{self.share:6.1%}  {self.samples} samples  loss {loss:.3f}  rate {speed:.4f}  size {size}  "
                    f"{rate:.0f} photos/s  {left:.0f} min to go",
                    flush=True,
                )
                reported, since = now, self.samples
            if now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = now
        self.save()
        return not stopped

    def _step(self, batch: NDArray[np.intp]) -> float:
        import torch

        self.model.train()
        share = self.share
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(share)
        pixels = torch.from_numpy(self.photos.pixels[np.sort(batch)]).to(self.device)
        labels = torch.from_numpy(self.photos.labels[np.sort(batch)]).to(self.device)
        images = augmented(preprocessed(pixels), self.recipe.size(share), self.recipe.smallest_crop, self.generator)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            scores = self.model(images)
        loss = torch.nn.functional.cross_entropy(scores.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            sys.exit(
                f"the loss is {value} after {self.samples} samples: the last checkpoint stands; lower the peak rate"
            )
        self.steps += 1
        self.samples += len(batch)
        return value

    def top1(self, size: int) -> float:
        """Share of the held-out photos that get their label, resized to `size` pixels."""
        import torch

        _, held = self.photos.split()
        self.model.eval()
        right = 0
        with torch.no_grad():
            for start in range(0, len(held), 256):
                part = held[start : start + 256]
                images = preprocessed(torch.from_numpy(self.photos.pixels[part]).to(self.device))
                images = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", align_corners=False)
                found = self.model(images).argmax(1).cpu().numpy()
                right += int((found == self.photos.labels[part]).sum())
        return right / len(held)

    def record(self) -> dict[str, Any]:
        """What the card says."""
        places, held = self.photos.split()
        recipe = {name: value for name, value in asdict(self.recipe).items() if name != "width"}
        recipe["head"] = "global average pooling and one linear layer, thrown away"
        recipe["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {self.device}"
        recipe["samples"] = f"{self.samples:,}, which is {self.samples / len(places):.1f} epochs"
        return {
            "data": f"{self.photos.source}: {len(self.photos.labels):,} photos of {len(self.photos.names)} labels. The "
            "start was random: no other network's weights went in.",
            "recipe": recipe,
            "figures": [
                {
                    "title": f"Top-1 on {len(held):,} photos held out, with the head that is not shipped.",
                    "head": ["input, pixels", "top-1"],
                    "rows": [[str(size), f"{self.top1(size):.3f}"] for size in TEST_SIZES],
                }
            ],
            "limits": list(LIMITS_OF_USE),
        }


def train(arguments: argparse.Namespace) -> int:
    """Train, fold, export."""
    try:
        import torch
    except ImportError:
        sys.exit("training needs PyTorch: pip install 'streamer[train]'")
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = Recipe(arguments.minutes, str(arguments.width), arguments.seed)
    training = Training(recipe, load_photos(arguments.data, output), output, device)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _: stopped.append(signum))
    if not training.run(stopped):
        print(f"stopped at {training.share:.0%}; the same command goes on from there")
        return 130
    record = training.record()
    write_whole(output / "record.json", json.dumps(record, indent=1) + "\n")
    path = export(folded_weights(training.model), record, output, compact_graph(arguments.width))
    print(f"written: {path}, its graph and its card")
    return 0


def main(given: list[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trained = commands.add_parser("train", help="train from photos")
    trained.add_argument("data", type=Path, help="a folder with one sub-folder for each label, or a .tar of one")
    trained.add_argument("--minutes", type=float, default=Recipe.minutes)
    trained.add_argument("--width", type=Fraction, default=SHIPPED_WIDTH, help="share of VGG16's channels")
    trained.add_argument("--seed", type=int, default=0)
    trained.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    exported = commands.add_parser("export", help="write the shipped files from folded weights")
    exported.add_argument("weights", type=Path, help="an .npz of layer/kernel and layer/bias")
    exported.add_argument("record", type=Path, help="a .json: data, recipe, figures, limits")
    for command in (trained, exported):
        command.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(given)
    if arguments.command == "train":
        return train(arguments)
    record = json.loads(arguments.record.read_text(encoding="utf-8"))
    print(f"written: {export(read_npz(arguments.weights), record, arguments.output)}, its graph and its card")
    return 0


if __name__ == "__main__":
    sys.exit(main())
