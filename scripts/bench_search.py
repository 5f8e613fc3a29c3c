"""Search against its peers: ``python scripts/bench_search.py [--parts NAME ...] [--photos FOLDER] [--scale 1.0]``.

Parts: ``notebook`` (a loop over scipy's cosine), ``brute`` (scikit-learn's NearestNeighbors), ``peers`` (hnswlib and
plain Annoy), ``warm`` (one photo, VGG16), ``cold`` (one ``streamer search``), ``truth`` (labelled photos; needs
``--photos``), ``growth`` (10,000 to 1,000,000 rows). A peer that is not installed is left out. Each part works in a
process of its own, on one thread where it says so, and measures all sides by turns, taking medians.

The features are drawn, not extracted: 300 groups in a latent space of 32 dimensions whose scales fall off as the square
root of their number, rows spread around the groups' centres at 0.45 of the centres' own spread, mixed at random into d
dimensions with noise of 0.2, and cut at 0 as by ReLU. Ranked by 128 components of PCA alone, that has a recall@10 of
about 0.86 at 512 dimensions and 100,000 rows, as features of photos have. Queries are rows of the store.

Prints tables, writes ``bench_search.json``, and ``bench_search.png`` with the growth. Takes about 25 minutes and 4 GB
of disk; ``--scale 0.01`` is a look at whether it works.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.backbones import Output
from streamer.calibration import calibrate, recall_of
from streamer.extraction import Extractor, ExtractSettings, Network
from streamer.images.drawn import draw_pictures
from streamer.indexing import IndexBuilder, IndexSettings
from streamer.joins import knn_graph
from streamer.neighbours import Neighbours
from streamer.records import FeatureBatch, ImageRef
from streamer.residency import MAPS
from streamer.retrieval import Neighbour, ReducedIndex, nearest_approximate, nearest_exact
from streamer.searcher import Searcher
from streamer.store import CatalogWriter, FeatureSpec, Store, StoreLock, StoreWriter

Rows = NDArray[np.float32]
BUDGET = 2**30
ROUNDS = 5


# -- what is searched --------------------------------------------------------------------------------------------------


def drawer(length: int, seed: int = 0) -> Callable[[int], Rows]:
    """Give a function that draws so many rows; see the top of this file."""
    chance = np.random.default_rng(seed)
    latent, groups, spread, noise = 32, 300, 0.45, 0.2
    mix = chance.standard_normal((latent, length), dtype=np.float32) / np.sqrt(latent)
    scales = (np.arange(1, latent + 1) ** -0.5).astype(np.float32)
    scales /= np.sqrt(np.mean(scales**2))
    centres = chance.standard_normal((groups, latent), dtype=np.float32) * scales

    def draw(count: int) -> Rows:
        around = spread * chance.standard_normal((count, latent), dtype=np.float32) * scales
        hidden = centres[chance.integers(0, groups, count)] + around
        return np.maximum(hidden @ mix + noise * chance.standard_normal((count, length), dtype=np.float32), 0)

    return draw


def spec_of(length: int) -> FeatureSpec:
    return FeatureSpec("vgg16", "random", 0, "0" * 64, (224, 224), "bench", "full", {"drawn": (length,)})


def make_store(path: Path, rows: int, length: int, spec: FeatureSpec | None = None, seed: int = 0) -> None:
    """Write a store of drawn features, and the settings that a run would leave in it."""
    spec, draw = spec or spec_of(length), drawer(length, seed)
    extract = ExtractSettings("auto", "cpu", BUDGET, None, None, 100_000_000, 256 * 2**20)
    with StoreLock(path), StoreWriter(path, spec, engine="bench", limits="") as writer:
        for start in range(0, rows, 1000):
            block = draw(min(1000, rows - start))
            keys = [f"{number:08d}.jpg" for number in range(start, start + len(block))]
            contents = tuple(blake2b(key.encode(), digest_size=16).digest() for key in keys)
            refs = tuple(ImageRef(key, f"/drawn/{key}", 1, 1, "") for key in keys)
            writer.append(FeatureBatch(refs, contents, {spec.indexed: block}))
    settings = {"search": {"k": 10}, "extract": vars(extract)}
    with contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog, catalog.transaction():
        catalog.set_settings(settings)
    (path / "index").mkdir(exist_ok=True)


def build(
    path: Path, kind: str, components: int, *, candidates: int = 200, recall: float = 0.99, reduce: bool = True
) -> float:
    """Publish an index; seconds."""
    began = time.perf_counter()
    settings = IndexSettings(kind, components, False, None, None, 0, candidates, recall)
    with Store(path) as store:
        builder = IndexBuilder(store, settings, BUDGET, lambda *_: None, lambda: False)
        if reduce and kind != "exact":
            builder.reduce()
        builder.build()
    return time.perf_counter() - began


def queries_of(store: Store, count: int) -> Rows:
    ids = np.sort(np.random.default_rng(1).choice(len(store), min(count, len(store)), replace=False)) + 1
    places = store.locate(ids)
    return store.rows(store.spec.indexed, places[:, 1], places[:, 2])


# -- measuring ---------------------------------------------------------------------------------------------------------


def peak_mb() -> float:
    """Most memory that this process has held."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1000


