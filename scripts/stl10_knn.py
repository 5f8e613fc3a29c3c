"""Brute-force nearest neighbours over STL-10: ``python scripts/stl10_knn.py [unlabeled_X.bin] [--set KEY=VALUE]``.

Runs ``configs/stl10_knn.yaml`` (ResNet50 without its top, max pooling, 96 x 96) over a file in STL-10's binary format,
splits its images 9 : 1 at random, finds for each of the tenth the 3 nearest of the others by Euclidean distance, every
one looked at, and draws 5 of them with their hits and distances. With a labelled file (``train_X.bin``, ``test_X.bin``)
it also says how often the 3 vote for the right label. Without a file, ``--photos FOLDER`` or pictures drawn on the spot
are first written in that format. Where ResNet50's weights are not on this machine, the compact network stands in.

Writes ``stl10_knn.png``, ``stl10_knn.npz`` (ids, distances), and the store beside them.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
from seed import drawn, extracted, say

from streamer.images import FolderSource
from streamer.images.canvas import thumbnail
from streamer.images.drawn import draw_pictures
from streamer.memory import resident_bytes
from streamer.records import ImageRef
from streamer.report import contact_sheet
from streamer.retrieval import nearest_exact, to_hits
from streamer.searcher import QueryResult, open_neighbours
from streamer.store import Store

_SIDE = 96


def write_binary(photos: Path, folder: Path) -> Path:
    """Write photos as STL-10 has them: 3 x 96 x 96 bytes each, column after column; labels count from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    refs = [ref for ref in FolderSource(photos) if isinstance(ref, ImageRef)]
    names = sorted({ref.label for ref in refs})
    if len(names) > 255:
        raise SystemExit(f"{photos}: {len(names)} labels; the format has room for 255")
    with (folder / "photos_X.bin").open("wb") as pixels, (folder / "photos_y.bin").open("wb") as labels:
        for ref in refs:
            pixels.write(thumbnail(ref.path, _SIDE).transpose(2, 1, 0).tobytes())
            labels.write(bytes([names.index(ref.label) + 1]))
    (folder / "class_names.txt").write_text("\n".join(name or "none" for name in names) + "\n", encoding="utf-8")
    return folder / "photos_X.bin"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, nargs="?")
    parser.add_argument("--photos", type=Path, help="photos to write in STL-10's format")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the store and the picture")
    parser.add_argument("--shown", type=int, default=5, help="queries to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the queries that are drawn")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    binary = arguments.binary
    if binary is None:
        photos = arguments.photos
        if photos is None:
            photos = arguments.output / "drawn"
            draw_pictures(photos, classes=None, per_class=40, side=_SIDE, seed=7)
        binary = write_binary(photos, arguments.output / "stl10_format")
        say(f"no STL-10 file was given: wrote {binary} of {photos}")
    store = arguments.output.absolute() / "stl10.store"
    config = extracted("stl10_knn", [f"store={store}", f"source.stl10={binary.absolute()}", *arguments.overrides])
    with open_neighbours(config.store) as neighbours:
        held = neighbours.store.images()
        asked = drawn(len(held) // 10, len(held), arguments.seed)
        rest = np.delete(np.arange(len(held)), asked)
        queries = neighbours.store.rows(neighbours.store.spec.indexed, held[asked, 1], held[asked, 2])
        began = time.perf_counter()
        found = nearest_exact(
            neighbours.store,
            queries,
            config.search.k,
            config.search.metric,
            among=held[rest, 0],
            top=neighbours.products(),
        )
        seconds = time.perf_counter() - began
        size = f"{len(asked)} x {len(rest)} x {queries.shape[1]}, k = {config.search.k}"
        say(f"{size}: {seconds:.2f} s; this process holds {resident_bytes() / 1e6:.0f} MB")
        _report(neighbours.store, held[asked, 0], found, arguments)


def _report(store: Store, ids: np.ndarray, found: list, arguments: argparse.Namespace) -> None:
    entries = store.entries(ids.tolist())
    labels = [entries[number].label for number in ids.tolist()]
    if any(labels):
        votes = [Counter(each.entry.label for each in near).most_common(1)[0][0] for near in found]
        print(
            f"{np.mean([vote == label for vote, label in zip(votes, labels, strict=True)]):.3f} of the votes are right"
        )
    results = []
    for place in drawn(arguments.shown, len(ids), arguments.seed + 1).tolist():
        entry = entries[int(ids[place])]
        results.append(QueryResult(entry.path, 0.0, to_hits(found[place])))
        print(f"{entry.key}: " + ", ".join(f"{each.entry.key} ({each.distance:.2f})" for each in found[place]))
    np.savez(
        arguments.output / "stl10_knn.npz",
        query_ids=ids,
        ids=np.array([[each.entry.id for each in near] for near in found]),
        distances=np.array([[each.distance for each in near] for near in found]),
    )
    contact_sheet(results, arguments.output / "stl10_knn.png")
    say(f"picture: {arguments.output / 'stl10_knn.png'}")


if __name__ == "__main__":
    main()
