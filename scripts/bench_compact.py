"""How much faster the compact VGG16 is than the whole one: ``python scripts/bench_compact.py [--photos FOLDER]``.

Whole ``streamer extract`` runs of both, each at its defaults and 1 GiB, start-up included; rounds alternate. The whole
VGG16 (random weights: they take as long) gets a part of the photos, or it would run for minutes. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NETWORKS = {"vgg16": "random", "vgg16_compact": "bundled"}


def extract(network: str, photos: Path, folder: Path) -> dict:
    """One ``streamer extract`` into an empty store; return its report."""
    config = folder / "a.yaml"
    config.write_text(
        f"store: {folder / 'a.store'}\nsource: {{folder: {photos}}}\nmemory: {{budget: 1GiB}}\ndevice: cpu\n"
        f"backbone: {{name: {network}, weights: {NETWORKS[network]}}}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "streamer", "extract", str(config), "--json", "--quiet"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; without it, pictures are drawn")
    parser.add_argument("--images", type=int, default=3000, help="how many pictures to draw (default 3000)")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photos, part = arguments.photos or Path(scratch) / "photos", Path(scratch) / "part"
        if arguments.photos is None:
            from streamer.images.drawn import draw_pictures

            draw_pictures(photos, classes=None, per_class=-(-arguments.images // 12), side=320, seed=1)
        paths = sorted(photos.rglob("*.jpg"))
        part.mkdir()
        for number, path in enumerate(paths[:: max(1, len(paths) // 200)]):
            shutil.copy(path, part / f"{number}.jpg")
        rates: dict[str, list[float]] = {name: [] for name in NETWORKS}
        for _ in range(arguments.rounds):
            for name in NETWORKS:
                with tempfile.TemporaryDirectory() as folder:
                    report = extract(name, photos if name == "vgg16_compact" else part, Path(folder))
                rates[name].append(report["images_per_second"])
                peak = report["peak_rss_bytes"] / 1e6
                print(f"{name:14}{report['images']['added']:6} photos {rates[name][-1]:8.1f} img/s, peak {peak:.0f} MB")
    whole, compact = (statistics.median(rates[name]) for name in NETWORKS)
    print(f"compact against whole: {compact / whole:.1f} x")


if __name__ == "__main__":
    main()
