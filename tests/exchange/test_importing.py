"""Features computed elsewhere become a store like any other; hostile files do not."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from streamer.errors import ConfigError, FingerprintMismatchError, Interrupted, StreamerError
from streamer.exchange import batches, export_features, import_features, index_imported
from streamer.index import current_generation
from streamer.store import FeatureSpec, Store, StoreWriter
from streamer.transfer import predict_stored, train
from tests.conftest import publish_index, remember, write_features


def features(count: int = 57, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *(shape or (8,)))).astype(np.float32)


def keys_of(count: int) -> list[str]:
    return [f"c{number % 3}/{number:04d}.jpg" for number in range(count)]


def write_keys(path: Path, keys: list[str]) -> Path:
    lines = [f"{key},{key.partition('/')[0]}" for key in keys]
    path.write_text("\n".join(["key,label", *lines, ""]), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows of eight floats."""
    monkeypatch.setattr(batches, "_BLOCK_BYTES", 5 * 8 * 4)


def take(folder: Path, array: np.ndarray, keys: list[str] | None = None, **options: Any) -> dict[str, int]:
    """Import an array into ``folder/a.store``; gives what became of the rows."""
    np.save(folder / "a.npy", array)
    names = write_keys(folder / "keys.csv", keys or keys_of(len(array)))
    return import_features(folder / "a.store", folder / "a.npy", keys=names, **options).images


def held(path: Path) -> dict[str, tuple[bytes, str]]:
    """Features and label of each live image, by key."""
    found = {}
    with Store(path) as store:
        for ids, rows in store.blocks(store.spec.indexed, 10):
            entries = store.entries(ids.tolist())
            for number, row in zip(ids.tolist(), rows, strict=True):
                found[entries[number].key] = (row.tobytes(), entries[number].label)
    return found


def expected(array: np.ndarray, keys: list[str]) -> dict[str, tuple[bytes, str]]:
    return {key: (row.astype(np.float32).tobytes(), key[:2]) for key, row in zip(keys, array, strict=True)}


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i4", "u1", ">i8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(8,), (2, 3, 4)])
def test_numbers_of_any_kind_become_float32(tmp_path: Path, dtype: str, order: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.abs(features(23, *shape)) * 20, dtype=dtype, order=order)  # type: ignore[call-overload]
    assert take(tmp_path, array) == {"added": 23, "updated": 0, "unchanged": 0, "failed": 0}
    assert held(tmp_path / "a.store") == expected(array, keys_of(23))
    with Store(tmp_path / "a.store") as store:
        assert store.spec.imported and dict(store.spec.outputs) == {"imported": shape}


def test_another_import_updates_by_key(tmp_path: Path) -> None:
    array = features()
    take(tmp_path, array)
    with Store(tmp_path / "a.store") as store:
        before = {key: number for key, number, *_ in store.catalog.known()}
    array[4] += 1
    keys = [*keys_of(57)[:50], *(f"c9/{number}.jpg" for number in range(7))]
    assert take(tmp_path, array, keys) == {"added": 7, "updated": 1, "unchanged": 49, "failed": 0}
    old = {key: row for key, row in expected(features(), keys_of(57)).items() if key not in keys}
    assert held(tmp_path / "a.store") == expected(array, keys) | old
    with Store(tmp_path / "a.store") as store:
        after = {key: number for key, number, *_ in store.catalog.known()}
    assert {key for key in before if after[key] != before[key]} == {keys[4]}


def test_equal_rows_are_kept_once(tmp_path: Path) -> None:
    array = features(20)
    array[10:] = array[:10]
    array[3] = array[2]
    array[7] = 0
    assert take(tmp_path, array)["added"] == 20
    assert held(tmp_path / "a.store") == expected(array, keys_of(20))
    with Store(tmp_path / "a.store") as store:
        distinct = len({row.tobytes() for row in array})
        assert store.catalog.execute("SELECT sum(rows) FROM shards") == [(distinct,)]


def test_rows_that_are_not_finite_are_failures_until_they_are(tmp_path: Path) -> None:
    array = features(30).astype(np.float64)
    array[5, 2], array[11, 0], array[12, 7] = np.nan, -np.inf, 1e300
    assert take(tmp_path, array) == {"added": 27, "updated": 0, "unchanged": 0, "failed": 3}
    with Store(tmp_path / "a.store") as store:
        reasons = {each.key: each.reason for each in store.failures()}
    assert reasons == {
        "c2/0005.jpg": f"{tmp_path / 'keys.csv'}:7: value 3 of 8 is nan: not a finite number",
        "c2/0011.jpg": f"{tmp_path / 'keys.csv'}:13: value 1 of 8 is -inf: not a finite number",
        "c0/0012.jpg": f"{tmp_path / 'keys.csv'}:14: value 8 of 8 is 1e+300: float32 cannot hold that",
    }
    good = [number for number in range(30) if number not in (5, 11, 12)]
    assert held(tmp_path / "a.store") == expected(array[good], [keys_of(30)[number] for number in good])
    assert take(tmp_path, features(30)) == {"added": 3, "updated": 0, "unchanged": 27, "failed": 0}
    with Store(tmp_path / "a.store") as store:
        assert list(store.failures()) == []