def by_turns(sides: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, the sides taking turns after a first round that does not count."""
    for side in sides.values():
        side()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            gc.collect()
            began = time.perf_counter()
            side()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in taken.items()}


def recall(found: list[list[Neighbour]], truth: list[list[Neighbour]]) -> float:
    return float(np.mean([recall_of(*pair) for pair in zip(found, truth, strict=True)]))


# -- the parts ---------------------------------------------------------------------------------------------------------


def notebook(folder: Path, scale: float) -> dict[str, Any]:
    """9,144 rows of 4,096, PCA to 300, the 5 nearest: the notebook's loop, and ours on those vectors, 100 together."""
    from scipy.spatial.distance import cosine

    rows = int(9144 * scale)
    path = folder / "a.store"
    make_store(path, rows, 4096)
    build(path, "ivf", min(300, rows // 2), recall=0.999)
    with Neighbours(path) as neighbours:
        queries = queries_of(neighbours.store, 100)
        reduced = neighbours.inverted_file()
        assert reduced is not None
        index = reduced[1]
        order = np.argsort(index.images(np.arange(index.rows))[:, 0])
        vectors = np.concatenate([index.index.members(each)[1] for each in range(index.index.full_effort)])[order]
        asked = index.reducer.transform(queries)

        def loop(number: int) -> list[int]:
            distances = [cosine(asked[number], vector) for vector in vectors]
            return sorted(range(len(distances)), key=lambda place: distances[place])[:5]

        def ours(rerank: bool) -> list[list[Neighbour]]:
            return neighbours.nearest(queries, 5, rerank=rerank)

        looped = [loop(number) for number in range(20)]
        same = [[each.entry.id - 1 for each in found] for found in ours(False)[:20]]  # the same vectors, as asked
        alone = lambda: [neighbours.nearest(query[None], 5, rerank=False) for query in queries]  # noqa: E731
        taken = by_turns(
            {
                "loop": lambda: [loop(number) for number in range(3)],
                "ours": lambda: ours(False),
                "reranked": lambda: ours(True),
                "alone": alone,
            }
        )
        truth = nearest_exact(neighbours.store, queries, 5)
        return {
            "rows": rows,
            "same_top_5": float(np.mean([set(a) == set(b) for a, b in zip(looped, same, strict=True)])),
            "recall_at_5_reranked": recall(ours(True), truth),
            "loop_ms": 1e3 * taken["loop"] / 3,
            "ours_ms": 1e3 * taken["ours"] / len(queries),
            "ours_reranked_ms": 1e3 * taken["reranked"] / len(queries),
            "ours_alone_ms": 1e3 * taken["alone"] / len(queries),
            "times_as_fast": taken["loop"] / 3 / (taken["ours"] / len(queries)),
            "times_as_fast_alone": taken["loop"] / 3 / (taken["alone"] / len(queries)),
        }


def brute(folder: Path, scale: float) -> dict[str, Any]:
    """Both cores: the 3 nearest by Euclidean distance of 10,000 queries among 90,000 rows of 2,048."""
    rows, asked = int(90_000 * scale), int(10_000 * scale)
    make_store(folder / "rows.store", rows, 2048, seed=1)
    make_store(folder / "queries.store", asked, 2048, seed=2)
    sides: dict[str, list[dict[str, float]]] = {"sklearn": [], "ours": []}
    for _ in range(2):
        for name, each in sides.items():
            each.append(worker(f"brute_{name}", folder, scale))
    with np.load(folder / "sklearn.npz") as theirs:
        import h5py

        with h5py.File(folder / "knn.h5") as ours:
            away, ids = ours["distances"][:], ours["ids"][:] - 1
        difference = float(np.abs(away - theirs["distances"]).max())
        same = float((ids == theirs["places"]).mean())
    seconds = {name: min(one["seconds"] for one in each) for name, each in sides.items()}
    peaks = {name: max(one["peak_mb"] for one in each) for name, each in sides.items()}
    return {
        **{"rows": rows, "queries": asked, "sklearn_seconds": seconds["sklearn"], "ours_seconds": seconds["ours"]},
        **{"time_ratio": seconds["ours"] / seconds["sklearn"], "largest_difference_of_distances": difference},
        **{"same_neighbours": same, "sklearn_peak_mb": peaks["sklearn"], "ours_peak_mb": peaks["ours"]},
        "peak_ratio": peaks["ours"] / peaks["sklearn"],
    }


def brute_sklearn(folder: Path, scale: float) -> dict[str, Any]:
    from sklearn.neighbors import NearestNeighbors

    arrays = []
    for name in ("rows", "queries"):
        with Store(folder / f"{name}.store") as store:
            block = np.empty((len(store), 2048), np.float32)
            for ids, features in store.blocks("drawn", 2000):
                block[ids - 1] = features
            arrays.append(block)
    began = time.perf_counter()
    brute_force = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(arrays[0])
    distances, places = brute_force.kneighbors(arrays[1])
    seconds = time.perf_counter() - began
    np.savez(folder / "sklearn.npz", distances=distances, places=places)
    return {"seconds": seconds, "peak_mb": peak_mb()}


def brute_ours(folder: Path, scale: float) -> dict[str, Any]:
    with Neighbours(folder / "rows.store") as neighbours, Store(folder / "queries.store") as queries:
        began = time.perf_counter()
        knn_graph(neighbours, folder / "knn.h5", queries=queries, k=3, metric="l2")
        return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}


class Hnsw:
    """hnswlib in the place of our indexes: the same vectors in, the same ranking after."""

    def __init__(self, vectors: Rows) -> None:
        import hnswlib

        self.index = hnswlib.Index("ip", vectors.shape[1])
        self.index.init_index(len(vectors), M=16, ef_construction=200, random_seed=0)
        self.index.add_items(vectors)
        self.index.set_num_threads(1)
        self.full_effort = len(vectors)

    def first_effort(self, count: int) -> int:
        return count

    def candidates(self, queries: Rows, count: int, effort: int) -> tuple[NDArray[np.int64], Rows]:
        self.index.set_ef(max(effort, count))
        labels, distances = self.index.knn_query(queries, count)
        return labels.astype(np.int64), 1 - distances

    def close(self) -> None:
        pass


def peers(folder: Path, scale: float) -> dict[str, Any]:
    """One thread: 100,000 rows of 512, PCA to 128, 30 candidates ranked at full precision, 500 queries together."""
    rows, candidates = int(100_000 * scale), 30
    path = folder / "a.store"
    make_store(path, rows, 512)
    found: dict[str, Any] = {"rows": rows, "candidates": candidates}
    opened: dict[str, tuple[ReducedIndex, int]] = {}
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(path))
        MAPS.bound(BUDGET)
        kinds = [kind for kind in ("ivf", "annoy") if kind == "ivf" or importlib.util.find_spec("annoy")]
        for number, kind in enumerate(kinds):
            found[f"{kind}_build_seconds"] = build(path, kind, 128, candidates=candidates, reduce=number == 0)
            with Neighbours(path) as neighbours:
                assert neighbours.generation is not None
                generation = neighbours.generation
            found[f"{kind}_recall_in_manifest"] = generation.manifest.recall_at_10
            opened[kind] = (stack.enter_context(ReducedIndex(kind, generation.path)), generation.manifest.effort)
        ivf = opened["ivf"][0]
        vectors = np.concatenate([ivf.index.members(each)[1] for each in range(ivf.index.full_effort)])
        if importlib.util.find_spec("hnswlib"):
            began = time.perf_counter()
            theirs = ReducedIndex("ivf", path / "index" / "000001")
            theirs.index = Hnsw(vectors)
            found["hnswlib_build_seconds"] = time.perf_counter() - began
            opened["hnswlib"] = (theirs, calibrate(store, theirs, candidates=candidates, recall=0.99).effort)
        queries = queries_of(store, 500)
        truth = nearest_exact(store, queries, 10)

        def asking(index: ReducedIndex, effort: int) -> Callable[[], list[list[Neighbour]]]:
            return lambda: nearest_approximate(store, index, queries, 10, candidates=candidates, effort=effort)

        sides: dict[str, Callable[[], Any]] = {name: asking(*each) for name, each in opened.items()}
        for name, side in sides.items():
            found[f"{name}_recall"], found[f"{name}_effort"] = recall(side(), truth), opened[name][1]
        if "annoy" in opened:
            sides["plain_annoy"], found["plain_annoy_recall"] = _plain_annoy(opened["annoy"][0], queries, truth)
        taken = by_turns(sides, 2 * ROUNDS)
        found.update({f"{name}_queries_per_second": len(queries) / seconds for name, seconds in taken.items()})
    return found


def _plain_annoy(index: ReducedIndex, queries: Rows, truth: list[list[Neighbour]]) -> tuple[Callable[[], Any], float]:
    """Annoy as its own README uses it, 30 trees and search_k 2,000: the ten nearest of the reduced vectors."""
    import annoy

    asked = index.reducer.transform(queries)
    theirs = annoy.AnnoyIndex(asked.shape[1], "angular")
    theirs.set_seed(0)
    ours = index.index._index  # type: ignore[attr-defined] # the vectors it was built of
    for number in range(index.rows):
        theirs.add_item(number, ours.get_item_vector(number))
    theirs.build(30)
    side = lambda: [theirs.get_nns_by_vector(query, 10, 2000) for query in asked]  # noqa: E731
    right = [{each.entry.id for each in found} for found in truth]
    hits = [set(index.images(np.array(found))[:, 0].tolist()) for found in side()]
    return side, float(np.mean([len(a & b) / len(b) for a, b in zip(hits, right, strict=True)]))


def warm(folder: Path, scale: float) -> dict[str, Any]:
    """Both cores: one photo after another through VGG16, against 100,000 rows; what the search adds to the network."""
    network = Network.choose("vgg16", (Output("block5_pool", "gem"),), None, "random", 0, "full", download=False)
    path = folder / "a.store"
    make_store(path, int(100_000 * scale), 512, network.spec())
    build(path, "annoy" if importlib.util.find_spec("annoy") else "ivf", 128)
    draw_pictures(folder / "drawn", classes=4, per_class=3, side=400, seed=3)
    photos = sorted((folder / "drawn").rglob("*.jpg"))[:10]
    refs = [ImageRef(str(n), str(photo), photo.stat().st_size, 0, "") for n, photo in enumerate(photos)]
    settings = ExtractSettings("auto", "cpu", BUDGET, None, None, 100_000_000, 256 * 2**20)
    with Searcher(path) as searcher, Extractor(network, settings, max_batch=1) as extractor:
        taken = []
        for number in range(-1, 6):
            for ref, photo in zip(refs, photos, strict=True):
                began = time.perf_counter()
                list(extractor.features([ref]))
                between = time.perf_counter()
                searcher.search([photo])
                if number >= 0:  # the first round opens what is opened once
                    taken.append((between - began, time.perf_counter() - between))
    network_ms, search_ms = (1e3 * statistics.median(each) for each in zip(*taken, strict=True))
    added = 1e3 * statistics.median(search - network for network, search in taken)
    return {"decode_and_network_ms": network_ms, "to_hits_ms": search_ms, "search_ms": added}


def cold(folder: Path, scale: float) -> dict[str, Any]:
    """A process of its own for each question: ``streamer search STORE PHOTO``, the compact backbone, 100,000 rows."""
    network = Network.choose("vgg16_compact", None, None, "bundled", 0, "full", download=False)
    spec = network.spec()
    path = folder / "a.store"
    make_store(path, int(100_000 * scale), int(np.prod(spec.outputs[spec.indexed])), spec)
    draw_pictures(folder / "drawn", classes=1, per_class=1, side=400, seed=3)
    photo = next((folder / "drawn").rglob("*.jpg"))
    found: dict[str, Any] = {}
    for number, kind in enumerate(["ivf", "annoy"] if importlib.util.find_spec("annoy") else ["ivf"]):
        build(path, kind, 256, reduce=number == 0)
        runs = [_timed("search", str(path), str(photo), "--json") for _ in range(6)]
        found[f"{kind}_seconds"] = statistics.median(seconds for seconds, _ in runs[1:])
        found[f"{kind}_peak_mb"] = max(peak for _, peak in runs[1:])
    return found


_TELL_PEAK = (
    "import atexit, sys; from pathlib import Path; "
    "atexit.register(lambda: sys.stderr.write(Path('/proc/self/status').read_text())); "
    "from streamer.cli import main; main()"
)


def _timed(*arguments: str) -> tuple[float, float]:
    """Seconds, and the most memory in MB, of a ``streamer`` process; its own word, as wait4 counts its parent in."""
    # An installed package is compiled once; without this, a setting of the shell would have each process do it anew.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", _TELL_PEAK, *arguments]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - began
    return seconds, next(int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("VmHWM")) / 1000


def truth(folder: Path, scale: float, photos: Path) -> dict[str, Any]:
    """Labelled photos through the whole product, compact backbone: what each kind of index finds."""
    found: dict[str, Any] = {}
    config = folder / "a.yaml"
    config.write_text(
        f"store: {folder / 'a.store'}\nsource: {{folder: {photos.resolve()}}}\nbackbone: {{name: vgg16_compact}}\n"
    )
    for kind in ["ivf", "annoy", "exact"] if importlib.util.find_spec("annoy") else ["ivf", "exact"]:
        streamer = [sys.executable, "-m", "streamer"]
        subprocess.run(
            [*streamer, "run", str(config), "--set", f"index.kind={kind}", "-q", "--json"],
            check=True,
            capture_output=True,
        )
        done = subprocess.run(
            [*streamer, "evaluate", str(folder / "a.store"), "--no-baselines", "--json"],
            check=True,
            capture_output=True,
        )
        data = json.loads(done.stdout)
        found.update(
            {f"{kind}_{name}": data[name] for name in ("recall_at_10", "p_at_1", "p_at_5", "queries_per_second")}
        )
    return found


def growth(folder: Path, scale: float) -> dict[str, Any]:
    """One thread: rows of 128, PCA to 64, 500 queries together; sizes, times and memory as the store grows."""
    lines = []
    for rows in (10_000, 100_000, 1_000_000):
        path = folder / f"{rows}.store"
        make_store(path, int(rows * scale), 128)
        for kind in ("exact", "ivf", "annoy") if importlib.util.find_spec("annoy") else ("exact", "ivf"):
            (folder / "kind").write_text(f"{path}\n{kind}")
            lines.append({"rows": int(rows * scale), "kind": kind, **worker("growth_build", folder, scale)})
            lines[-1].update(worker("growth_search", folder, scale))
            say(f"  {lines[-1]}")
    return {"lines": lines}


def growth_build(folder: Path, scale: float) -> dict[str, Any]:
    path, kind = (folder / "kind").read_text().splitlines()
    seconds = build(Path(path), kind, 64)
    number = (Path(path) / "index" / "CURRENT").read_text().strip()
    size = sum(file.stat().st_size for file in (Path(path) / "index" / number).iterdir())
    return {"build_seconds": seconds, "build_peak_mb": peak_mb(), "index_mb": size / 1e6}


def growth_search(folder: Path, scale: float) -> dict[str, Any]:
    path, _ = (folder / "kind").read_text().splitlines()
    with Neighbours(path) as neighbours:
        queries = queries_of(neighbours.store, 500)
        taken = by_turns({"together": lambda: neighbours.nearest(queries)}, 3)["together"]
        peak = peak_mb()
        found = neighbours.nearest(queries)
        reached = recall(found, nearest_exact(neighbours.store, queries, 10))
    return {"queries_per_second": len(queries) / taken, "search_peak_mb": peak, "recall": reached}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    **{"notebook": notebook, "brute": brute, "peers": peers, "warm": warm, "cold": cold, "truth": truth},
    "growth": growth,
}
INNER = {
    "brute_sklearn": brute_sklearn,
    "brute_ours": brute_ours,
    "growth_build": growth_build,
    "growth_search": growth_search,
}
ONE_THREAD = ("peers", "growth_search")


