"""The inverted file: clusters written and read, and what is found in them."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import IndexMissingError, Interrupted
from streamer.index import IvfIndex, Spool, write_ivf
from streamer.reduction import fit_centroids

ivf = sys.modules["streamer.index.ivf"]


def unit(count: int, length: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = 2 * random.normal(size=(9, length))
    rows = (centres[random.integers(0, 9, count)] + random.normal(size=(count, length))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def built(folder: Path, rows: np.ndarray, clusters: int) -> tuple[IvfIndex, np.ndarray]:
    spool = Spool(folder / "spool", rows.shape[1])
    spool.fill([rows[:100], rows[100:]])
    centroids = fit_centroids(spool.batches(200, 3 * len(rows), seed=1), clusters, seed=1)
    order = write_ivf(folder, spool, centroids, lambda: None)
    return IvfIndex(folder, len(rows)), order


def test_all_clusters_together_are_an_exact_search(tmp_path: Path) -> None:
    rows, queries = unit(700, 12), unit(5, 12, seed=4)
    index, order = built(tmp_path, rows, 20)
    assert sorted(order.tolist()) == list(range(700))
    positions, cosines = index.candidates(queries, 10, index.full_effort)
    truth = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    np.testing.assert_array_equal(order[positions], truth)
    np.testing.assert_allclose(cosines, np.take_along_axis(queries @ rows.T, truth, axis=1), atol=1e-6)
    index.close()


def test_few_probes_look_through_the_nearest_clusters_only(tmp_path: Path) -> None:
    rows, queries = unit(700, 12), unit(8, 12, seed=4)
    index, order = built(tmp_path, rows, 20)
    for probes in (1, 3):
        positions, _ = index.candidates(queries, 700, probes)
        for query, found in zip(queries, positions, strict=True):
            near = np.argsort(np.square(index.centroids - query).sum(axis=1))[:probes]
            inside = np.concatenate([index.members(cluster)[0] for cluster in near])
            assert sorted(found[found >= 0].tolist()) == sorted(inside.tolist())
    assert all((rows[order[p]] == index.members(c)[1]).all() for c in range(20) for p in [index.members(c)[0]])
    index.close()


def test_every_vector_lies_in_the_cluster_whose_centre_is_nearest(tmp_path: Path) -> None:
    rows = unit(400, 6)
    index, _ = built(tmp_path, rows, 12)
    for cluster in range(index.full_effort):
        _, vectors = index.members(cluster)
        away = np.square(vectors[:, None] - index.centroids[None]).sum(axis=2)
        assert len(vectors) and (away[:, cluster] <= away.min(axis=1) + 1e-6).all()
    index.close()


def test_rows_that_are_all_the_same_make_one_cluster(tmp_path: Path) -> None:
    rows = np.tile(unit(1, 5), (300, 1))
    index, _ = built(tmp_path, rows, 8)
    assert index.full_effort == 1
    positions, cosines = index.candidates(rows[:1], 300, 1)
    assert len(set(positions[0].tolist())) == 300
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        built(tmp_path / name, unit(500, 8), 15)[0].close()
    for name in ("centroids.npy", "starts.npy", "vectors.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", ["centroids.npy", "starts.npy", "vectors.npy"])
@pytest.mark.parametrize("damage", ["missing", "short", "other"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    built(tmp_path, unit(200, 6), 5)[0].close()
    if damage == "missing":
        (tmp_path / name).unlink()
    elif damage == "short":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    else:
        np.save(tmp_path / name, np.zeros((3, 2), np.float32))
    with pytest.raises(IndexMissingError, match="run 'streamer index'"):
        IvfIndex(tmp_path, 200)


def test_it_stops_when_asked(tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted("asked")

    spool = Spool(tmp_path / "spool", 4)
    spool.fill([unit(50, 4)])
    with pytest.raises(Interrupted):
        write_ivf(tmp_path, spool, unit(3, 4), stop)


def test_batches_give_every_vector_its_turn(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1)
    spool.fill([np.arange(100, dtype=np.float32)[:, None]])
    seen = np.concatenate(list(spool.batches(30, 250, seed=0))).ravel().astype(int)
    counts = np.bincount(seen, minlength=100)
    assert len(seen) == 250 and counts.min() == 2 and counts.max() == 3


def test_one_large_cluster_costs_no_more_memory_than_many_small_ones(tmp_path: Path) -> None:
    """Nine photos in ten were black: 512 queries at once took a score for each of them, 92 MB."""
    rows = np.concatenate([np.tile(unit(1, 8), (15_000, 1)), unit(1_500, 8, seed=1)])
    index, _ = built(tmp_path, rows, 50)
    queries = np.tile(rows[:1], (512, 1))
    tracemalloc.start()
    positions, cosines = index.candidates(queries, 10, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * 2**20
    assert (np.diff(positions) != 0).all()
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    index.close()


def test_queries_are_cut_into_blocks_that_leave_nobody_out() -> None:
    rows = np.array([5, 4_000_000, 1, 1, 2_000_000, 3, 9_000_000, 2])
    blocks = list(ivf._blocks(rows))
    assert np.concatenate([np.arange(8)[block] for block in blocks]).tolist() == list(range(8))
    assert all(len(rows[b]) == 1 or len(rows[b]) * rows[b].max() * 12 <= 32 * 2**20 for b in blocks)
    assert list(ivf._blocks(np.full(512, 100))) == [slice(0, 512)]


_GATHER = """
import sys, resource
from pathlib import Path
import numpy as np
from streamer.index import Spool
spool = Spool(Path(sys.argv[1]), 256)
spool.fill(np.full((4096, 256), number, np.float32) for number in range(48))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
batch = next(spool.batches(4096, 4096, seed=0))
assert len(np.unique(batch)) == 48
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes on Linux only")
def test_rows_gathered_from_a_large_spool_are_all_that_is_held(tmp_path: Path) -> None:
    """Through a map, 4 MB drawn from 200 held all 200: the system maps in large pieces."""
    done = subprocess.run([sys.executable, "-c", _GATHER, str(tmp_path / "spool")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 24 * 1024
