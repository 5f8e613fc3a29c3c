"""Search over a store that is larger than the memory it may use: a control group that the kernel enforces."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer.store import Store, StoreWriter
from tests.conftest import feature_batch, spec
from tests.memory_group import memory_group

MIB = 2**20
ROWS, LENGTH = 20_000, 2048


def write(path: Path, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    centres, mix = (random.normal(size=(count, LENGTH)).astype(np.float32) for count in (50, 16))
    with StoreWriter(path, spec(LENGTH), engine="test", limits="none") as writer:
        for start in range(0, rows, 1000):
            count = min(1000, rows - start)
            around = 0.2 * random.standard_normal((count, 16), dtype=np.float32) @ mix
            noise = 0.05 * random.standard_normal((count, LENGTH), dtype=np.float32)
            block = centres[random.integers(0, 50, count)] + around + noise
            writer.append(feature_batch([f"{number:06d}.jpg" for number in range(start, start + count)], block))
        with writer.catalog.transaction():
            writer.catalog.set_settings({"extract": {"budget_bytes": 128 * MIB}})


@pytest.mark.slow
def test_exact_search_needs_no_memory_for_the_rows(tmp_path: Path) -> None:
    """164 MB of features, compared with 200 queries in 128 MiB."""
    write(tmp_path / "rows.store", ROWS, seed=1)
    write(tmp_path / "queries.store", 200, seed=1)
    command = [
        sys.executable,
        "-m",
        "streamer",
        "search",
        str(tmp_path / "rows.store"),
        str(tmp_path / "queries.store"),
    ]
    with memory_group(128 * MIB) as group:
        done = group.run([*command, "--knn", str(tmp_path / "knn.h5"), "-k", "3", "--metric", "l2", "--json"])
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["knn"]["exact"]
    with Store(tmp_path / "rows.store") as store, Store(tmp_path / "queries.store") as queries:
        ids, asked = next(queries.blocks("fc2", 20))
        away = np.concatenate([_distances(asked, rows) for _, rows in store.blocks("fc2", 2000)], axis=1)
    with h5py.File(tmp_path / "knn.h5") as graph:
        order = np.argsort(away, axis=1)[:, :3]
        np.testing.assert_array_equal(graph["ids"][:20], order + 1)
        np.testing.assert_allclose(graph["distances"][:20], np.take_along_axis(away, order, axis=1), atol=1e-5)
        np.testing.assert_array_equal(graph["query/id"][:20], ids)


def _distances(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    wide, others = queries.astype(np.float64), rows.astype(np.float64)
    squares = np.square(wide).sum(1)[:, None] + np.square(others).sum(1)[None] - 2 * wide @ others.T
    return np.sqrt(np.maximum(squares, 0))