# -- the goals ---------------------------------------------------------------------------------------------------------


def goals(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, bool]]:
    """``(goal, what was measured, whether it is met)``."""
    if each := found.get("notebook"):
        fast, alone = each["times_as_fast"], each["times_as_fast_alone"]
        said = f"same top 5: {each['same_top_5']:.0%}; {fast:.0f} x together, {alone:.0f} x one at a time"
        yield "notebook loop: same top 5, >= 500 x", said, each["same_top_5"] == 1 and fast >= 500
    if each := found.get("brute"):
        slower, larger, off = each["time_ratio"], each["peak_ratio"], each["largest_difference_of_distances"]
        said = (
            f"{slower:.2f} x ({each['ours_seconds']:.1f} s), {larger:.2f} x ({each['ours_peak_mb']:.0f} MB), {off:.0e}"
        )
        goal = "scikit-learn brute: <= 1.0 x time, <= 0.5 x memory, distances within 1e-5"
        yield goal, said, slower <= 1 and larger <= 0.5 and off <= 1e-5
    if each := found.get("peers"):
        for kind, peer in ((kind, peer) for kind in ("ivf", "annoy") for peer in ("hnswlib", "plain_annoy")):
            if f"{kind}_recall" in each and f"{peer}_recall" in each:
                least = {"hnswlib": 1.0, "plain_annoy": 0.8}[peer]
                ours, theirs = (each[f"{name}_queries_per_second"] for name in (kind, peer))
                right, other = each[f"{kind}_recall"], each[f"{peer}_recall"]
                said = f"{ours / theirs:.2f} x ({ours:.0f} / {theirs:.0f} a second), recall {right:.3f} ({other:.3f})"
                goal = f"{kind} against {peer.replace('_', ' ')}: >= {least} x, recall >= 0.99"
                yield goal, said, ours / theirs >= least and right >= 0.99
    if each := found.get("warm"):
        said = f"{each['search_ms']:.1f} ms to {each['decode_and_network_ms']:.0f} ms"
        yield "a warm query adds <= 5 ms to VGG16", said, each["search_ms"] <= 5
    for kind in ("ivf", "annoy"):
        if (each := found.get("cold")) and f"{kind}_seconds" in each:
            seconds, peak = each[f"{kind}_seconds"], each[f"{kind}_peak_mb"]
            yield (
                f"cold search ({kind}): < 1.0 s, < 200 MB",
                f"{seconds:.2f} s, {peak:.0f} MB",
                seconds < 1 and peak < 200,
            )