def test_one_that_is_stopped_goes_on_to_the_same_end(tmp_path: Path) -> None:
    asked = iter([False, True])
    with pytest.raises(Interrupted, match="stopped after 10 of 57 rows; they are committed"):
        take(tmp_path, features(), should_stop=lambda: next(asked))
    assert len(held(tmp_path / "a.store")) == 10
    assert take(tmp_path, features()) == {"added": 47, "updated": 0, "unchanged": 10, "failed": 0}
    assert held(tmp_path / "a.store") == expected(features(), keys_of(57))


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


def test_one_that_is_killed_at_any_block_goes_on_to_the_same_end(tmp_path: Path) -> None:
    for block in range(1, 12):

        def kill(stage: str, done: int, total: int, last: int = 5 * block) -> None:
            if done >= last:
                raise Killed

        with pytest.raises(Killed):
            take(tmp_path, features(), progress=kill)
    take(tmp_path, features())
    assert held(tmp_path / "a.store") == expected(features(), keys_of(57))


# -- what is refused -------------------------------------------------------------------------------------------------


def refused(folder: Path, what: str, path: Path | None = None, kind: type[StreamerError] = StreamerError) -> None:
    """Importing ``a.npy`` or another file is refused in these words, and makes no store."""
    keys = folder / "keys.csv" if (folder / "keys.csv").exists() else write_keys(folder / "keys.csv", keys_of(5))
    with pytest.raises(kind) as error:
        import_features(folder / "a.store", path or folder / "a.npy", keys=keys)
    assert what in str(error.value), error.value
    assert not (folder / "a.store").exists()


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (features(5)[:, 0], "float32 (5,): wanted is one row of features for each image"),
        (features(0, 8), "wanted is one row of features"),
        (features(5, 8)[:, :0], "wanted is one row of features"),
        (np.array(3.0), "wanted is one row of features"),
        (features(5) > 0, "is no array of numbers"),
        (features(5) + 1j, "is no array of numbers"),
        (np.array([["a"] * 3] * 5), "is no array of numbers"),
        (np.zeros(5, dtype=[("x", "f4"), ("y", "f4")]), "is no array of numbers"),
        (features(6), "has 6 rows, but"),
        (features(4), "has 4 rows, but"),
    ],
    ids=lambda each: "" if isinstance(each, str) else f"{each.dtype}{each.shape}",
)
def test_an_array_of_another_kind_or_length_is_refused(tmp_path: Path, array: np.ndarray, what: str) -> None:
    np.save(tmp_path / "a.npy", array)
    refused(tmp_path, what)


class Evil:
    """Says that it was unpickled."""

    ran: list[int] = []  # noqa: RUF012 - that is its purpose

    def __reduce__(self) -> tuple[Any, ...]:
        return Evil.ran.append, (1,)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[Evil()] * 3] * 5, dtype=object), allow_pickle=True)
    refused(tmp_path, "holds Python objects, which only unpickling can read")
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Evil()))
    refused(tmp_path, "is no .npy file")
    assert Evil.ran == []


def test_a_file_that_is_cut_short_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.save(whole, features(5))
    for size in range(0, len(whole.getvalue()), 7):
        (tmp_path / "a.npy").write_bytes(whole.getvalue()[:size])
        refused(tmp_path, "a.npy: ")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 8)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5, -8)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 8)}",
        "{'descr': '<f4', 'fortran_order': 3, 'shape': (5, 8)}",
        "{'descr': '<f4', 'shape': (5, 8)}",
        "{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (5, 8)}",
        "{'descr': 'bogus', 'fortran_order': False, 'shape': (5, 8)}",
        "__import__('os').system('false')",
        "(((((((((",
        "{'descr': '",
        "",
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: str) -> None:
    text = header.encode().ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(160))
    refused(tmp_path, "a.npy: ")


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", features(5))
    keys = write_keys(tmp_path / "keys.csv", keys_of(5))
    for options, what in (
        ({}, "give --keys KEYS.csv"),
        ({"keys": keys, "dataset": "x"}, "--dataset 'x' is for HDF5"),
        ({"keys": keys, "name": "a/b"}, "--name 'a/b'"),
    ):
        with pytest.raises(ConfigError) as error:
            import_features(tmp_path / "a.store", tmp_path / "a.npy", **options)  # type: ignore[arg-type]
        assert what in str(error.value)
    with pytest.raises(ConfigError, match="is a folder, and not what 'streamer export --format npy' makes"):
        import_features(tmp_path / "a.store", tmp_path)
    assert not (tmp_path / "a.store").exists()


