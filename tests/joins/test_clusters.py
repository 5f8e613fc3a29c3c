"""The clusters of a store: everybody is in one, and the central ones come first."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import IndexMissingError
from streamer.indexing import IndexBuilder, IndexSettings
from streamer.joins import Cluster, clusters
from streamer.neighbours import Neighbours
from streamer.store import Store
from streamer.upkeep import compact
from tests.conftest import delete, publish_index, write_features

ROWS, LENGTH = 240, 16


def features() -> np.ndarray:
    random = np.random.default_rng(0)
    centres = 2 * random.normal(size=(12, LENGTH))
    return (centres[random.integers(0, 12, ROWS)] + 0.5 * random.normal(size=(ROWS, LENGTH))).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_features(tmp_path / "a.store", features(), shard_rows=60)
    publish_index(tmp_path / "a.store", "ivf", components=8)
    return tmp_path / "a.store"


def listed(path: Path, shown: int = 1000) -> list[Cluster]:
    with Neighbours(path) as neighbours:
        return list(clusters(neighbours, shown))


def members(found: list[Cluster]) -> list[str]:
    return [each.entry.key for cluster in found for each in cluster.central]


def key(number: int) -> str:
    return f"c{number % 3}/{number:04d}.jpg"


def test_every_image_is_in_exactly_one(path: Path) -> None:
    found = listed(path)
    assert len(found) > 10 and [each.number for each in found] == list(range(len(found)))
    assert sorted(members(found)) == sorted(key(number) for number in range(ROWS))
    for cluster in found:
        assert cluster.images == len(cluster.central) == sum(cluster.labels.values())
        assert cluster.labels == Counter(each.entry.label for each in cluster.central)
        assert list(cluster.labels.values()) == sorted(cluster.labels.values(), reverse=True)


def test_the_central_ones_are_the_nearest_to_the_centre_and_come_first(path: Path) -> None:
    everybody = {cluster.number: cluster.central for cluster in listed(path)}
    with Neighbours(path) as neighbours:
        index = neighbours.inverted_file()
        assert index is not None
        ivf, reduced = index
        for cluster in clusters(neighbours, 3):
            positions, vectors = ivf.members(cluster.number)
            centre = ivf.centroids[cluster.number].astype(np.float64)
            cosines = vectors @ (centre / np.linalg.norm(centre))
            of_id = dict(zip(reduced.images(positions)[:, 0].tolist(), cosines.tolist(), strict=True))
            # By their cosines, not by their names: the two of a cluster of two are as near as each other.
            found = [of_id[each.entry.id] for each in cluster.central]
            np.testing.assert_allclose(found, np.sort(cosines)[::-1][:3], atol=2e-6)
            assert cluster.central == everybody[cluster.number][:3]
            np.testing.assert_allclose([each.score for each in cluster.central], np.sort(cosines)[::-1][:3], atol=2e-6)


@pytest.mark.parametrize("block", [1, 7])
def test_in_blocks_they_are_the_same(path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    delete(path, [key(number) for number in range(0, ROWS, 9)])
    expected = listed(path, 4)
    monkeypatch.setattr(sys.modules["streamer.joins.clusters"], "_BLOCK_ROWS", block)  # the function hides it
    assert listed(path, 4) == expected


def test_a_cluster_as_large_as_the_library_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its names and vectors were."""
    path, count = tmp_path / "one.store", 12_000
    random = np.random.default_rng(0)
    write_features(path, random.normal(size=(count, 4)).astype(np.float32), shard_rows=4000)
    with Store(path) as store:
        settings = IndexSettings("ivf", 4, False, 1, 1, 0, 50, 0.99)
        builder = IndexBuilder(store, settings, 2**30, lambda *_: None, lambda: False)
        builder.reduce()
        builder.build()
    monkeypatch.setattr(sys.modules["streamer.joins.clusters"], "_BLOCK_ROWS", 500)
    with Neighbours(path) as neighbours:
        neighbours.inverted_file()
        tracemalloc.start()
        try:
            (cluster,) = clusters(neighbours, 5)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (cluster.images, len(cluster.central)) == (count, 5)
    assert peak_bytes < 80 * count  # one name takes several times as much


def test_images_of_one_cluster_are_nearer_to_its_centre_than_to_others(path: Path) -> None:
    """Positions in the index are not the order of the store."""
    rows = features()
    with Neighbours(path) as neighbours:
        index = neighbours.inverted_file()
        assert index is not None
        reduced = index[1].reducer.transform(rows)
        away = np.square(reduced[:, None] - index[0].centroids).sum(axis=2)
    for cluster in listed(path):
        for each in cluster.central:
            assert np.argmin(away[int(each.entry.key[-8:-4])]) == cluster.number


def test_deleted_images_are_left_out_and_the_next_take_their_places(path: Path) -> None:
    before = listed(path)
    gone = [each.entry.key for cluster in before for each in cluster.central[:2]] + [
        each.entry.key for each in before[0].central
    ]
    delete(path, gone)
    after = listed(path, 5)
    assert (after[0].images, after[0].central, after[0].labels) == (0, [], {})
    for old, new in zip(before[1:], after[1:], strict=True):
        assert (new.images, new.central) == (old.images - len(old.central[:2]), old.central[2:7])


def test_newer_images_are_in_none_and_that_is_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They were left out without a word."""
    write_features(path, features()[:7] + 1, first=900)
    assert sorted(members(listed(path))) == sorted(key(number) for number in range(ROWS))
    assert "7 images are newer than the index and in no cluster; run 'streamer index CONFIG'" in caplog.text


def test_entries_name_the_places_that_compact_has_given_them(path: Path) -> None:
    delete(path, [key(number) for number in range(0, ROWS, 4)])
    compact(path)
    with Neighbours(path) as neighbours:
        store = neighbours.store
        for cluster in clusters(neighbours, 1000):
            found = {each.entry.id: each.entry for each in cluster.central}
            assert found == store.entries(list(found))


def test_the_object_that_is_printed(path: Path) -> None:
    cluster = listed(path, 2)[3]
    record = json.loads(json.dumps(cluster.to_dict()))
    assert record == {
        "cluster": 3,
        "images": cluster.images,
        "labels": cluster.labels,
        "central": [
            {"key": one.entry.key, "path": one.entry.path, "label": one.entry.label, "score": one.score}
            for one in cluster.central
        ],
    }


@pytest.mark.parametrize("kind", [None, "exact", "annoy"])
def test_an_index_of_another_kind_has_none_and_what_to_do_is_said(tmp_path: Path, kind: str | None) -> None:
    write_features(tmp_path / "a.store", features())
    if kind is not None:
        publish_index(tmp_path / "a.store", kind)
    with pytest.raises(IndexMissingError, match=r"a\.store: its index has no clusters; set index\.kind: ivf"):
        listed(tmp_path / "a.store")
