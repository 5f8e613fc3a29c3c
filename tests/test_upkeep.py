"""Damage of every kind is named, is never a traceback or a wrong answer, and is gone after a repair and a run."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

import streamer.store.check
from streamer.errors import Interrupted, StoreFormatError, StoreLockedError, StoreMissingError, StreamerError
from streamer.searcher import Searcher
from streamer.store import CatalogWriter, Store, StoreLock, compact_shards
from streamer.upkeep import check, compact
from tests.faults.operations import FIRST, SECOND, Contents, contents, index, night

Damage = Callable[[Path], None]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A store after two nights: several shards, dead rows, a copy, a failure, an Annoy index."""
    store = tmp_path / "a.store"
    night(store, FIRST)
    night(store, SECOND)
    index(store, "annoy")
    yield store


def shard(path: Path, place: int = 0) -> Path:
    return sorted((path / "features").glob("*.h5"))[place]


def newest(path: Path) -> Path:
    return path / "index" / (path / "index" / "CURRENT").read_text().strip()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


def log_away(path: Path) -> None:
    """Leave nothing in the write-ahead log that could stand in for a damaged catalog."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def spoil_catalog(spoil: Damage) -> Damage:
    def damage(path: Path) -> None:
        log_away(path / "catalog.sqlite")
        spoil(path / "catalog.sqlite")

    return damage


def forget_shard(path: Path) -> None:
    """A catalog that contradicts itself."""
    with contextlib.closing(sqlite3.connect(path / "catalog.sqlite", isolation_level=None)) as db:
        db.execute("DELETE FROM shards WHERE id = (SELECT min(id) FROM shards)")


def other_store(path: Path) -> None:
    with h5py.File(shard(path), "r+") as file:
        file.attrs["fingerprint"] = "0" * 32


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a bit of a shard": (lambda path: flip(shard(path)), "checksum"),
    "a cut shard": (lambda path: cut(shard(path, 1)), "bytes, not the"),
    "an empty shard": (lambda path: shard(path).write_bytes(b""), "bytes, not the"),
    "a missing shard": (lambda path: shard(path).unlink(), "missing"),
    "a shard of another store": (other_store, "checksum|bytes"),
    "a cut catalog": (spoil_catalog(cut), "damaged"),
    "an empty catalog": (spoil_catalog(lambda file: file.write_bytes(b"")), "damaged"),
    "no catalog at all": (spoil_catalog(lambda file: file.write_bytes(b"x" * 5000)), "damaged"),
    "a missing catalog": (spoil_catalog(Path.unlink), "missing"),
    "a contradiction in the catalog": (forget_shard, "names one of shards"),
    "CURRENT": (lambda path: (path / "index" / "CURRENT").write_bytes(b"\0\0"), "CURRENT"),
    "a manifest": (lambda path: cut(newest(path) / "manifest.json"), "manifest"),
    "a bit of the index": (lambda path: flip(newest(path) / "annoy.ann"), "checksum"),
    "a cut reducer": (lambda path: cut(newest(path) / "reducer.npz"), "bytes, not the"),
    "missing places": (lambda path: (newest(path) / "images.npy").unlink(), "missing"),
    "a missing generation": (lambda path: shutil.rmtree(newest(path)), "CURRENT"),
    "the view": (lambda path: (path / "features.h5").write_bytes(b"?"), "does not open"),
}


def use(path: Path, expected: Contents) -> None:
    """Search and read: the right answer or a clear refusal."""
    try:
        found = contents(path)
    except StreamerError as error:
        assert "streamer" in str(error)  # it says what to do
        return
    for key, row in found.rows.items():
        assert expected.rows[key] == row


@pytest.mark.parametrize("name", list(DAMAGES))
def test_damage_is_named_and_repaired(path: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    expected = contents(path)
    assert check(path).exit_code == 0
    damage(path)
    use(path, expected)
    report = check(path)
    assert report.exit_code == 1 and report.faults
    text = "; ".join(f"{fault.place}: {fault.what}" for fault in report.faults)
    assert re.search(said, text), text
    repaired = check(path, repair=True)
    assert (repaired.exit_code, repaired.repaired, len(repaired.faults)) == (0, True, len(report.faults))
    assert check(path).exit_code == 0
    use(path, expected)
    night(path, SECOND)
    after = contents(path)
    assert (after.rows, after.failures, after.hits) == (expected.rows, expected.failures, expected.hits)


def test_a_lost_catalog_costs_no_features(path: Path) -> None:
    """What the next run has to extract again is nothing: it finds the features by the bytes of each file."""
    written = sorted(each.name for each in (path / "features").iterdir())
    (path / "catalog.sqlite").write_bytes(b"")
    log_away(path / "catalog.sqlite")
    check(path, repair=True)
    assert (path / "catalog.sqlite.damaged").exists()
    night(path, SECOND)
    assert sorted(each.name for each in (path / "features").iterdir()) == written


def test_a_store_of_a_newer_release_is_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path / "catalog.sqlite", isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = '2' WHERE name = 'format'")
    for repair in (False, True):
        with pytest.raises(StoreFormatError, match=r"newer release.*upgrade"):
            check(path, repair=repair)
    with pytest.raises(StoreFormatError):
        Store(path)


def test_no_store_and_a_locked_one(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError):
        check(tmp_path / "nowhere")
    with pytest.raises(StoreMissingError):
        compact(tmp_path / "nowhere")
    with StoreLock(path):
        assert check(path).exit_code == 0  # to look is always allowed
        for work in (compact, lambda path: check(path, repair=True)):
            with pytest.raises(StoreLockedError):
                work(path)


def test_compact_gives_space_back_and_changes_no_answer(path: Path) -> None:
    before = contents(path)
    with Searcher(path) as open_before:
        query = np.random.default_rng(3).normal(size=8).astype(np.float32)
        hits = open_before.nearest([query])
        done = compact(path)
        assert done.shards_before > 2 and done.shards_after == 1 and done.dropped_rows > 0
        assert done.bytes_after < done.bytes_before
        assert open_before.nearest([query]) == hits  # places it had looked up are gone, the rows are not
    assert len(list((path / "features").iterdir())) == 1
    assert contents(path) == before
    assert check(path).exit_code == 0
    again = compact(path)
    assert (again.shards_before, again.shards_after, again.dropped_rows) == (1, 1, 0)
    with h5py.File(path / "features.h5") as view:
        assert view["live"][:].all() and set(view["key"].asstr()[:]) | set(view["copies/key"].asstr()[:]) == set(
            before.rows
        )
    night(path, SECOND)
    assert contents(path) == before


def test_compact_cuts_shards_at_the_size_asked_for(path: Path) -> None:
    before = contents(path)
    catalog = CatalogWriter(path / "catalog.sqlite")
    size = shard(path).stat().st_size
    done = compact_shards(path, catalog, shard_bytes=2 * size + 1)
    catalog.close()
    assert 1 < done.shards_after < done.shards_before
    assert contents(path) == before


def test_a_file_that_cannot_be_read_just_now_is_not_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files, a network that hiccups: what may pass is no reason to throw features away."""
    before = contents(path)
    digest = streamer.store.check.digest_of

    def fail(file: Path) -> tuple[int, bytes]:
        if file.parent.name == "features":
            raise OSError(errno.EMFILE, "Too many open files")
        return digest(file)

    monkeypatch.setattr(streamer.store.check, "digest_of", fail)
    assert check(path).exit_code == 1
    with pytest.raises(StreamerError, match=r"Too many open files.*may pass, so nothing was dropped"):
        check(path, repair=True)
    monkeypatch.undo()
    assert check(path).faults == [] and contents(path) == before