def test_features_of_another_kind_are_refused(tmp_path: Path) -> None:
    take(tmp_path, features(), name="clip")
    assert take(tmp_path, features())["unchanged"] == 57  # the name is the store's
    for array, name in ((features(57, 9), None), (features(), "dino")):
        with pytest.raises(FingerprintMismatchError, match="holds features called clip of"):
            take(tmp_path, array, name=name)
    write_features(tmp_path / "real.store", features())
    with pytest.raises(FingerprintMismatchError, match=r"holds features of vgg16 .* made here from photos"):
        import_features(tmp_path / "real.store", tmp_path / "a.npy", keys=tmp_path / "keys.csv")


def test_unnamed_features_of_one_shape_are_not_taken_for_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A head that was trained on one fitted the other: all that was known of both were a name and a shape."""
    array, other = features(60), features(60)[::-1]
    keys = write_keys(tmp_path / "keys.csv", keys_of(60))
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", other)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(7, 8))
    for store, source, name in (
        ("a", "a.npy", None),
        ("again", "a.h5", None),
        ("b", "b.npy", None),
        ("clip", "a.npy", "clip"),
        ("clip_b", "b.npy", "clip"),
    ):
        caplog.clear()
        import_features(tmp_path / store, tmp_path / source, keys=keys, name=name)
        assert ("imported without --name" in caplog.text) == (name is None)
    with contextlib.ExitStack() as opened:
        stores = {name: opened.enter_context(Store(tmp_path / name)) for name in ("a", "again", "b", "clip", "clip_b")}
        prints = {name: store.spec.fingerprint for name, store in stores.items()}
        assert prints["a"] == prints["again"] and prints["clip"] == prints["clip_b"]
        assert len(set(prints.values())) == 3
        head = train(stores["a"], epochs=1).head
        assert len(list(predict_stored(head, stores["again"]))) == 60
        with pytest.raises(FingerprintMismatchError, match="nothing says that they are of one network; say so as"):
            next(predict_stored(head, stores["b"]))
    assert import_features(tmp_path / "a", tmp_path / "b.npy", keys=keys).images["failed"] == 0  # it is one's own word


def test_a_store_that_was_imported_before_there_were_origins_is_as_it_was(tmp_path: Path) -> None:
    spec = FeatureSpec.of_imported("imported", (8,))
    assert spec.fingerprint == "493ce9068c9184bc83fc80def6c5e4f1"
    text = json.dumps({key: value for key, value in json.loads(spec.to_json()).items() if key != "origin"})
    assert FeatureSpec.from_json(text) == spec
    with StoreWriter(tmp_path / "a.store", spec, engine="import", limits=""):
        pass
    assert take(tmp_path, features())["added"] == 57
    with Store(tmp_path / "a.store") as store:
        assert store.spec == spec


# -- HDF5 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, (7, 8), (57, 1)])
@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<i2"])
def test_hdf5_is_streamed(tmp_path: Path, chunks: tuple[int, int] | None, dtype: str) -> None:
    array = (features() * 10).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("deep/er/rows", data=array, chunks=chunks, compression=chunks and "gzip")
        file["other"] = np.arange(57)
    keys = write_keys(tmp_path / "keys.csv", keys_of(57))
    for dataset in (None, "deep/er/rows", "/deep/er/rows"):
        import_features(tmp_path / "a.store", tmp_path / "a.h5", keys=keys, dataset=dataset)
        assert held(tmp_path / "a.store") == expected(array, keys_of(57))


def test_hdf5_that_leads_out_of_the_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = features(5)
    (tmp_path / "raw.bin").write_bytes(features(5).tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["external"] = h5py.ExternalLink("secret.h5", "x")
        file["folder"] = h5py.ExternalLink("secret.h5", "/")
        file["soft"] = h5py.SoftLink("/group/inside")
        file["group/inside"] = features(5)
        file.create_dataset("raw", (5, 8), np.float32, external=[(str(tmp_path / "raw.bin"), 0, 160)])
        layout = h5py.VirtualLayout((5, 8), np.float32)
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "x", (5, 8))
        file.create_virtual_dataset("virtual", layout)
        file["key"] = h5py.SoftLink("/group/inside")
    keys = write_keys(tmp_path / "keys.csv", keys_of(5))
    for dataset, what in (
        ("external", "'external' of 'external' is a link"),
        ("folder/x", "'folder' of 'folder/x' is a link"),
        ("soft", "is a link; copy the data into the file"),
        ("raw", "keeps its data in another file"),
        ("virtual", "keeps its data in another file"),
        ("group", "'group' is no dataset"),
        ("group/none", "no dataset 'group/none'"),
        (None, "there are several: group/inside, raw, virtual; name it by --dataset"),
    ):
        with pytest.raises(StreamerError) as error:
            import_features(tmp_path / "a.store", tmp_path / "a.h5", keys=keys, dataset=dataset)
        assert what in str(error.value)
    with pytest.raises(StreamerError, match="'key' of 'key' is a link"):
        import_features(tmp_path / "a.store", tmp_path / "a.h5", dataset="group/inside")
    assert not (tmp_path / "a.store").exists()


def test_hdf5_of_huge_chunks_or_damaged_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.csv", keys_of(5))
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("x", (5, 8), np.float32, chunks=(2**20, 32), maxshape=(None, None), compression="gzip")
    with pytest.raises(StreamerError, match=r"chunks of .* write it anew with smaller ones"):
        import_features(tmp_path / "b.store", tmp_path / "huge.h5", keys=tmp_path / "keys.csv")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = features(5)
    whole = (tmp_path / "a.h5").read_bytes()
    for size in (0, 10, 200, 800, len(whole) - 20):
        (tmp_path / "a.h5").write_bytes(whole[:size])
        refused(tmp_path, "cannot be read as HDF5", tmp_path / "a.h5")


# -- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out", "out.h5"])
@pytest.mark.parametrize("shape", [(8,), (2, 3, 4)])
def test_what_is_exported_is_imported_byte_for_byte(tmp_path: Path, target: str, shape: tuple[int, ...]) -> None:
    array, keys = features(57, *shape), keys_of(57)
    keys[20] = 'c2/ä, "b"\n.jpg'
    np.save(tmp_path / "a.npy", array)
    with (tmp_path / "keys.csv").open("w", encoding="utf-8") as file:
        quoted = [key.replace('"', '""') for key in keys]
        file.writelines(["key,label\n", *(f'"{key}",{key[:2]}\n' for key in quoted)])
    import_features(tmp_path / "a.store", tmp_path / "a.npy", keys=tmp_path / "keys.csv")
    export_features(tmp_path / "a.store", tmp_path / target)
    said = import_features(tmp_path / "b.store", tmp_path / target)
    assert said.images["added"] == 57 and said.shape == list(shape)
    assert held(tmp_path / "b.store") == held(tmp_path / "a.store") == expected(array, keys)


# -- the index -------------------------------------------------------------------------------------------------------


def test_the_index_is_made_as_it_was_made_before(tmp_path: Path) -> None:
    take(tmp_path, features(60))
    remember(tmp_path / "a.store", budget_bytes=8 * 2**30)  # what other tests have left in the process counts, too
    publish_index(tmp_path / "a.store", "ivf", components=4)
    report = index_imported(tmp_path / "a.store")
    assert report is not None and report.generation == 1  # good as it is
    take(tmp_path, features(90))
    report = index_imported(tmp_path / "a.store")
    assert report is not None and report.generation == 2
    current = current_generation(tmp_path / "a.store" / "index")
    assert current is not None
    assert (current.manifest.kind, current.manifest.components, current.manifest.rows) == ("ivf", 4, 90)


def test_a_damaged_index_of_a_store_searched_by_l2_is_made_anew(tmp_path: Path) -> None:
    """The default index knows angles only: the config that it was made by was refused."""
    take(tmp_path, features(60))
    remember(tmp_path / "a.store", budget_bytes=8 * 2**30, metric="l2")
    made = publish_index(tmp_path / "a.store", "exact")
    (made.path / "manifest.json").write_text("torn", encoding="utf-8")
    report = index_imported(tmp_path / "a.store")
    current = current_generation(tmp_path / "a.store" / "index")
    assert report is not None and current is not None and current.manifest.kind == "exact"


def test_a_store_without_images_gets_no_index(tmp_path: Path) -> None:
    assert take(tmp_path, np.full((5, 8), np.nan))["failed"] == 5
    assert index_imported(tmp_path / "a.store") is None
