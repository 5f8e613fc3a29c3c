"""PCA and index of many unpooled maps under a hard memory limit: ``python scripts/torture_budget.py [--rows 10000]``.

A store is filled with drawn features of VGG16's ``block5_pool``, 25,088 numbers a row; then ``streamer reduce`` and
``streamer index`` run in a memory control group that the kernel enforces, page cache included. 10,000 rows are 1 GB of
features. tests/end_to_end/test_budget.py has the short version.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from streamer.config import load_config, parse_bytes
from streamer.pipeline.configured import chosen_network
from streamer.records import FeatureBatch, ImageRef
from streamer.store import StoreWriter
from tests.memory_group import memory_group

BATCH = 50


def fill(store: Path, config: Path, rows: int) -> None:
    """Write drawn maps: as sparse as a ReLU leaves them, and with a few directions that matter."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(64, 7 * 7 * 512)).astype(np.float32)
    settings = load_config(config)
    with StoreWriter(store, chosen_network(settings).spec(), engine="drawn", limits="") as writer:
        for start in range(0, rows, BATCH):
            refs = tuple(ImageRef(f"{number:06d}.jpg", "", 1, 1, "") for number in range(start, start + BATCH))
            maps = random.normal(size=(BATCH, 64)).astype(np.float32) @ directions
            maps += random.normal(size=maps.shape).astype(np.float32)
            features = {"block5_pool": np.maximum(maps, 0).reshape(BATCH, 7, 7, 512)}
            writer.append(FeatureBatch(refs, tuple(ref.key.encode().rjust(16) for ref in refs), features))


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--budget", default="768MiB")
    parser.add_argument("--components", type=int, default=128)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store, config = Path(scratch) / "a.store", Path(scratch) / "a.yaml"
        config.write_text(
            f"store: {store}\nsource: {{folder: {scratch}}}\nmemory: {{budget: {arguments.budget}}}\n"
            "backbone: {name: vgg16, weights: random, outputs: [{layer: block5_pool}]}\n"
            f"reduce: {{components: {arguments.components}}}\n",
            encoding="utf-8",
        )
        fill(store, config, arguments.rows)
        with memory_group(parse_bytes(arguments.budget)) as group:
            for stage in ("reduce", "index"):
                began = time.monotonic()
                done = group.run([sys.executable, "-m", "streamer", stage, str(config), "--json"])
                if done.returncode:
                    print(f"{stage} ended with {done.returncode}:\n{done.stderr[-2000:]}")
                    return 1
                peak = json.loads(done.stdout)["peak_rss_bytes"]
                print(
                    f"{stage}: {arguments.rows} rows, {time.monotonic() - began:.1f} s, peak {peak / 2**20:.0f} MiB of "
                    f"{arguments.budget}",
                    flush=True,
                )
        manifest = json.loads(next((store / "index").glob("0*/manifest.json")).read_text(encoding="utf-8"))
        print(f"recall@10 {manifest['recall_at_10']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