def test_what_a_repair_drops_is_set_aside(path: Path) -> None:
    flip(shard(path))
    name = shard(path).name
    check(path, repair=True)
    night(path, SECOND)
    assert (path / "features" / f"{name}.damaged").exists()
    assert check(path).faults == []


def test_a_damaged_shard_is_not_taken_up_with_a_lost_catalog(path: Path) -> None:
    expected = contents(path)
    with h5py.File(shard(path)) as file:
        place = file["features/fc2"].id.get_chunk_info(0).byte_offset
    data = bytearray(shard(path).read_bytes())
    data[place] ^= 1
    shard(path).write_bytes(data)
    (path / "catalog.sqlite").write_bytes(b"")
    log_away(path / "catalog.sqlite")
    check(path, repair=True)
    night(path, SECOND)
    index(path, "annoy")
    assert contents(path) == expected


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_to_a_shard_and_a_lost_catalog(path: Path, seed: int) -> None:
    """HDF5 raises whatever it likes over damaged bytes: never a traceback, and the next run puts things right."""
    expected = contents(path)
    chance = np.random.default_rng(seed)
    data = bytearray(shard(path).read_bytes())
    for _ in range(int(chance.integers(1, 30))):
        data[int(chance.integers(len(data)))] = int(chance.integers(256))
    shard(path).write_bytes(data)
    (path / "catalog.sqlite").write_bytes(b"")
    log_away(path / "catalog.sqlite")
    check(path, repair=True)
    night(path, SECOND)
    after = contents(path)
    assert after.rows.keys() == expected.rows.keys() and after.failures == expected.failures


def test_the_view_shows_no_zeros_where_a_shard_is_missing(path: Path) -> None:
    gone = shard(path)
    gone.rename(path / "aside.h5")
    with h5py.File(path / "features.h5") as view:
        rows = view["features/fc2"][:]
    assert np.isnan(rows).any() and not (rows == 0).all(axis=1).any()
    assert any(fault.place == "features.h5" for fault in check(path).faults)


def test_compact_that_is_cut_short_leaves_a_view_of_what_is_there(path: Path) -> None:
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        compact(path, should_stop=lambda: next(asked, True))
    with h5py.File(path / "features.h5") as view:
        assert np.isfinite(view["features/fc2"][:]).all()
    assert check(path).faults == []
