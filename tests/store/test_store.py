"""Shards, catalog and view: what is committed is there, what is not is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer.errors import FingerprintMismatchError, StoreCorruptError, StoreLockedError, StoreMissingError
from streamer.records import FeatureBatch, Rejected
from streamer.store import Changes, Store, StoreLock, StoreWriter
from tests.conftest import feature_batch, ref, spec

Open = Callable[..., StoreWriter]


def values(count: int, length: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, length)).astype(np.float32)


def everything(path: Path) -> dict[str, np.ndarray]:
    """Key -> features of every live image."""
    with Store(path) as store:
        found = {}
        for ids, rows in store.blocks(store.spec.indexed, 3):
            entries = store.entries(ids.tolist())
            found.update({entries[number].key: row for number, row in zip(ids.tolist(), rows, strict=True)})
        return found


def test_rows_come_back_as_they_went_in(open_writer: Open, tmp_path: Path) -> None:
    features = values(20)
    keys = [f"a/{number:02d}.jpg" for number in range(20)]
    with open_writer() as writer:
        for start in range(0, 20, 4):
            writer.append(feature_batch(keys[start : start + 4], features[start : start + 4]))
            if start in (4, 12):
                writer.commit()
    found = everything(tmp_path / "a.store")
    assert list(found) == keys
    np.testing.assert_array_equal(np.stack(list(found.values())), features)
    with Store(tmp_path / "a.store") as store:
        assert (len(store), store.info()["shards"], writer.counts) == (20, 3, {"added": 20})


@pytest.mark.parametrize("block", [1, 2, 5, 7, 100])
def test_blocks_span_shards_and_are_full(open_writer: Open, tmp_path: Path, block: int) -> None:
    features = values(11)
    with open_writer() as writer:
        for number, row in enumerate(features):
            writer.append(feature_batch([f"{number:02d}.jpg"], row[None]))
            writer.commit()
    with Store(tmp_path / "a.store") as store:
        sizes = [len(ids) for ids, _ in store.blocks("fc2", block)]
        rows = np.concatenate([rows for _, rows in store.blocks("fc2", block)])
    assert sizes == [block] * (11 // block) + ([11 % block] if 11 % block else [])
    np.testing.assert_array_equal(rows, features)


def test_rows_are_read_in_any_order_and_more_than_once(open_writer: Open, tmp_path: Path) -> None:
    features = values(300)
    with open_writer() as writer:
        for start in range(0, 300, 100):
            keys = [f"{number:03d}.jpg" for number in range(start, start + 100)]
            writer.append(feature_batch(keys, features[start : start + 100]))
            writer.commit()
    wanted = np.array([299, 0, 150, 150, 7, 101, 3])
    with Store(tmp_path / "a.store") as store:
        rows = store.rows("fc2", 1 + wanted // 100, wanted % 100)
        np.testing.assert_array_equal(rows, features[wanted])
        with pytest.raises(StoreCorruptError, match=r"000003\.h5.*row 100 of 100"):
            store.rows("fc2", np.array([3]), np.array([100]))


def test_an_updated_image_gets_a_new_id_and_loses_its_old_row(open_writer: Open, tmp_path: Path) -> None:
    with open_writer() as writer:
        writer.append(feature_batch(["a.jpg", "b.jpg"], np.ones((2, 8))))
    with open_writer() as writer:
        writer.append(feature_batch(["b.jpg"], np.full((1, 8), 2.0), mtime_ns=2))
    assert +writer.counts == {"updated": 1}
    found = everything(tmp_path / "a.store")
    assert found["a.jpg"][0] == 1 and found["b.jpg"][0] == 2
    with Store(tmp_path / "a.store") as store:
        assert sorted(ids for block, _ in store.blocks("fc2", 9) for ids in block) == [1, 3]


def test_what_was_not_committed_is_not_there_after_an_error(open_writer: Open, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power"), open_writer() as writer:
        writer.append(feature_batch(["a.jpg"], np.ones((1, 8))))
        writer.commit()
        writer.append(feature_batch(["b.jpg"], np.ones((1, 8))))
        raise RuntimeError("power")
    assert list(everything(tmp_path / "a.store")) == ["a.jpg"]
    assert [path.name for path in (tmp_path / "a.store" / "features").iterdir()] == ["000001.h5"]


def test_a_shard_is_committed_when_it_is_large_or_old_enough(open_writer: Open, tmp_path: Path) -> None:
    with open_writer(commit_bytes=8 * 4 * 3) as writer:
        for number in range(7):
            writer.append(feature_batch([f"{number}.jpg"], np.ones((1, 8))))
        assert writer.catalog.count("shards") == 2
    with open_writer(commit_seconds=0) as writer:
        writer.append(feature_batch(["x.jpg"], np.ones((1, 8))))
        assert writer.catalog.count("shards") == 4


def test_leftovers_of_a_crash_are_swept_and_the_number_is_used_again(open_writer: Open, tmp_path: Path) -> None:
    with open_writer() as writer:
        writer.append(feature_batch(["a.jpg"], np.ones((1, 8))))
    features = tmp_path / "a.store" / "features"
    (features / "000002.h5").write_bytes(b"sealed, but its transaction never came")
    (features / "000003.h5.partial").write_bytes(b"half")
    with open_writer() as writer:
        assert [path.name for path in features.iterdir()] == ["000001.h5"]
        writer.append(feature_batch(["b.jpg"], np.full((1, 8), 5.0)))
    assert everything(tmp_path / "a.store")["b.jpg"][0] == 5


def test_shards_without_a_catalog_are_not_swept_away(open_writer: Open, tmp_path: Path) -> None:
    """A lost catalog must not cost the features too."""
    with open_writer() as writer:
        writer.append(feature_batch(["a.jpg"], np.ones((1, 8))))
    for path in (tmp_path / "a.store").glob("catalog.sqlite*"):
        path.unlink()
    with pytest.raises(StoreCorruptError, match=r"shards but no catalog\.sqlite"):
        open_writer()
    assert (tmp_path / "a.store" / "features" / "000001.h5").exists()


def test_a_folder_with_other_things_in_it_is_not_made_a_store(open_writer: Open, tmp_path: Path) -> None:
    (tmp_path / "a.store").mkdir()
    (tmp_path / "a.store" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(StoreCorruptError, match=r"not a store: the folder holds 'holiday\.jpg'"):
        open_writer()


def test_features_of_another_kind_are_refused_and_the_difference_is_named(open_writer: Open) -> None:
    with open_writer(8):
        pass
    with pytest.raises(FingerprintMismatchError, match=r"outputs is \{'fc2': \[9\]\} here and \{'fc2': \[8\]\} there"):
        open_writer(9)


def test_a_shard_of_another_store_is_refused(open_writer: Open, tmp_path: Path) -> None:
    with open_writer() as writer:
        writer.append(feature_batch(["a.jpg"], np.ones((1, 8))))
    with h5py.File(tmp_path / "a.store" / "features" / "000001.h5", "r+") as file:
        file.attrs["fingerprint"] = "f" * 32
    with Store(tmp_path / "a.store") as store, pytest.raises(StoreCorruptError, match="another fingerprint"):
        next(store.blocks("fc2", 1))


@pytest.mark.parametrize("kind", ["soft", "external", "external storage", "missing", "truncated", "bit flip", "newer"])
def test_a_damaged_or_hostile_shard_is_named_and_never_believed(open_writer: Open, tmp_path: Path, kind: str) -> None:
    with open_writer() as writer:
        writer.append(feature_batch(["a.jpg", "b.jpg"], values(2)))
    path = tmp_path / "a.store" / "features" / "000001.h5"
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "bit flip":
        data = bytearray(path.read_bytes())
        data[data.index(values(2).tobytes()) + 5] ^= 0x10
        path.write_bytes(data)
    else:
        with h5py.File(path, "r+") as file:
            if kind == "newer":
                file.attrs["format"] = 99
            else:
                del file["features/fc2"]
                if kind == "soft":
                    file["features/fc2"] = h5py.SoftLink("/key")
                elif kind == "external":
                    file["features/fc2"] = h5py.ExternalLink("/etc/passwd", "/x")
                else:
                    (tmp_path / "secret").write_bytes(bytes(64))
                    external = [(str(tmp_path / "secret"), 0, 64)]
                    file["features"].create_dataset("fc2", (2, 8), np.float32, external=external)
    with Store(tmp_path / "a.store") as store, pytest.raises(StoreCorruptError, match=r"000001\.h5"):
        next(store.blocks("fc2", 2))


@pytest.mark.parametrize("damage", [b"", b"not a database" * 1000])
def test_a_damaged_catalog_is_named(open_writer: Open, tmp_path: Path, damage: bytes) -> None:
    with open_writer():
        pass
    (tmp_path / "a.store" / "catalog.sqlite").write_bytes(damage)
    with pytest.raises(StoreCorruptError, match=r"catalog\.sqlite: the catalog is damaged"):
        Store(tmp_path / "a.store")


def test_a_store_of_a_newer_release_is_refused(open_writer: Open, tmp_path: Path) -> None:
    with open_writer() as writer:
        writer.catalog.execute("UPDATE meta SET value = '99' WHERE name = 'format'")
    with pytest.raises(StoreCorruptError, match="format 99, made by a newer release"):
        Store(tmp_path / "a.store")


def test_no_store_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="no store here"):
        Store(tmp_path)


def test_the_view_holds_every_shard_and_marks_the_dead(
    open_writer: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = values(6)
    with open_writer() as writer:
        for start in (0, 3):
            keys = [f"cats/é{number}.jpg" for number in range(start, start + 3)]
            writer.append(feature_batch(keys, features[start : start + 3]))
            writer.commit()
        changes = Changes()
        changes.add_removed(2, b"", 0)
        writer.apply(changes)
        changes.close()
        writer.publish_view()
    (tmp_path / "a.store").rename(tmp_path / "moved.store")
    monkeypatch.chdir("/")  # the view finds its shards from anywhere
    with h5py.File(tmp_path / "moved.store" / "features.h5", "r") as file:
        np.testing.assert_array_equal(file["features/fc2"][:], features)
        assert file["key"].asstr()[4] == "cats/é4.jpg"
        assert file["label"].asstr()[:].tolist() == ["cats", "", *["cats"] * 4]
        assert file["live"][:].tolist() == [True, False, True, True, True, True]


def test_the_view_of_an_empty_store_opens(open_writer: Open, tmp_path: Path) -> None:
    with open_writer() as writer:
        writer.publish_view()
    with h5py.File(tmp_path / "a.store" / "features.h5", "r") as file:
        assert file["features/fc2"].shape == (0, 8)


def test_failures_are_kept_and_replace_the_features_of_the_old_content(open_writer: Open, tmp_path: Path) -> None:
    with open_writer() as writer:
        writer.append(feature_batch(["a.jpg", "b.jpg"], np.ones((2, 8))))
    bad = FeatureBatch((), (), {"fc2": np.empty((0, 8), np.float32)}, (Rejected(ref("b.jpg"), "broken off"),))
    with open_writer() as writer:
        writer.append(bad)
    with Store(tmp_path / "a.store") as store:
        assert [(each.key, each.reason) for each in store.failures()] == [("b.jpg", "broken off")]
        assert len(store) == 1
    with open_writer() as writer:
        writer.append(feature_batch(["b.jpg"], np.full((1, 8), 3.0)))
    with Store(tmp_path / "a.store") as store:
        assert list(store.failures()) == []
    assert everything(tmp_path / "a.store")["b.jpg"][0] == 3


def test_a_reader_sees_commits_of_a_writer_and_never_blocks_it(open_writer: Open, tmp_path: Path) -> None:
    with open_writer() as writer:
        writer.commit()
        with Store(tmp_path / "a.store") as store:
            for number in range(3):
                writer.append(feature_batch([f"{number}.jpg"], np.ones((1, 8))))
                assert len(store) == number
                writer.commit()
                assert len(store) == number + 1


def test_the_lock_is_held_by_one_and_released_by_the_system(tmp_path: Path) -> None:
    path = tmp_path / "a.store"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys, time\n"
            "from pathlib import Path\n"
            "from streamer.store import StoreLock, StoreWriter\n"
            "from tests.conftest import spec\n"
            "path = Path(sys.argv[1])\n"
            "with StoreLock(path), StoreWriter(path, spec(), engine='t', limits='') as writer:\n"
            "    writer.catalog.begin_run('run', os.getpid())\n"
            "    print('held', flush=True)\n"
            "    time.sleep(60)\n",
            str(path),
        ],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline().strip() == b"held"
        with pytest.raises(StoreLockedError, match=rf"process {holder.pid}, 'streamer run', since 20"), StoreLock(path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with StoreLock(path):
        assert (path / "lock").exists()


def test_the_fingerprint_covers_what_changes_a_value_and_nothing_else() -> None:
    base = spec()
    other = {"weights": "elsewhere.h5", "weights_seed": 3}
    assert type(base)(**{**vars(base), **other}).fingerprint == base.fingerprint
    for change in (
        {"backbone": "resnet50"},
        {"weights_sha256": "1" * 64},
        {"input_size": (96, 96)},
        {"decoding": "test-2"},
        {"precision": "mixed"},
        {"outputs": {"fc1": (8,)}},
    ):
        assert type(base)(**{**vars(base), **change}).fingerprint != base.fingerprint
    assert type(base).from_json(base.to_json()) == base
