"""What a night costs: ``python scripts/bench_nightly.py [--rows 50000] [--nights 30]``.

Makes a library of small JPEG files (a few drawn pictures; each file has bytes of its own at its end, so none is a copy)
and a store that knows them all: the features of the drawn pictures, with seeded noise, since extracting them all would
take minutes and is not what is measured. Then, night after night, some files are added, edited, moved and deleted, and
``streamer run`` is run as a scheduler would. A night on which nothing changed comes first. The index is made anew when
a tenth has changed.

Prints a table, a line a night, and writes ``bench_nightly.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from streamer.extraction import Extractor, ExtractSettings, Network
from streamer.images.drawn import draw_pictures
from streamer.images.sources import FolderSource
from streamer.records import FeatureBatch, ImageRef
from streamer.store import StoreLock, StoreWriter

_A_FOLDER = 500


class Library:
    """Files that can be told apart by their bytes, in folders of 500."""

    def __init__(self, root: Path, pictures: list[bytes], seed: int) -> None:
        self.root = root
        self.pictures = pictures
        self.chance = random.Random(seed)  # noqa: S311 - no secrets
        self.made = 0
        self.files: list[Path] = []

    def add(self) -> None:
        """Make one more file."""
        path = self.root / f"{self.made // _A_FOLDER:04d}" / f"{self.made:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write(path)
        self.files.append(path)

    def write(self, path: Path) -> None:
        """Give a file bytes that no other has; which picture it shows, its number tells."""
        path.write_bytes(self.pictures[self.made % len(self.pictures)] + f"{self.made:16d}".encode())
        self.made += 1

    def pick(self) -> int:
        return self.chance.randrange(len(self.files))

    def change(self, added: int, edited: int, moved: int, deleted: int) -> None:
        """A day's work."""
        for _ in range(deleted):
            self.files.pop(self.pick()).unlink()
        for _ in range(moved):
            place = self.pick()
            target = self.root / "moved" / f"{self.made:07d}.jpg"
            target.parent.mkdir(exist_ok=True)
            self.made += 1
            self.files[place] = self.files[place].rename(target)
        for _ in range(edited):
            self.write(self.files[self.pick()])
        for _ in range(added):
            self.add()


def fill(store: Path, library: Library, network: Network, base: np.ndarray, seed: int) -> None:
    """Write the features of the whole library, as if they had been extracted."""
    from hashlib import blake2b

    noise = np.random.default_rng(seed)
    output = network.spec().indexed
    limits = Extractor(network, settings()).limits
    with StoreLock(store), StoreWriter(store, network.spec(), engine="ncnn", limits=limits) as writer:
        block: list[tuple[ImageRef, bytes]] = []
        listing = [ref for ref in FolderSource(library.root) if isinstance(ref, ImageRef)]
        for number, ref in enumerate(listing, start=1):
            block.append((ref, blake2b(Path(ref.path).read_bytes(), digest_size=16).digest()))
            if len(block) == 512 or number == len(listing):
                shown = [int(Path(each.path).stem) % len(base) for each, _ in block]
                rows = base[shown] * noise.uniform(0.6, 1.4, (len(block), base.shape[1])).astype(np.float32)
                refs, contents = zip(*block, strict=True)
                writer.append(FeatureBatch(refs, contents, {output: rows}))
                block = []


def settings() -> ExtractSettings:
    """As a run with the config below has them."""
    return ExtractSettings("auto", "cpu", 2**30, None, None, 100_000_000, 256 * 2**20)


def night(config: Path) -> dict[str, object]:
    """One run in a process of its own."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "streamer", "run", str(config), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    return {
        "wall_seconds": round(time.perf_counter() - began, 2),
        "images": report["images"],
        "seconds": report["seconds"],
        "peak_rss_mb": round(report["peak_rss_bytes"] / 1e6),
        "generation": report["generation"],
    }


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument(
        "--changes", type=int, nargs=4, default=[150, 40, 40, 20], metavar=("ADD", "EDIT", "MOVE", "DEL")
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("artifacts"), help="a folder (default artifacts)")
    arguments = parser.parse_args()
    nights: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw_pictures(folder / "drawn", classes=None, per_class=4, side=96, seed=arguments.seed)
        drawn = sorted((folder / "drawn").rglob("*.jpg"))
        library = Library(folder / "library", [path.read_bytes() for path in drawn], arguments.seed)
        for _ in range(arguments.rows):
            library.add()
        network = Network.choose("vgg16_compact", None, None, "bundled", 0, "full", download=False)
        with Extractor(network, settings()) as extractor:
            refs = [ImageRef(str(n), str(path), path.stat().st_size, 0, "") for n, path in enumerate(drawn)]
            batches = list(extractor.features(refs))
        base = np.concatenate(
            [batch.features[network.spec().indexed].reshape(len(batch.refs), -1) for batch in batches]
        )
        store, config = folder / "a.store", folder / "a.yaml"
        fill(store, library, network, base, arguments.seed)
        config.write_text(f"store: {store}\nsource: {{folder: {library.root}}}\nbackbone: {{name: vgg16_compact}}\n")
        print("      seen  added  edited  moved  gone   wall s  extract s  reduce+index s  peak MB  generation")
        for number in range(-1, arguments.nights + 1):
            if number > 0:
                library.change(*arguments.changes)
            each = night(config)
            nights.append(each)
            images, seconds = each["images"], each["seconds"]
            assert isinstance(images, dict) and isinstance(seconds, dict)
            name = {-1: "index", 0: "idle"}.get(number, str(number))
            print(
                f"{name:5}{images['seen']:6}{images['added']:7}{images['updated']:8}{images['moved']:7}{images['removed']:6}"
                f"{each['wall_seconds']:9.2f}{seconds['extract']:11.2f}{seconds['reduce'] + seconds['index']:16.2f}"
                f"{each['peak_rss_mb']:9}{each['generation']:12}",
                flush=True,
            )
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "bench_nightly.json"
    target.write_text(json.dumps({"rows": arguments.rows, "nights": nights}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {target}")


if __name__ == "__main__":
    main()
