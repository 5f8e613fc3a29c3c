"""How features lie on the disk: every way of it gives back what went in, or says how far off it is."""

from __future__ import annotations

import json
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from streamer.errors import CompressionUnavailableError, FingerprintMismatchError, StoreCorruptError
from streamer.records import Augmentation
from streamer.store import FeatureSpec, Store, StoreWriter
from streamer.store.compression import COMPRESSIONS
from streamer.store.mapped import MappedRows
from streamer.upkeep import check, compact
from tests.conftest import delete, feature_batch, spec
from tests.store.test_store import everything

MAPS = replace(spec(), outputs={"conv": (6, 6, 32), "fc2": (40,)})
AUGMENTATION = Augmentation(2, True, 0.1, 0.2, 0, "test-1")


def maps(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """As a ReLU leaves them: 85 % zeros; beside a dense vector."""
    random = np.random.default_rng(seed)
    sparse = np.maximum(random.normal(size=(count, 6, 6, 32)) - 1.036, 0)
    return {"conv": sparse.astype(np.float32), "fc2": random.normal(size=(count, 40)).astype(np.float32)}


def write(
    path: Path, count: int = 60, made: FeatureSpec = MAPS, first: int = 0, **options: Any
) -> dict[str, np.ndarray]:
    values = maps(count, first)
    with StoreWriter(path, made, engine="test", limits="none", **options) as writer:
        for start in range(0, count, 7):
            part = slice(start, start + 7)
            keys = [f"{number:03d}.jpg" for number in range(first, first + count)][part]
            batch = feature_batch(keys, values["fc2"][part])
            writer.append(replace(batch, features={name: rows[part] for name, rows in values.items()}))
        writer.commit()
        writer.publish_view()
    return values


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_come_back_however_they_are_stored(tmp_path: Path, dtype: str, compression: str) -> None:
    path, made = tmp_path / "a.store", replace(MAPS, dtype=dtype)
    expected = write(path, made=made, compression=compression)
    wanted = np.random.default_rng(1).integers(0, 60, 100)
    with Store(path) as store:
        for name, values in expected.items():
            stored = values.astype(dtype).astype(np.float32).reshape(60, -1)
            for block in (1, 7, 100):
                rows = np.concatenate([rows for _, rows in store.blocks(name, block)])
                assert rows.dtype == np.float32
                np.testing.assert_array_equal(rows, stored)
            apart = store.rows(name, np.ones_like(wanted), wanted)
            assert apart.dtype == np.float32
            np.testing.assert_array_equal(apart, stored[wanted])
        info = store.info()
    assert info["compression"] == compression
    assert {each["dtype"] for each in info["outputs"].values()} == {dtype}
    with h5py.File(path / "features.h5") as view:
        assert view["features/conv"].dtype == dtype
        np.testing.assert_array_equal(view["features/conv"][:], expected["conv"].astype(dtype))
    assert check(path).faults == []


def test_sparse_maps_are_stored_in_a_fraction(tmp_path: Path) -> None:
    sizes = {}
    for compression in COMPRESSIONS:
        for dtype in ("float32", "float16"):
            write(tmp_path / f"{compression}.{dtype}", made=replace(MAPS, dtype=dtype), compression=compression)
            with h5py.File(tmp_path / f"{compression}.{dtype}" / "features" / "000001.h5") as file:
                dataset = file["features/conv"]
                sizes[compression, dtype] = dataset.id.get_storage_size() / len(dataset)
                assert dataset.fletcher32
    raw = 4 * 6 * 6 * 32
    assert raw <= sizes["none", "float32"] < 1.5 * raw  # the last chunk is stored whole
    assert max(sizes[name, "float32"] for name in ("gzip", "lzf", "blosc")) < 0.4 * raw
    for compression in COMPRESSIONS:
        assert sizes[compression, "float16"] < 0.75 * sizes[compression, "float32"]


def test_float16_is_within_the_error_that_is_stated(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scales = 10.0 ** random.uniform(-9, 4.5, size=(200, 40))
    rows = (scales * random.choice([-1, 1], size=scales.shape)).astype(np.float32)
    rows[0, :4] = [65504, 65519.9, -65519.9, 0]
    with StoreWriter(tmp_path / "a.store", replace(spec(40), dtype="float16"), engine="t", limits="") as writer:
        writer.append(feature_batch([f"{number:03d}" for number in range(200)], rows))
    with Store(tmp_path / "a.store") as store:
        rounding = store.info()["rounding"]
        (found,) = (rows for _, rows in store.blocks("fc2", 1000))
    assert rounding == {"relative": 2**-11, "absolute": 2**-25}
    error = np.abs(found.astype(np.float64) - rows)
    normal = np.abs(rows) >= 2.0**-14
    assert 0.4 < normal.mean() < 0.9
    assert (error[normal] <= 2.0**-11 * np.abs(rows[normal])).all()
    assert (error[~normal] <= 2.0**-25).all()
    assert error[normal].max() > 0  # it is float16


def test_what_float16_cannot_hold_is_a_failure_with_a_name(tmp_path: Path) -> None:
    rows = np.ones((4, 8), np.float32)
    rows[1, 3], rows[2, 0] = 65520, -1e6
    with StoreWriter(tmp_path / "a.store", replace(spec(), dtype="float16"), engine="t", limits="") as writer:
        writer.append(feature_batch(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], rows))
    assert +writer.counts == {"added": 2, "failed": 2}
    with Store(tmp_path / "a.store") as store:
        reasons = {each.key: each.reason for each in store.failures()}
        assert all(np.isfinite(block).all() for _, block in store.blocks("fc2", 10))
    assert list(everything(tmp_path / "a.store")) == ["a.jpg", "d.jpg"]
    assert list(reasons) == ["b.jpg", "c.jpg"]
    assert "fc2: a feature of 65520 is more than float16 can hold (65504)" in reasons["b.jpg"]
    assert "1e+06" in reasons["c.jpg"]


def test_an_image_of_which_a_copy_overflows_is_refused_whatever_batch_it_is_in(tmp_path: Path) -> None:
    made = replace(spec(), dtype="float16", augmentation=AUGMENTATION)
    bad = feature_batch(["a.jpg"], np.ones((1, 8)))
    worse = replace(bad, features={"fc2": np.full((1, 8), 7e4, np.float32)}, copies=(2,))
    with StoreWriter(tmp_path / "a.store", made, engine="t", limits="") as writer:
        writer.append(replace(bad, copies=(1,)))
        writer.commit()
        writer.append(worse)
        assert not writer.knows(bad.contents[0])
        writer.append(bad)
    assert +writer.counts == {"failed": 1}
    with Store(tmp_path / "a.store") as store:
        assert ([each.key for each in store.failures()], len(store)) == (["a.jpg"], 0)
        assert (store.catalog.rows.dead_in(1), list(store.augmented_places())) == (1, [])


def test_the_fingerprint_of_a_plain_store_is_what_it_always_was() -> None:
    """Stores that were made before there was a choice must not be turned away."""
    assert spec().fingerprint == "2dd6b5dafb67cc89f9eb4cf3036f3052"
    assert set(spec().identity()) == {"backbone", "weights_sha256", "input_size", "decoding", "precision", "outputs"}
    kinds = [spec(), replace(spec(), dtype="float16"), replace(spec(), augmentation=AUGMENTATION)]
    kinds += [replace(spec(), augmentation=replace(AUGMENTATION, **{name: 1})) for name in ("crop", "seed", "copies")]
    assert len({kind.fingerprint for kind in kinds}) == len(kinds)
    assert all(FeatureSpec.from_json(kind.to_json()) == kind for kind in kinds)
    assert {kind.of_queries().fingerprint for kind in kinds} == {spec().fingerprint}
    old = {name: value for name, value in json.loads(spec().to_json()).items() if name not in ("dtype", "augmentation")}
    assert FeatureSpec.from_json(json.dumps(old)) == spec()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"dtype": "float16"}, "dtype is float16 here and float32 there"),
        ({"augmentation": AUGMENTATION}, r"augment is \{'copies': 2.*\} here and None there"),
    ],
)
def test_another_kind_of_row_is_refused_and_named(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    write(tmp_path / "a.store", 7)
    with pytest.raises(FingerprintMismatchError, match=said):
        write(tmp_path / "a.store", 7, replace(MAPS, **other))


def test_a_store_holds_shards_of_several_compressions_and_compact_writes_as_the_newest_is(tmp_path: Path) -> None:
    path, expected = tmp_path / "a.store", {}
    for place, compression in enumerate(COMPRESSIONS):
        values = write(path, 20, first=20 * place, compression=compression)
        expected |= {f"{20 * place + row:03d}.jpg": values["conv"][row].ravel() for row in range(20)}
    with Store(path) as store:
        assert store.info()["compression"] == "blosc+gzip+lzf+none"
    gone = ["003.jpg", "050.jpg"]
    delete(path, gone)
    before = everything(path)
    assert before.keys() == expected.keys() - set(gone)
    assert all((before[key] == expected[key]).all() for key in before)
    assert compact(path).dropped_rows == 2
    with Store(path) as store:
        assert (store.info()["compression"], store.info()["shards"]) == ("blosc", 1)
    after = everything(path)
    assert all((after[key] == before[key]).all() for key in before) and after.keys() == before.keys()


def test_a_lost_catalog_is_made_anew_with_the_compressions(tmp_path: Path) -> None:
    path = tmp_path / "a.store"
    for place, compression in enumerate(("blosc", "none")):
        write(path, 10, first=10 * place, compression=compression)
    for file in path.glob("catalog.sqlite*"):
        file.unlink()
    assert check(path, repair=True).repaired
    with Store(path) as store:
        assert [each.compression for each in store.catalog.sealed().values()] == ["blosc", "none"]


def test_damage_inside_a_compressed_chunk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.store"
    write(path, 20, compression="blosc")
    shard = path / "features" / "000001.h5"
    with h5py.File(shard) as file:
        chunk = file["features/conv"].id.get_chunk_info(0)
    data = bytearray(shard.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0x10
    shard.write_bytes(data)
    with Store(path) as store, pytest.raises(StoreCorruptError, match=r"000001\.h5"):
        next(store.blocks("conv", 20))
    assert check(path, repair=True).images_to_extract == 20
    assert check(path).faults == []


def test_blosc_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To write, and to read: and what only cannot be read here is not taken for damage."""
    path = tmp_path / "a.store"
    write(path, 10, compression="blosc")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    said = r"hdf5plugin, which is not installed.*pip install 'streamer\[blosc\]'"
    with pytest.raises(CompressionUnavailableError, match=r"storage\.compression: .*" + said):
        write(tmp_path / "b.store", 10, compression="blosc")
    assert not (tmp_path / "b.store").exists()
    with Store(path) as store, pytest.raises(CompressionUnavailableError, match=r"000001\.h5: .*" + said):
        next(store.blocks("conv", 5))
    with pytest.raises(CompressionUnavailableError, match=said):
        check(path, repair=True)
    catalog = (path / "catalog.sqlite").read_bytes()
    for file in path.glob("catalog.sqlite*"):
        file.unlink()
    with pytest.raises(CompressionUnavailableError, match=said):
        check(path, repair=True)
    monkeypatch.undo()
    (path / "catalog.sqlite").write_bytes(catalog)
    assert len(everything(path)) == 10 and check(path).faults == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_of_either_dtype_are_mapped_and_compressed_ones_are_not(tmp_path: Path, dtype: str) -> None:
    for compression in COMPRESSIONS:
        path = tmp_path / compression
        write(path, 20, replace(MAPS, dtype=dtype), compression=compression)
        shard = path / "features" / "000001.h5"
        with h5py.File(shard) as file:
            for name in MAPS.outputs:
                assert (MappedRows.of(shard, file[f"features/{name}"]) is not None) == (compression == "none")


def test_a_compressed_shard_is_sealed_by_what_it_takes_on_disk(tmp_path: Path) -> None:
    rows = np.zeros((256, 8192), np.float32)  # 8 MiB, or next to nothing
    shards = {}
    for compression in ("none", "gzip"):
        path = tmp_path / compression
        with StoreWriter(
            path, spec(8192), engine="t", limits="", compression=compression, commit_bytes=4 * 2**20
        ) as writer:
            for start in range(0, 256, 64):
                keys = [f"{number:03d}.jpg" for number in range(start, start + 64)]
                writer.append(feature_batch(keys, rows[start : start + 64]))
        with Store(path) as store:
            shards[compression] = store.info()["shards"]
    assert shards == {"none": 2, "gzip": 1}


def test_the_space_that_is_asked_for_follows_what_was_seen(tmp_path: Path) -> None:
    shares = {}
    for compression in ("none", "gzip"):
        write(tmp_path / compression, 60, compression=compression)
        with StoreWriter(tmp_path / compression, MAPS, engine="t", limits="", compression=compression) as writer:
            shares[compression] = writer.compressed_share()
    assert shares["none"] == 1 and 0.15 < shares["gzip"] < 0.6


def test_a_catalog_made_before_is_read_and_completed_by_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.store"
    write(path, 10)
    with sqlite3.connect(path / "catalog.sqlite") as db:
        db.execute("DROP TABLE augmented")
        db.execute("ALTER TABLE shards DROP COLUMN compression")
    db.close()
    with h5py.File(path / "features" / "000001.h5", "r+") as file:
        del file["copy"], file.attrs["compression"]
    with Store(path) as store:
        info = store.info()
        assert (info["augmented"], info["compression"], list(store.augmented_places())) == (0, "none", [])
        assert store.catalog.rows.dead_in(1) == 0 and store.catalog.inconsistencies() == []
        assert len(list(store.catalog.rows.of_shard(1))) == 10
        write(path, 10, first=10, compression="gzip")  # while a reader has it open
        assert store.info()["compression"] == "gzip+none"
    assert len(everything(path)) == 20
    compact(path)
    assert len(everything(path)) == 20
