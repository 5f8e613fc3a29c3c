"""Shuffled batches out of core against arrays in memory."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer.errors import ConfigError, StoreCorruptError, StreamerError
from streamer.records import ImageRef
from streamer.store import CatalogWriter, FeatureDataset, FeatureSpec, Split, Store, StoreWriter, compact_shards
from streamer.store.direct import DirectRows, read_blocks
from tests.conftest import delete, feature_batch, spec, write_features

ROW_BYTES = 4 * 8


def values(count: int, length: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, length)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """700 rows in 3 classes and 8 shards."""
    write_features(tmp_path / "a.store", values(700), shard_rows=90)
    return tmp_path / "a.store"


def epoch(dataset: FeatureDataset) -> tuple[np.ndarray, np.ndarray]:
    batches = list(dataset)
    assert all(rows.dtype == np.float32 and labels.dtype == np.int64 for rows, labels in batches)
    assert {len(rows) for rows, _ in batches[:-1]} <= {dataset.batch_size}
    return np.concatenate([rows for rows, _ in batches]), np.concatenate([labels for _, labels in batches])


def order_of(rows: np.ndarray) -> np.ndarray:
    """Which of `values` each row is."""
    place = {row.tobytes(): number for number, row in enumerate(values(700))}
    return np.array([place[row.tobytes()] for row in rows])


@pytest.mark.parametrize(
    ("window_rows", "batch_size"), [(1, 32), (5, 1), (5, 1000), (64, 32), (130, 7), (10_000, 1), (10_000, 1000)]
)
def test_every_image_comes_once_an_epoch_with_its_label(path: Path, window_rows: int, batch_size: int) -> None:
    with Store(path) as store:
        options = {"batch_size": batch_size, "framework": "numpy", "buffer_bytes": 2 * window_rows * ROW_BYTES}
        dataset = store.dataset(**options)
        assert (len(dataset), dataset.classes) == (-(-700 // batch_size), ("c0", "c1", "c2"))
        found = []
        for _ in range(2):
            rows, labels = epoch(dataset)
            found.append(order_of(rows))
            assert sorted(found[-1]) == list(range(700))
            np.testing.assert_array_equal(labels, found[-1] % 3)
        assert (found[0] != found[1]).mean() > 0.9
        rows, labels = epoch(store.dataset(shuffle=False, **options))
        np.testing.assert_array_equal(rows, values(700))
        np.testing.assert_array_equal(labels, dataset.labels)


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(path: Path) -> None:
    def orders(seed: int) -> list[np.ndarray]:
        with Store(path) as store:
            dataset = store.dataset(framework="numpy", seed=seed, buffer_bytes=200 * ROW_BYTES)
            return [order_of(epoch(dataset)[0]) for _ in range(2)]

    once, again, other = orders(0), orders(0), orders(1)
    np.testing.assert_array_equal(once, again)
    assert (once[0] != other[0]).mean() > 0.9 and (once[1] != other[0]).mean() > 0.9
    assert once[0][:8].tolist() == [
        311,
        452,
        304,
        317,
        313,
        450,
        309,
        262,
    ]  # another release, another machine: the same


def test_images_of_a_window_are_well_mixed(path: Path) -> None:
    """Neighbours in the store are of one folder: batches of one class teach nothing."""
    with Store(path) as store:
        dataset = store.dataset(framework="numpy", buffer_bytes=2 * 300 * ROW_BYTES)
        order = order_of(epoch(dataset)[0])
    assert (np.diff(order) == 1).mean() < 0.02
    spread = [np.ptp(order[start : start + 32]) for start in range(0, 640, 32)]
    assert np.median(spread) > 250


def test_a_batch_has_the_same_rows_by_its_number_in_any_order_and_from_threads(path: Path) -> None:
    with Store(path) as store:
        options = {"framework": "numpy", "batch_size": 16, "buffer_bytes": 2 * 100 * ROW_BYTES}
        plain, by_number = store.dataset(**options), store.dataset(**options)
        assert isinstance(plain, FeatureDataset) and isinstance(by_number, FeatureDataset)
        for _ in range(2):
            ids = [by_number.batch_ids(index) for index in range(len(by_number))]
            with ThreadPoolExecutor(4) as threads:
                batches = list(threads.map(by_number.__getitem__, range(len(by_number))))
            jumps = [by_number[index] for index in (40, 3, 20)]
            for number, (one, other) in enumerate(zip(plain, batches, strict=True)):
                np.testing.assert_array_equal(one[0], other[0])
                np.testing.assert_array_equal(one[1], other[1])
                np.testing.assert_array_equal(values(700)[ids[number] - 1], one[0])
            np.testing.assert_array_equal(jumps[1][0], batches[3][0])
            by_number.on_epoch_end()
        with pytest.raises(IndexError, match="no batch 44: there are 44"):
            by_number[44]


def test_the_sides_of_a_split_share_no_image_and_only_labelled_ones_are_taken(tmp_path: Path) -> None:
    keys = [f"{'ab'[number % 2]}/{number}.jpg" if number < 80 else f"{number}.jpg" for number in range(100)]
    write_features(tmp_path / "a.store", values(100), keys)
    with Store(tmp_path / "a.store") as store:
        sides = [
            store.dataset(framework="numpy", split=side, buffer_bytes=30 * ROW_BYTES)
            for side in ("train", "validation", "test")
        ]
        assert sorted(np.concatenate([side.ids for side in sides])) == list(range(1, 81))
        assert len(sides[0].ids) > len(sides[2].ids) > len(sides[1].ids) > 0
        for side in sides:
            rows, labels = epoch(side)
            assert sorted(order_of(rows) + 1) == side.ids.tolist()
            assert side.classes == ("a", "b") and (labels == order_of(rows) % 2).all()
        relabelled = store.dataset(framework="numpy", labels={"1.jpg": "x", "99.jpg": "dog", "a/0.jpg": "cat"})
        assert (relabelled.classes, relabelled.ids.tolist()) == (("cat", "dog"), [1, 100])


def test_a_side_without_an_image_is_empty(path: Path) -> None:
    with Store(path) as store:
        for shuffle in (True, False):
            dataset = store.dataset(framework="numpy", split="validation", sides=Split(validation=0), shuffle=shuffle)
            assert (len(dataset), list(dataset), len(dataset.ids)) == (0, [], 0)
            assert dataset.classes == ("c0", "c1", "c2")


def test_copies_of_the_same_bytes_are_images_of_their_own(tmp_path: Path) -> None:
    """They share one row: more of them than fit into a window must not make it larger."""
    row = np.ones((1, 8), np.float32)
    with StoreWriter(tmp_path / "a.store", _spec((8,)), engine="test", limits="none") as writer:
        batch = feature_batch(["a/0.jpg"], row, name="out")
        writer.append(batch)
        writer.append(feature_batch(["a/1.jpg"], 2 * row, name="out"))
        writer.commit()
    with contextlib.closing(CatalogWriter(tmp_path / "a.store" / "catalog.sqlite")) as catalog, catalog.transaction():
        for number in range(50):
            catalog.place(ImageRef(f"b/{number}.jpg", "", 1, 1, "b"), batch.contents[0], lambda _: None)
    with Store(tmp_path / "a.store") as store:
        for window_rows in (1, 7, 100):
            dataset = store.dataset(framework="numpy", buffer_bytes=2 * window_rows * ROW_BYTES)
            rows, labels = epoch(dataset)
            assert sorted(rows[:, 0]) == [1] * 51 + [2] and sorted(labels) == [0] * 2 + [1] * 50


def test_features_never_fill_more_than_the_windows(tmp_path: Path) -> None:
    """64 MB of features through 4 MB: what is held does not grow with their number."""
    shape, count = (16, 1024), 1000
    rows = np.arange(count, dtype=np.float32)
    with StoreWriter(tmp_path / "a.store", _spec(shape), engine="test", limits="none", commit_bytes=2**24) as writer:
        for start in range(0, count, 50):
            part = np.broadcast_to(rows[start : start + 50, None, None], (50, *shape))
            writer.append(feature_batch([f"c/{number}" for number in range(start, start + 50)], part, name="out"))
    with Store(tmp_path / "a.store") as store:
        list(store.dataset(framework="numpy", batch_size=4, buffer_bytes=2**22))[-1]  # imports and file handles
        tracemalloc.start()
        seen = []
        for features, _ in store.dataset(framework="numpy", batch_size=4, buffer_bytes=2**22):
            assert (features == features[:, :1, :1]).all()
            seen += features[:, 0, 0].tolist()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert sorted(seen) == rows.tolist()
    assert 2**22 < peak < 2**22 + 2**21


@pytest.mark.parametrize("window_rows", [20, 200])
def test_what_compact_moves_meanwhile_is_found_again_and_what_is_gone_is_left_out(path: Path, window_rows: int) -> None:
    with Store(path) as store:
        dataset = store.dataset(framework="numpy", batch_size=10, buffer_bytes=2 * window_rows * ROW_BYTES)
        batches = iter(dataset)
        found = [next(batches) for _ in range(3)]
        gone = [f"c{number % 3}/{number:04d}.jpg" for number in range(0, 700, 7)]
        delete(path, gone)
        with contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog:
            compact_shards(path, catalog)
        store._reader.close()  # files that are open would be read on
        found += list(batches)
        rows = np.concatenate([rows for rows, _ in found])
        order = order_of(rows)
        left = [number for number in range(700) if number % 7]
        assert set(order.tolist()) >= set(left) and len(set(order.tolist())) == len(order) < 700
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), order % 3)
        assert sorted(order_of(np.concatenate([rows for rows, _ in dataset]))) == left
        assert sorted(order_of(epoch(dataset)[0])) == left and len(dataset) == 60
        assert len(dataset.ids) == 700 and len(store.dataset(framework="numpy").ids) == 600


def test_a_shard_that_is_open_is_read_on_when_compact_has_removed_it(path: Path) -> None:
    with Store(path) as store:
        assert sum(len(ids) for ids, _ in store.blocks("fc2", 100)) == 700
        dataset = store.dataset(framework="numpy")
        with contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog:
            assert compact_shards(path, catalog).shards_after == 1
        rows, labels = epoch(dataset)
        assert sorted(order_of(rows)) == list(range(700)) and (labels == order_of(rows) % 3).all()


def test_a_shard_that_is_really_missing_is_an_error(path: Path) -> None:
    (path / "features" / "000002.h5").unlink()
    with Store(path) as store, pytest.raises(StoreCorruptError, match=r"000002\.h5: the shard is missing"):
        epoch(store.dataset(framework="numpy"))


def test_a_batch_of_images_that_are_all_gone_says_so(tmp_path: Path) -> None:
    write_features(tmp_path / "a.store", values(6), [f"a/{number}" for number in range(6)], shard_rows=2)
    with Store(tmp_path / "a.store") as store:
        dataset = store.dataset(framework="numpy", batch_size=2, shuffle=False, buffer_bytes=4 * ROW_BYTES)
        delete(tmp_path / "a.store", ["a/2", "a/3"])
        with contextlib.closing(CatalogWriter(tmp_path / "a.store" / "catalog.sqlite")) as catalog:
            compact_shards(tmp_path / "a.store", catalog)
        with pytest.raises(StreamerError, match="all images of batch 1 have been removed"):
            dataset[1]
        assert [len(labels) for _, labels in dataset] == [2, 2]
        assert len(dataset) == 2 and len(dataset[1][1]) == 2


def test_numbers_that_are_not_finite_are_named_and_zeros_are_none(tmp_path: Path) -> None:
    """Extraction lets none pass, features from elsewhere may have some."""
    rows = np.zeros((40, 8), np.float32)
    write_features(tmp_path / "a.store", rows, [f"a/{number}" for number in range(40)])
    shard = tmp_path / "a.store" / "features" / "000001.h5"
    with Store(tmp_path / "a.store") as store:
        assert not epoch(store.dataset(framework="numpy"))[0].any()
    with h5py.File(shard, "r+") as file:
        file["features/fc2"][:2] = 3e38  # the sum overflows, and yet each is a number
    with Store(tmp_path / "a.store") as store:
        assert np.isfinite(epoch(store.dataset(framework="numpy"))[0]).all()
    for wrong in (np.nan, np.inf):
        with h5py.File(shard, "r+") as file:
            file["features/fc2"][17, 3] = wrong
        with Store(tmp_path / "a.store") as store:
            batches = iter(store.dataset(framework="numpy", shuffle=False, batch_size=8))
            assert len([next(batches), next(batches)]) == 2  # the batches before are good
            with pytest.raises(StoreCorruptError, match="fc2 of 'a/17' holds values that are no finite numbers"):
                next(batches)


@pytest.mark.parametrize("stored", [{}, {"compression": "gzip"}, {"shuffle": True, "compression": "lzf"}])
@pytest.mark.parametrize("density", [1.0, 0.7, 0.1])
def test_rows_in_order_equal_slices_however_they_are_stored(
    tmp_path: Path, stored: dict[str, object], density: float
) -> None:
    write_features(tmp_path / "a.store", values(700, 200), shard_rows=700)
    shard = tmp_path / "a.store" / "features" / "000001.h5"
    with h5py.File(shard, "r+") as file:
        plain = file["features/fc2"]
        chunks, rows = plain.chunks, plain[:]
        if stored:
            del file["features/fc2"]
            file.create_dataset("features/fc2", data=rows, chunks=chunks, **stored)
        assert (DirectRows(shard, file["features/fc2"])._offsets is None) == bool(stored)
    wanted = np.flatnonzero(np.random.default_rng(0).random(700) < density)
    for some in (wanted, wanted[-1:], np.repeat(wanted, 2)):
        with Store(tmp_path / "a.store") as store:
            out = np.empty((len(some), 200), np.float32)
            store._reader.read_in_order("fc2", 1, some, out)
            np.testing.assert_array_equal(out, rows[some])
            with pytest.raises(StoreCorruptError, match=r"000001\.h5.*row 700 of 700"):
                store._reader.read_in_order("fc2", 1, np.array([3, 700]), out[:2])


@pytest.mark.parametrize("compression", ["none", "lzf"])
def test_float16_rows_are_read_as_they_lie_and_rounded_up_by_numpy(tmp_path: Path, compression: str) -> None:
    """HDF5, which was asked to make float32 of them, takes eight times as long for an epoch."""
    rows = values(700, 200)
    half = replace(spec(200), dtype="float16")
    with StoreWriter(tmp_path / "a.store", half, engine="test", limits="", compression=compression) as writer:
        writer.append(feature_batch([f"a/{number}" for number in range(700)], rows))
    with Store(tmp_path / "a.store") as store:
        dataset = store._reader._file(1)["features/fc2"]
        assert (store._reader._direct_rows("fc2", 1)._offsets is None) == (compression != "none")
        for some in (np.arange(700), np.repeat(np.arange(0, 700, 3), 2), np.array([699])):
            out = np.empty((len(some), 200), np.float32)
            read_blocks(dataset, some, out)
            np.testing.assert_array_equal(out, rows[some].astype(np.float16))
            again = np.empty_like(out)
            store._reader.read_in_order("fc2", 1, some, again)
            np.testing.assert_array_equal(again, rows[some].astype(np.float16))


def test_what_will_be_read_soon_is_asked_for_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system cannot be asked to read ahead")
    write_features(tmp_path / "a.store", values(700, 200), shard_rows=700)
    shard = tmp_path / "a.store" / "features" / "000001.h5"
    with Store(tmp_path / "a.store") as store, h5py.File(shard, "r", locking=False) as file:
        dataset = file["features/fc2"]
        chunk_rows, chunk_bytes = dataset.chunks[0], 4 * int(np.prod(dataset.chunks))
        asked: list[tuple[int, int]] = []
        monkeypatch.setattr(os, "posix_fadvise", lambda _, start, length, __: asked.append((start, length)))
        store._reader.expect_in_order("fc2", 1, np.array([1, 2, 3 * chunk_rows]))
        begins = [dataset.id.get_chunk_info(number).byte_offset for number in (0, 3)]
        assert asked == [(begin, chunk_bytes) for begin in begins]


def test_a_file_that_was_cut_off_is_damaged(path: Path) -> None:
    with Store(path) as store:
        dataset = store.dataset(framework="numpy")
        epoch(dataset)
        shard = path / "features" / "000003.h5"
        shard.write_bytes(shard.read_bytes()[:3000])
        dataset._windows.clear()
        with pytest.raises(StoreCorruptError, match=r"000003\.h5: damaged .*ends too early"):
            epoch(dataset)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"output": "fc3"}, ConfigError, "no output 'fc3'; there are: fc2"),
        ({"split": "tests"}, ValueError, "split='tests' is not one of 'train', 'validation', 'test'"),
        ({"framework": "torch"}, ValueError, "framework='torch' is not one of 'keras', 'numpy', 'tf'"),
        ({"batch_size": 0}, ValueError, "batch_size=0 must be 1 or more"),
        ({"labels": {}}, StreamerError, "none of its 700 images has a label"),
    ],
)
def test_wrong_use_is_told(path: Path, options: dict[str, object], error: type[Exception], said: str) -> None:
    with Store(path) as store, pytest.raises(error, match=said):
        store.dataset(**{"framework": "numpy", **options})


def _spec(shape: tuple[int, ...]) -> FeatureSpec:
    return FeatureSpec("vgg16", "random", 0, "0" * 64, (224, 224), "test-1", "full", {"out": shape})
