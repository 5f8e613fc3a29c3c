"""Exports hold what the store holds, are whole or not there, and replace nothing that is somebody's."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer.errors import ConfigError, Interrupted, StoreMissingError, StreamerError
from streamer.exchange import FORMATS, export_features, exporting, rows
from streamer.records import FeatureBatch
from streamer.store import FeatureSpec, StoreWriter
from tests.conftest import content, delete, ref, write_features

SUFFIX = {"npy": "", "npz": "", "hdf5": ".h5", "parquet": ".parquet"}


def features(count: int = 57, length: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, length)).astype(np.float32)


@pytest.fixture(autouse=True)
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows of eight floats."""
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 5 * 8 * 4)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """57 images in shards of 10, of which two are gone; one name that wants care in a CSV file."""
    keys = [f"c{number % 3}/{number:04d}.jpg" for number in range(57)]
    keys[20] = 'c2/ä, "b"\n.jpg'
    write_features(tmp_path / "a.store", features(), keys, shard_rows=10)
    delete(tmp_path / "a.store", [keys[3], keys[41]])
    return tmp_path / "a.store"


def expected() -> tuple[np.ndarray, list[str]]:
    keys = [f"c{number % 3}/{number:04d}.jpg" for number in range(57)]
    keys[20] = 'c2/ä, "b"\n.jpg'
    live = [number for number in range(57) if number not in (3, 41)]
    return features()[live], [keys[number] for number in live]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_npy_is_laid_out_as_clip_retrieval_and_autofaiss_read_it(store: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    said = export_features(store, tmp_path / "out")
    values, keys = expected()
    found = np.load(tmp_path / "out" / "img_emb" / "img_emb_0.npy", mmap_mode="r", allow_pickle=False)
    assert found.dtype == np.float32 and found.tobytes() == values.tobytes()
    lines = read_csv(tmp_path / "out" / "keys.csv")
    assert [line["key"] for line in lines] == keys
    assert [line["label"] for line in lines] == [key[:2] for key in keys]
    assert [int(line["id"]) for line in lines] == [n + 1 for n in range(57) if n not in (3, 41)]
    table = parquet.read_table(tmp_path / "out" / "metadata" / "metadata_0.parquet").to_pydict()
    assert table["image_path"] == [f"/photos/{key}" for key in keys] == [line["path"] for line in lines]
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (facts["output"], facts["shape"], facts["format"]) == ("fc2", [8], "npy")
    assert (said.images, said.format, said.outputs) == (55, "npy", {"fc2": [8]})
    assert said.bytes == sum(each.stat().st_size for each in (tmp_path / "out").rglob("*") if each.is_file())


def test_without_pyarrow_npy_does_without_the_metadata_and_parquet_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    export_features(store, tmp_path / "out")
    assert {each.name for each in (tmp_path / "out").iterdir()} == {"img_emb", "keys.csv", "export.json"}
    with pytest.raises(StreamerError, match="takes pyarrow, which is not installed"):
        export_features(store, tmp_path / "out.parquet")


def test_hdf5_is_one_plain_file(store: Path, tmp_path: Path) -> None:
    export_features(store, tmp_path / "out.h5")
    values, keys = expected()
    with h5py.File(tmp_path / "out.h5") as file:
        dataset = file["features/fc2"]
        assert not dataset.is_virtual and dataset[:].tobytes() == values.tobytes()
        assert file["key"].asstr()[:].tolist() == keys
        assert file["label"].asstr()[:].tolist() == [key[:2] for key in keys]
        assert file["path"].asstr()[:].tolist() == [f"/photos/{key}" for key in keys]
        assert file["id"][:].tolist() == [n + 1 for n in range(57) if n not in (3, 41)]
        spec = FeatureSpec.from_json(file.attrs["spec"])
        assert spec.fingerprint == file.attrs["fingerprint"]


def test_npz_takes_no_pickle(store: Path, tmp_path: Path) -> None:
    export_features(store, tmp_path / "out", format="npz")
    values, keys = expected()
    parts = [np.load(path, allow_pickle=False) for path in sorted((tmp_path / "out").glob("*.npz"))]
    assert len(parts) == 11
    assert np.concatenate([part["features"] for part in parts]).tobytes() == values.tobytes()
    assert np.concatenate([part["keys"] for part in parts]).tolist() == keys
    assert np.concatenate([part["labels"] for part in parts]).tolist() == [key[:2] for key in keys]
    assert np.concatenate([part["ids"] for part in parts])[[0, -1]].tolist() == [1, 57]
    assert [line["key"] for line in read_csv(tmp_path / "out" / "keys.csv")] == keys


def test_parquet_holds_lists_of_fixed_size_in_row_groups(store: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    export_features(store, tmp_path / "out.parquet")
    values, keys = expected()
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert file.schema_arrow.field("features").type == pa.list_(pa.float32(), 8)
    assert file.num_row_groups == 11 and json.loads(file.schema_arrow.metadata[b"shape"]) == [8]
    table = file.read()
    assert np.array(table["features"].to_pylist(), dtype=np.float32).tobytes() == values.tobytes()
    assert table["key"].to_pylist() == keys


@pytest.fixture
def maps(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Two outputs, one of them unpooled."""
    spec = FeatureSpec("vgg16", "random", 0, "0" * 64, (32, 32), "t", "full", {"pool": (2, 3, 4), "fc": (5,)})
    values = np.random.default_rng(1).normal(size=(7, 2, 3, 4)).astype(np.float32)
    names = [f"{number}.jpg" for number in range(7)]
    with StoreWriter(tmp_path / "m.store", spec, engine="t", limits="") as writer:
        digests = tuple(content(name, row) for name, row in zip(names, values, strict=True))
        rows = {"pool": values, "fc": values.reshape(7, -1)[:, :5]}
        writer.append(FeatureBatch(tuple(map(ref, names)), digests, rows))
    return tmp_path / "m.store", values


def test_unpooled_maps_keep_their_shape(maps: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    store, values = maps
    export_features(store, tmp_path / "npy")
    np.testing.assert_array_equal(np.load(tmp_path / "npy/img_emb/img_emb_0.npy"), values)
    export_features(store, tmp_path / "npz", format="npz")
    np.testing.assert_array_equal(np.load(tmp_path / "npz/000000.npz")["features"], values[:1])
    export_features(store, tmp_path / "both.h5", outputs=["fc", "pool"])
    with h5py.File(tmp_path / "both.h5") as file:
        np.testing.assert_array_equal(file["features/pool"][:], values)
        np.testing.assert_array_equal(file["features/fc"][:], values.reshape(7, -1)[:, :5])


def test_what_cannot_be_is_refused_before_anything_is_written(maps: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    store, _ = maps
    for options, what in (
        ({"outputs": ["fc1"]}, "no output 'fc1'; there are: pool, fc"),
        ({"outputs": ["pool", "fc"]}, "--format npy holds one output, not 2"),
        ({"format": "zarr"}, "--format 'zarr' is not one of npy, hdf5, npz, parquet"),
    ):
        with pytest.raises(ConfigError) as error:
            export_features(store, tmp_path / "out", **options)  # type: ignore[arg-type]
        assert what in str(error.value)
    with pytest.raises(ConfigError, match="there is no folder"):
        export_features(store, tmp_path / "none" / "out")
    with pytest.raises(StoreMissingError):
        export_features(tmp_path / "none.store", tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["m.store"]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_is_replaced_and_anything_else_is_not(store: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"out{SUFFIX[kind]}"
    export_features(store, target, format=kind)
    delete(store, ["c0/0000.jpg"])
    assert export_features(store, target, format=kind).images == 54
    mine = tmp_path / f"mine{SUFFIX[kind]}"
    if kind in ("npy", "npz"):
        mine.mkdir()
        export_features(store, mine, format=kind)  # an empty folder is nobody's
        mine = tmp_path / "letters"
        mine.mkdir()
        (mine / "letter.txt").write_text("Dear")
    else:
        mine.write_text("Dear")
    with pytest.raises(ConfigError, match="no export of a store; name another place, or replace it with --force"):
        export_features(store, mine, format=kind)
    assert (mine / "letter.txt" if mine.is_dir() else mine).read_text() == "Dear"
    assert export_features(store, mine, format=kind, force=True).images == 54
    assert not (mine / "letter.txt").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_store_is_never_replaced(store: Path, tmp_path: Path) -> None:
    write_features(tmp_path / "b.store", features())
    for target in (store, store / "out", tmp_path, tmp_path / "b.store"):
        with pytest.raises(ConfigError, match="in a store"):
            export_features(store, target, force=True)
    with pytest.raises(ConfigError, match="is a folder, and --format hdf5 makes a file"):
        (tmp_path / "folder").mkdir()
        export_features(store, tmp_path / "folder", format="hdf5", force=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_is_stopped_leaves_what_was_there(store: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"out{SUFFIX[kind]}"
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="was not written"):
        export_features(store, target, format=kind, should_stop=lambda: next(asked))
    assert [each.name for each in tmp_path.iterdir()] == ["a.store"]
    export_features(store, target, format=kind)
    before = contents(target)
    with pytest.raises(Interrupted):
        export_features(store, target, format=kind, should_stop=lambda: True)
    assert contents(target) == before


@pytest.mark.parametrize("kind", ["npy", "hdf5"])
def test_an_export_that_is_killed_leaves_what_was_there(store: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"out{SUFFIX[kind]}"
    export_features(store, target, format=kind)
    before = contents(target)
    code = (
        "import os, sys; from pathlib import Path; from streamer.exchange import export_features, rows\n"
        "rows._BLOCK_BYTES = 160\n"
        "kill = lambda stage, done, total: os._exit(9) if done >= 20 else None\n"
        "export_features(Path(sys.argv[1]), Path(sys.argv[2]), format=sys.argv[3], progress=kill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(store), str(target), kind], check=False)
    assert killed.returncode == 9 and list(tmp_path.glob("*.partial"))
    assert contents(target) == before
    export_features(store, target, format=kind)
    assert not list(tmp_path.glob("*.partial"))


def contents(target: Path) -> dict[str, bytes]:
    files = sorted(target.rglob("*")) if target.is_dir() else [target]
    return {each.name: each.read_bytes() for each in files if each.is_file()}


def test_a_disk_without_room_is_told_first(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_NAMES_BYTES", 2**60)
    with pytest.raises(StreamerError, match="exporting 55 images takes about"):
        export_features(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
