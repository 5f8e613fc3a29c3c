"""A store that travels: push, pull, and what may go wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.errors import ConfigError, StoreCorruptError, StoreFormatError, StoreLockedError, StoreMissingError
from streamer.neighbours import Neighbours
from streamer.objects import Bucket, ObjectError, ObjectMissingError
from streamer.publishing import pull, push
from streamer.store import Store, StoreLock
from streamer.upkeep import check, compact
from tests.conftest import delete, publish_index, write_features

pytest.importorskip("obstore")

ROWS = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "a.store"
    write_features(path, ROWS)
    publish_index(path, "ivf", components=4)
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "shared")


def answers(path: Path) -> list[list[tuple[int, float]]]:
    with Neighbours(path) as neighbours:
        found = neighbours.nearest(ROWS[:20], 5)
        return [[(each.entry.id, each.score) for each in hits] for hits in found]


def tree(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def test_a_copy_answers_as_the_store_does_and_only_what_is_new_travels(store: Path, url: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.store"
    sent = push(store, url)
    assert (sent.images, sent.generation, sent.unchanged) == (300, 1, 0) and sent.files == 3 + 6 + 1
    assert push(store, url).files == 0
    came = pull(url, copy)
    assert (came.files, came.images, came.generation) == (sent.files, 300, 1)
    assert answers(copy) == answers(store) and check(copy).faults == []
    before = tree(copy)
    assert pull(url, copy).files == 0
    assert {name: at for name, at in tree(copy).items() if name not in ("pulled.json", "index/CURRENT")} == {
        name: at for name, at in before.items() if name not in ("pulled.json", "index/CURRENT")
    }
    write_features(store, ROWS[:50] + 1, first=300)
    sent = push(store, url)
    assert (sent.files, sent.images) == (2, 350)  # the shard and the catalog
    with Neighbours(copy) as open_meanwhile:
        came = pull(url, copy)
        assert (came.files, came.bytes) == (2, sent.bytes)
        found = open_meanwhile.nearest(ROWS[:1] + 1, 1)
        assert found[0][0].entry.key == "c0/0300.jpg"  # who had it open sees what came
    assert answers(copy) == answers(store)


def test_what_compact_and_a_new_index_replace_goes_in_time(store: Path, url: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.store"
    push(store, url)
    pull(url, copy)
    delete(store, [f"c{number % 3}/{number:04d}.jpg" for number in range(150)])
    compact(store)
    publish_index(store, "ivf", components=4)
    sent = push(store, url)
    assert sent.removed == 0 and sent.generation == 2  # who pulls at this moment may still want the others
    came = pull(url, copy)
    assert came.images == 150 and came.removed == 3
    assert answers(copy) == answers(store) and check(copy).faults == []
    assert sorted(path.name for path in (copy / "index").iterdir()) == ["000001", "000002", "CURRENT"]
    objects = list((Path(url) / "objects").iterdir())
    for path in objects:
        os.utime(path, (time.time() - 10**6,) * 2)
    removed = push(store, url).removed  # by now the push before this one points at what this one does
    left = {path.name for path in (Path(url) / "objects").iterdir()}
    pointed = {facts[1] for facts in json.loads((Path(url) / "CURRENT.json").read_text())["files"].values()}
    assert left == pointed and removed == len(objects) - len(left) > 0


def stop_after(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    """The way there breaks at the n-th call."""
    whole: Callable[..., Any] = getattr(Bucket, name)
    calls = [0]

    def broken(self: Bucket, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] > count:
            raise ObjectError("the connection broke")
        return whole(self, *arguments)

    monkeypatch.setattr(Bucket, name, broken)


def test_half_a_push_is_seen_by_nobody_and_the_next_goes_on(
    store: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.store"
    push(store, url)
    pull(url, copy)
    before = answers(copy)
    write_features(store, ROWS[:200] + 1, first=300)
    publish_index(store, "ivf", components=4)
    with monkeypatch.context() as patch, pytest.raises(ObjectError, match="broke"):
        stop_after(patch, "put", 4)
        push(store, url)
    assert pull(url, copy).files == 0 and answers(copy) == before
    assert push(store, url).unchanged >= 4
    pull(url, copy)
    assert answers(copy) == answers(store)


def test_a_pull_that_breaks_anywhere_leaves_one_store_or_the_other(
    store: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(store, url)
    first = tmp_path / "first.store"
    pull(url, first)
    write_features(store, ROWS[:200] + 1, first=300)
    publish_index(store, "ivf", components=4)
    push(store, url)
    before, after = answers(first), answers(store)
    for count in range(1, 20):
        copy = tmp_path / f"{count}.store"
        shutil.copytree(first, copy)
        with monkeypatch.context() as patch:
            stop_after(patch, "head", count)
            try:
                pull(url, copy)
            except ObjectError:
                assert answers(copy) == before and check(copy).faults == []
            else:
                break
        pull(url, copy)
        assert answers(copy) == after and check(copy).faults == []
    assert 5 < count < 19


def test_what_comes_is_checked_byte_by_byte(store: Path, url: str, tmp_path: Path) -> None:
    push(store, url)
    files = json.loads((Path(url) / "CURRENT.json").read_text())["files"]
    victim = Path(url) / "objects" / files["features/000001.h5"][1]
    whole = victim.read_bytes()
    for spoilt in (whole[:-1], whole + b"x", whole[:100] + b"?" + whole[101:]):
        victim.write_bytes(spoilt)
        with pytest.raises(StoreCorruptError, match="is not what was pushed"):
            pull(url, tmp_path / "copy.store")
        assert not (tmp_path / "copy.store" / "catalog.sqlite").exists()
    victim.unlink()
    with pytest.raises(ObjectMissingError):
        pull(url, tmp_path / "copy.store")
    victim.write_bytes(whole[:100] + b"?" + whole[101:])
    assert push(store, url).files == 0 and push(store, url, everything=True).files == 10  # as the message says
    assert pull(url, tmp_path / "copy.store").images == 300


def test_a_damaged_file_is_not_published(store: Path, url: str) -> None:
    path = store / "features" / "000002.h5"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorruptError, match=r"000002\.h5: its checksum .* nothing was published"):
        push(store, url)
    with pytest.raises(ObjectMissingError, match="nothing was pushed there yet"):
        pull(url, store.with_name("copy.store"))


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../outside": [1, "0" * 32]}},
        {"files": {"features/000001.h5": [1, "../x"]}},
        {"files": {"catalog.sqlite": ["1", "0" * 32]}},
        {"files": {}},
        {"files": None},
        {"images": "many"},
    ],
)
def test_a_pointer_that_names_other_places_is_refused(store: Path, url: str, tmp_path: Path, change: Any) -> None:
    push(store, url)
    pointer = Path(url) / "CURRENT.json"
    pointer.write_text(json.dumps({**json.loads(pointer.read_text()), **change}))
    with pytest.raises(StoreCorruptError, match=r"CURRENT\.json: cannot be read"):
        pull(url, tmp_path / "copy.store")
    assert not (tmp_path / "copy.store").exists()


def test_a_pointer_of_a_newer_release_says_so(store: Path, url: str, tmp_path: Path) -> None:
    push(store, url)
    pointer = Path(url) / "CURRENT.json"
    pointer.write_text(json.dumps({**json.loads(pointer.read_text()), "format": 99}))
    with pytest.raises(StoreFormatError, match="newer release"):
        pull(url, tmp_path / "copy.store")


def test_nobodys_own_work_is_replaced(store: Path, url: str, tmp_path: Path) -> None:
    push(store, url)
    own, copy = tmp_path / "own.store", tmp_path / "copy.store"
    write_features(own, ROWS[:5])
    with pytest.raises(StoreCorruptError, match="is a store of its own, which a pull would replace"):
        pull(url, own)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(StoreCorruptError, match=r"not a store: it holds 'cat\.jpg'"):
        pull(url, tmp_path / "photos")
    pull(url, copy)
    push(store, f"{url}2")
    with pytest.raises(StoreCorruptError, match=r"is a copy of .*shared, not of .*shared2"):
        pull(f"{url}2", copy)
    write_features(copy, ROWS[:5] + 1, first=900)
    with pytest.raises(StoreCorruptError, match="has been changed since it was pulled"):
        pull(url, copy)
    with StoreLock(tmp_path / "new.store"), pytest.raises(StoreLockedError):
        pull(url, tmp_path / "new.store")


def test_a_store_that_was_made_anew_is_another(store: Path, url: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.store"
    push(store, url)
    pull(url, copy)
    before = answers(copy)
    shutil.rmtree(store)
    write_features(store, ROWS[::-1] + 1)
    publish_index(store, "ivf", components=4)
    push(store, url)
    with pytest.raises(StoreCorruptError, match=r"000001.* is another one .*pull into a new folder"):
        pull(url, copy)
    assert answers(copy) == before and check(copy).faults == []
    assert pull(url, tmp_path / "new.store").images == 300


def test_what_is_no_store_and_what_is_no_address(store: Path, url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="no store here"):
        push(tmp_path / "nothing", url)
    for bad, said in (
        ("https://example.org/x", "takes no files"),
        ("s3://key:secret@bucket/x", "holds a name or password"),
        ("ftp://host/x", "is no address of an object store"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            push(store, bad)
        assert "secret" not in str(error.value)
        with pytest.raises(ConfigError, match=said):
            pull(bad, tmp_path / "copy.store")


def test_a_store_without_an_index_travels_too(url: str, tmp_path: Path) -> None:
    write_features(tmp_path / "a.store", ROWS[:20])
    assert push(tmp_path / "a.store", url).generation == 0
    assert pull(url, tmp_path / "copy.store").files == 2
    with Store(tmp_path / "copy.store") as store:
        assert len(store) == 20
