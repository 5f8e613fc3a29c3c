"""Rows through a memory map are the rows that HDF5 reads."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from streamer import residency
from streamer.residency import Residency
from streamer.store import Store, StoreWriter, reader
from streamer.store.mapped import MappedRows
from tests.conftest import feature_batch


def write(path: Path, values: np.ndarray, chunk_rows: int, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        shape = values.shape[1:]
        options.setdefault("chunks", (chunk_rows, *shape))
        dataset = file.create_dataset("x", (0, *shape), maxshape=(None, *shape), dtype=np.float32, **options)
        other = file.create_dataset("key", (0,), maxshape=(None,), chunks=(8,), dtype=h5py.string_dtype())
        for start in range(0, len(values), 5):  # appended, as shards are: other things lie between the chunks
            part = values[start : start + 5]
            dataset.resize(start + len(part), axis=0)
            dataset[start:] = part
            other.resize(start + len(part), axis=0)
            other[start:] = np.array(["é" * start] * len(part), dtype=object)


@pytest.mark.parametrize("shape", [(1,), (7,), (512,), (3, 2, 5)])
@pytest.mark.parametrize("chunk_rows", [1, 4, 64])
@pytest.mark.parametrize("fletcher32", [True, False])
def test_any_rows_in_any_order(tmp_path: Path, shape: tuple[int, ...], chunk_rows: int, fletcher32: bool) -> None:
    chance = np.random.default_rng(0)
    values = chance.normal(size=(83, *shape)).astype(np.float32)
    write(tmp_path / "a.h5", values, chunk_rows, fletcher32=fletcher32)
    with h5py.File(tmp_path / "a.h5") as file:
        mapped = MappedRows.of(tmp_path / "a.h5", file["x"])
    assert mapped is not None
    for count in (0, 1, 20, 200):
        rows = chance.integers(0, 83, count)
        found = mapped.read(rows)
        np.testing.assert_array_equal(found, values[rows])
        found += 1  # a copy, the caller's own
    for wrong in ([83], [-1], [0, 83]):
        with pytest.raises(IndexError):
            mapped.read(np.array(wrong))
    mapped.close()


@pytest.mark.parametrize("random", [True, False])
def test_pages_are_handed_back_and_the_rows_stay_right(tmp_path: Path, random: bool) -> None:
    values = np.random.default_rng(1).normal(size=(50, 300)).astype(np.float32)
    write(tmp_path / "a.h5", values, 4, fletcher32=True)
    with h5py.File(tmp_path / "a.h5") as file:
        mapped = MappedRows.of(tmp_path / "a.h5", file["x"])
    assert mapped is not None
    mapped.expect(random=random)
    for _ in range(3):
        rows = np.random.default_rng(2).integers(0, 50, 7)
        np.testing.assert_array_equal(mapped.read(rows), values[rows])
        assert mapped.pages_bytes(7) >= 7 * 1200
        assert mapped.let_go() or sys.platform == "win32"
    mapped.close()


@pytest.mark.parametrize("n_bytes", [0, 10_000, 2**30])
def test_a_store_maps_no_more_than_it_may(
    open_writer: Callable[..., StoreWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int
) -> None:
    maps, handed_back = Residency(n_bytes), []
    monkeypatch.setattr(reader, "MAPS", maps)
    monkeypatch.setattr(residency, "mapped_bytes", lambda: None)
    let_go = MappedRows.let_go
    monkeypatch.setattr(MappedRows, "let_go", lambda self: handed_back.append(self) or let_go(self))
    values = np.random.default_rng(3).normal(size=(300, 64)).astype(np.float32)
    with open_writer(64) as writer:
        for start in (0, 100, 200):
            keys = [f"{number:03d}" for number in range(start, start + 100)]
            writer.append(feature_batch(keys, values[start : start + 100]))
            writer.commit()
    with Store(tmp_path / "a.store") as store:
        places = store.locate(np.arange(1, 301))
        for seed in range(20):
            chosen = np.random.default_rng(seed).permutation(300)[:50]
            np.testing.assert_array_equal(store.rows("fc2", *places[chosen, 1:].T), values[chosen])
    # After each of the 60 readings of a shard, all three maps let go together.
    assert len(handed_back) == (0 if n_bytes == 2**30 else 1 + 2 + 58 * 3)


def test_a_shard_that_compact_removes_while_it_is_open_goes_on_being_read(
    open_writer: Callable[..., StoreWriter], tmp_path: Path
) -> None:
    """It had been opened as HDF5 and not yet been mapped: the file was called missing."""
    values = np.random.default_rng(3).normal(size=(50, 8)).astype(np.float32)
    with open_writer() as writer:
        writer.append(feature_batch([f"{number:03d}" for number in range(50)], values))
    with Store(tmp_path / "a.store") as store:
        places = store.images()
        np.testing.assert_array_equal(store.rows("fc2", *places[:10, 1:].T), values[:10])
        if sys.platform == "win32":
            pytest.skip("Windows removes no file that is open")
        (shard,) = (tmp_path / "a.store" / "features").iterdir()
        shard.unlink()
        chosen = np.array([40, 3, 17])
        np.testing.assert_array_equal(store.rows("fc2", *places[chosen, 1:].T), values[chosen])


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"shuffle": True}, {"chunks": (4, 2)}])
def test_what_does_not_lie_in_the_file_as_it_is_is_left_to_hdf5(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path / "a.h5", np.ones((9, 4), np.float32), 4, **options)
    with h5py.File(tmp_path / "a.h5") as file:
        assert MappedRows.of(tmp_path / "a.h5", file["x"]) is None