def plot(lines: list[dict[str, Any]], target: Path) -> None:
    """Four curves for each kind, as far as matplotlib is there."""
    if importlib.util.find_spec("matplotlib") is None:
        say("matplotlib is not installed: no picture (pip install 'streamer[plots]')")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {
        "build_seconds": "build, s",
        "index_mb": "index, MB",
        "queries_per_second": "queries a second",
        "search_peak_mb": "peak of a search, MB",
    }
    figure, axes = pyplot.subplots(1, 4, figsize=(16, 4), layout="constrained")
    for axis, (name, title) in zip(axes, shown.items(), strict=True):
        for kind in sorted({line["kind"] for line in lines}):
            if kind == "exact" and name in ("build_seconds", "index_mb"):
                continue  # it has no files of its own
            mine = [line for line in lines if line["kind"] == kind]
            axis.plot([line["rows"] for line in mine], [line[name] for line in mine], marker="o", label=kind)
        axis.set(xscale="log", yscale="log", title=title, xlabel="rows of 128")
        axis.grid(alpha=0.3)
    axes[-1].legend()
    figure.savefig(target, dpi=120)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def worker(part: str, folder: Path, scale: float, *more: str) -> dict[str, Any]:
    """Do a part in a process of its own."""
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if part in ONE_THREAD else {}
    command = [sys.executable, __file__, "--worker", part, "--folder", str(folder), "--scale", str(scale), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, **one})
    return dict(json.loads(done.stdout))


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--photos", type=Path, help="labelled photos, a folder for each label")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows")
    parser.add_argument("--output", type=Path, default=Path("artifacts"), help="a folder (default artifacts)")
    parser.add_argument("--worker", choices=[*PARTS, *INNER], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        more = (arguments.photos,) if arguments.worker == "truth" else ()
        print(json.dumps({**PARTS, **INNER}[arguments.worker](arguments.folder, arguments.scale, *more)))
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for part in arguments.parts:
        if part == "truth" and arguments.photos is None:
            continue
        say(f"{part}: {(PARTS[part].__doc__ or '').strip()}")
        with tempfile.TemporaryDirectory() as folder:
            found[part] = worker(
                part, Path(folder), arguments.scale, *(["--photos", str(arguments.photos)] if part == "truth" else [])
            )
        for name, value in found[part].items():
            if name != "lines":
                print(
                    f"{part:10} {name:34} {value:.4g}" if isinstance(value, float) else f"{part:10} {name:34} {value}"
                )
    for line in found.get("growth", {}).get("lines", []):
        print(
            "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in line.items())
        )
    reached = list(goals(found))
    for goal, said, met in reached:
        print(f"{'met   ' if met else 'MISSED'}  {goal}: {said}")
    target = arguments.output / "bench_search.json"
    target.write_text(json.dumps({**found, "goals": reached}, indent=1) + "\n", encoding="utf-8")
    if "growth" in found:
        plot(found["growth"]["lines"], target.with_suffix(".png"))
    print(f"written: {target}")


if __name__ == "__main__":
    main()
