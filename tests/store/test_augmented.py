"""Rows of augmented copies through all that is done to a store: they stay with their image, and go with it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer.store import FeatureDataset, Split, Store
from streamer.upkeep import check, compact
from tests.conftest import delete
from tests.faults.operations import AUGMENTED, FIRST, SECOND, contents, night


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two nights: photos that moved, changed, are gone; copies that lie in other shards than their photos."""
    night(tmp_path / "a.store", FIRST, AUGMENTED)
    night(tmp_path / "a.store", SECOND)
    return tmp_path / "a.store"


def live_contents(path: Path) -> set[bytes]:
    with Store(path) as store:
        return {content for *_, content in store.catalog.known()}


def test_copies_stay_with_what_moved_and_go_with_what_went(path: Path) -> None:
    found = contents(path).copies
    assert set(found) == {(content, copy) for content in live_contents(path) for copy in (1, 2)}
    with Store(path) as store:
        in_blocks = [list(store.catalog.rows.augmented_places(size)) for size in (1, 3, 1000)]
    assert in_blocks[0] == in_blocks[1] == in_blocks[2] == sorted(in_blocks[2])


def test_rows_are_looked_up_in_blocks_that_do_not_grow_with_the_copies(path: Path) -> None:
    with Store(path) as store:
        (whole,) = store.catalog.rows.examples(1000)
        blocks = list(store.catalog.rows.examples(6))
        assert max(map(len, blocks)) == 6 and len(blocks) > 1  # of two images, with two copies each
        assert [row for block in blocks for row in block] == whole


def test_compact_keeps_live_copies_and_drops_the_dead(path: Path) -> None:
    before = contents(path)
    with Store(path) as store:
        dead = sum(store.catalog.rows.dead_in(number) for number in store.shard_numbers())
    done = compact(path)
    assert done.dropped_rows == dead == 3 * 2  # what was changed, and what went, with two copies each
    with Store(path) as store:
        assert sum(rows for _, rows, _ in store.catalog.shards()) == 3 * len(live_contents(path))
    assert contents(path) == before and check(path).faults == []


def test_the_view_tells_copies_from_photos(path: Path) -> None:
    with h5py.File(path / "features.h5") as view, Store(path) as store:
        live, copy, keys = view["live"][:], view["copy"][:], view["key"].asstr()[:]
        rows = view["features/fc2"][:]
        names = set(keys[live & (copy == 0)]) | set(view["copies/key"].asstr()[:])
        assert names == {key for key, *_ in store.catalog.known()}
    assert sorted(copy[live].tolist()) == sorted([0, 1, 2] * len(live_contents(path)))
    assert {row.tobytes() for row in rows[live & (copy > 0)]} == set(contents(path).copies.values())
    for key in set(keys[live]):
        assert sorted(copy[live & (keys == key)].tolist()) == [0, 1, 2]


def test_a_lost_catalog_costs_no_copies(path: Path) -> None:
    before = contents(path)
    written = sorted(each.name for each in (path / "features").iterdir())
    for file in path.glob("catalog.sqlite*"):
        file.unlink()
    check(path, repair=True)
    night(path, SECOND)
    after = contents(path)
    assert (after.rows, after.copies) == (before.rows, before.copies)
    assert sorted(each.name for each in (path / "features").iterdir()) == written


@pytest.mark.parametrize("catalog_lost", [False, True])
@pytest.mark.parametrize("of_copies", [False, True])
def test_a_damaged_shard_costs_no_copies_in_the_end(path: Path, of_copies: bool, catalog_lost: bool) -> None:
    """A photo whose own row is sound and whose copies are not once stayed without copies for good."""
    before = contents(path)
    live = live_contents(path)
    for shard in sorted((path / "features").glob("*.h5")):
        with h5py.File(shard) as file:
            digests = {digest.tobytes() for digest in file["content"][:]}
            if bool(file["copy"][:].any()) == of_copies and digests <= live:
                break
    else:
        pytest.fail("no shard holds what is to be damaged")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    shard.write_bytes(data)
    if catalog_lost:
        for file in path.glob("catalog.sqlite*"):
            file.unlink()
    check(path, repair=True)
    with Store(path) as store:
        left = store.catalog.execute("SELECT content FROM features")
        for (content,) in left:
            query = "SELECT count(*) FROM augmented WHERE content = ?"
            assert store.catalog.execute(query, (content,)) == [(2,)]
    night(path, SECOND)
    after = contents(path)
    assert (after.rows, after.copies) == (before.rows, before.copies)
    assert check(path).faults == []


def test_copies_of_a_photo_that_comes_back_are_there_again(path: Path) -> None:
    before = contents(path).copies
    delete(path, ["5.jpg"])
    assert len(contents(path).copies) == len(before) - 2
    night(path, SECOND)
    assert contents(path).copies == before
    np.testing.assert_equal(check(path).faults, [])


def test_copies_are_trained_on_and_never_measured_by(path: Path) -> None:
    with Store(path) as store:
        keys = {key: content for key, *_, content in store.catalog.known()}
        labels = {key: "ab"[number % 2] for number, key in enumerate(keys)}
        sides = Split(seed=3, test=0.4, validation=0)
        names = {entry.id: entry.key for entry in store.entries(store.images()[:, 0].tolist()).values()}
        held, copies = {}, contents(path).copies

        def rows(split: str | None, **options: bool) -> list[tuple[str, int, bytes]]:
            dataset = store.dataset(framework="numpy", split=split, sides=sides, labels=labels, batch_size=4, **options)
            taken = np.concatenate([features for features, _ in dataset])
            found = np.concatenate([dataset.batch_ids(number) for number in range(len(dataset))])
            assert len(taken) == len(found) == len(dataset.ids)
            assert sorted(found.tolist()) == sorted(dataset.ids.tolist())
            return [
                (names[number], copy, row.tobytes())
                for number, copy, row in zip(
                    dataset.ids.tolist(), dataset.copies.tolist(), store_rows(dataset), strict=True
                )
            ]

        def store_rows(dataset: FeatureDataset) -> np.ndarray:
            examples = dataset._examples
            return store.rows("fc2", examples.shards, examples.rows)

        for split in ("train", "test"):
            held[split] = rows(split)
        assert {key for key, *_ in held["train"]}.isdisjoint(key for key, *_ in held["test"])
        assert {copy for _, copy, _ in held["test"]} == {0} and {copy for _, copy, _ in held["train"]} == {0, 1, 2}
        assert {key for split in held.values() for key, *_ in split} == set(keys)
        assert all(row == copies[keys[key], copy] for key, copy, row in held["train"] if copy)
        assert all(copy == 0 for _, copy, _ in rows(None) + rows("train", augmented=False))
        assert len(rows(None, augmented=True)) == 3 * len(keys)
        with pytest.raises(ValueError, match="copies are to train on"):
            store.dataset(framework="numpy", split="test", augmented=True, labels=labels)


def test_copies_that_compact_moves_while_they_are_read_are_found_again(path: Path) -> None:
    with Store(path) as store:
        labels = {key: "a" for key, *_ in store.catalog.known()}
        dataset = store.dataset(framework="numpy", augmented=True, labels=labels, batch_size=2, buffer_bytes=64)
        expected = sorted(row.tobytes() for features, _ in dataset for row in features)
        assert len(expected) == 3 * len(labels)
        epoch = iter(dataset)
        found = [next(epoch)[0]]
        compact(path)
        found += [features for features, _ in epoch]
    assert sorted(row.tobytes() for features in found for row in features) == expected
