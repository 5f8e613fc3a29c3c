"""The same photos out of a folder, archives, a list and a bucket: ``python scripts/bench_sources.py``.

Draws photos, packs them, and extracts them from each kind of source into a store of its own, by turns and in a process
of its own; takes the medians of several rounds, and compares the features byte for byte. The bucket is one of moto's S3
on loopback, a program in Python that takes a good part of a core for itself: what a real one gives is not less. It
needs moto and boto3, and is left out without them.

Prints a table and writes ``bench_sources.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

from streamer.images.drawn import draw_pictures
from streamer.store import Store

_SERVE = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def pack(folder: Path, files: list[Path]) -> dict[str, dict[str, Any]]:
    """Every kind of source that needs no server."""
    pictures = folder / "pictures"
    with tarfile.open(folder / "a.tar", "w") as tar, zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for path in files:
            tar.add(path, path.relative_to(pictures).as_posix())
            archive.write(path, path.relative_to(pictures).as_posix())
    lines = (f"{path.relative_to(folder).as_posix()},{path.relative_to(pictures).as_posix()}" for path in files)
    (folder / "a.csv").write_text("path,key\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return {
        "folder": {"folder": "pictures"},
        "tar": {"tar": "a.tar"},
        "zip": {"zip": "a.zip"},
        "list": {"list": "a.csv"},
    }


def bucket(files: list[Path], pictures: Path) -> subprocess.Popen[str] | None:
    """Fill a bucket; where it is, is in the environment from now on. None where moto is not installed."""
    try:
        import boto3
        import moto.server  # noqa: F401
    except ImportError:
        print("moto and boto3 are not installed: no bucket", file=sys.stderr)
        return None
    command = [sys.executable, "-c", _SERVE]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None
    port = int(server.stdout.readline())
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }  # fmt: skip
    store = boto3.resource("s3").Bucket("photos")
    store.create()
    for path in files:
        store.upload_file(str(path), path.relative_to(pictures).as_posix())
    return server


def extract(folder: Path, name: str, source: dict[str, Any], network: str) -> tuple[float, str]:
    """Images a second, and the digest of all keys and features."""
    store, config = folder / f"{name}.store", folder / f"{name}.yaml"
    for path in sorted(store.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    weights = "bundled" if network == "vgg16_compact" else "random"
    text = {"store": store.name, "source": source, "backbone": {"name": network, "weights": weights}}
    config.write_text(yaml.safe_dump(text))
    command = [sys.executable, "-m", "streamer", "extract", str(config), "-q", "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    digest = hashlib.blake2b(digest_size=16)
    with Store(store) as opened:
        for ids, rows in opened.blocks(opened.spec.indexed, 256):
            entries = opened.entries(ids.tolist())
            for number, row in zip(ids.tolist(), rows, strict=True):
                digest.update(entries[number].key.encode() + row.tobytes())
    return float(json.loads(done.stdout)["images_per_second"]), digest.hexdigest()


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("vgg16", "vgg16_compact"), default="vgg16_compact")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--side", type=int, default=400, help="of a photo, pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        per_class = -(-arguments.images // 8)
        files = sorted(draw_pictures(folder / "pictures", classes=8, per_class=per_class, side=arguments.side, seed=0))
        sources = pack(folder, files)
        server = bucket(files, folder / "pictures")
        if server is not None:
            sources["bucket"] = {"url": "s3://photos"}
        try:
            rates: dict[str, list[float]] = {name: [] for name in sources}
            digests = {}
            for _ in range(arguments.rounds):
                for name, source in sources.items():
                    rate, digests[name] = extract(folder, name, source, arguments.network)
                    rates[name].append(rate)
        finally:
            if server is not None:
                server.kill()
                server.wait()
    rows = []
    print(f"{len(files)} photos of {arguments.side} x {arguments.side}, {arguments.network}")
    base = statistics.median(rates["folder"])
    for name, found in rates.items():
        row = {"source": name, "images_per_second": round(statistics.median(found), 1)}
        row |= {"of_folder": round(statistics.median(found) / base, 3), "same": digests[name] == digests["folder"]}
        rows.append(row)
        same = "the same keys and features" if row["same"] else "OTHER FEATURES"
        print(f"{name:8}{row['images_per_second']:10} a second {row['of_folder']:8} x the folder   {same}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "bench_sources.json"
    settings = {"network": arguments.network, "images": len(files), "side": arguments.side}
    target.write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {target}")


if __name__ == "__main__":
    main()
