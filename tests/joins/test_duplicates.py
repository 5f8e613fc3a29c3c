"""Near-duplicates against the connected components of the whole matrix of cosines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from streamer.errors import Interrupted
from streamer.joins import Group, duplicates
from streamer.neighbours import Neighbours
from streamer.records import FeatureBatch, Known
from streamer.store import StoreWriter
from streamer.upkeep import compact
from tests.conftest import content, delete, publish_index, ref, remember, write_features

LENGTH = 16
TINY = 50_000  # bytes: one or two queries at a time


def families(count: int = 240, seed: int = 0) -> np.ndarray:
    """Some images alone, and families that are near to each other to different degrees, in random order."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(count // 3, LENGTH))
    owners = np.concatenate([np.arange(count // 3), random.integers(0, count // 6, count - count // 3)])
    rows = centres[owners] + random.uniform(0, 0.4, (count, 1)) * random.normal(size=(count, LENGTH))
    return random.permutation((rows * random.uniform(1, 5, (count, 1))).astype(np.float32))


def components(rows: np.ndarray, threshold: float) -> set[frozenset[int]]:
    """The oracle: rows that belong together, those that are alone left out."""
    wide = rows.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    near = np.round(wide @ wide.T, 7) >= threshold
    count, numbers = connected_components(csr_matrix(near), directed=False)
    groups = (frozenset(np.flatnonzero(numbers == each).tolist()) for each in range(count))
    return {group for group in groups if len(group) > 1}


def keys(groups: list[Group]) -> list[list[str]]:
    return [[each.entry.key for each in group.images] for group in groups]


def numbers(groups: list[Group]) -> set[frozenset[int]]:
    """The rows that ``write_features`` wrote under these keys."""
    found = [frozenset(int(key[-8:-4]) for key in group) for group in keys(groups)]
    assert len(set(found)) == len(found)
    return set(found)


def find(path: Path, threshold: float) -> list[Group]:
    with Neighbours(path) as neighbours:
        return list(duplicates(neighbours, threshold))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "a.store"


@pytest.mark.parametrize("budget_bytes", [TINY, 2**30], ids=["tiny", "large"])
@pytest.mark.parametrize("kind", ["exact", "ivf", "annoy"])
def test_they_are_the_connected_components(path: Path, kind: str, budget_bytes: int) -> None:
    rows = families(150)
    write_features(path, rows)
    remember(path, budget_bytes)
    publish_index(path, kind)
    seen = []
    for threshold in (0.9, 0.97, 0.995):
        seen.append(components(rows, threshold))
        assert numbers(find(path, threshold)) == seen[-1]
    assert seen[0] != seen[1] != seen[2] and all(len(groups) > 5 for groups in seen)


def test_without_an_index_every_image_is_compared(path: Path) -> None:
    rows = families(90)
    write_features(path, rows)
    assert numbers(find(path, 0.95)) == components(rows, 0.95)


def test_a_group_says_how_near_each_is_to_the_first_by_key(path: Path) -> None:
    rows = families(90)
    write_features(path, rows)
    groups = find(path, 0.95)
    wide = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    for group in groups:
        names = [each.entry.key for each in group.images]
        assert names == sorted(names)
        places = [int(name[-8:-4]) for name in names]
        np.testing.assert_allclose([each.score for each in group.images], wide[places] @ wide[places[0]], atol=1e-6)
        assert [hit.key for hit in group.hits] == names[1:]
        record = json.loads(json.dumps(group.to_dict()))
        assert [each["key"] for each in record["images"]] == names
        assert set(record["images"][0]) == {"key", "path", "label", "score"}
    firsts = [min(int(name[-8:-4]) for name in group) for group in keys(groups)]
    assert firsts == sorted(firsts)


def test_a_chain_is_one_group_though_its_ends_are_far_apart(path: Path) -> None:
    angles = np.linspace(0, np.pi, 40)
    rows = np.random.default_rng(0).permutation(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    write_features(path, np.concatenate([rows, [[0, -1]]]).astype(np.float32))
    threshold = float(np.cos(angles[1])) - 1e-6
    assert numbers(find(path, threshold)) == {frozenset(range(40))}
    assert find(path, threshold + 1e-4) == []


@pytest.mark.parametrize("budget_bytes", [6_000, 2**30], ids=["tiny", "large"])
def test_cosines_of_one_chain_too(path: Path, budget_bytes: int) -> None:
    """An image as good as equal to another was not asked for, and the chain broke where blocks of queries did."""
    angles = np.array([0, 9e-4, 3e-4, 6e-4])
    write_features(path, np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    remember(path, budget_bytes)
    assert numbers(find(path, 1.0)) == {frozenset(range(4))}


@pytest.mark.parametrize("kind", ["exact", "ivf", "annoy"])
def test_equal_features_are_one_group_at_a_threshold_of_one(path: Path, kind: str) -> None:
    rows = families(60)
    rows[50:53] = rows[3]
    write_features(path, rows)
    publish_index(path, kind)
    assert numbers(find(path, 1.0)) == {frozenset((3, 50, 51, 52))}


@pytest.mark.parametrize("kind", ["exact", "ivf", "annoy"])
def test_hundreds_of_equal_images_are_one_group(path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Many more than the neighbours that are asked for at first."""
    rows = families(330)
    rows[20:320] = rows[20]
    write_features(path, rows)
    publish_index(path, kind)
    groups = numbers(find(path, 0.999))
    assert frozenset(range(20, 320)) in groups
    assert groups == components(rows, 0.999)
    assert "at least" not in caplog.text


def test_images_with_more_duplicates_than_are_looked_for_are_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = families(120)
    rows[:50] = rows[0]
    write_features(path, rows)
    monkeypatch.setattr(sys.modules["streamer.joins.duplicates"], "_MOST_K", 32)  # the function hides it
    groups = find(path, 0.9999)
    assert "50 images have at least 31 near-duplicates each" in caplog.text
    assert frozenset(range(50)) in numbers(groups)  # each finds the same first ones


def add_copies(path: Path, of: dict[str, str], rows: dict[str, np.ndarray]) -> None:
    """Files under new keys with the same bytes as others: they share a row."""
    digests = {copy: content(original, rows[original]) for copy, original in of.items()}
    nothing = {"fc2": np.empty((0, LENGTH), np.float32)}
    known = tuple(Known(ref(copy), digest) for copy, digest in digests.items())
    with StoreWriter(path, spec_of(path), engine="test", limits="none") as writer:
        writer.append(FeatureBatch((), (), nothing, (), known))
    assert writer.counts["added"] == len(of)


def spec_of(path: Path):  # type: ignore[no-untyped-def]
    with Neighbours(path) as neighbours:
        return neighbours.store.spec


@pytest.mark.parametrize("kind", ["exact", "ivf", "annoy"])
def test_files_with_the_same_bytes_are_one_group_at_any_threshold(path: Path, kind: str) -> None:
    """Even where their features have no direction, and so no cosine."""
    rows = np.maximum(families(40), 0)
    rows[5] = 0
    names = [f"{number:02d}.jpg" for number in range(40)]
    by_name = dict(zip(names, rows, strict=True))
    write_features(path, rows, names)
    copies = {"a.jpg": "01.jpg", "b.jpg": "01.jpg", "0.jpg": "05.jpg"}
    add_copies(path, copies, by_name)
    publish_index(path, kind, components=8)
    assert keys(find(path, 1.0)) == [["01.jpg", "a.jpg", "b.jpg"], ["0.jpg", "05.jpg"]]
    delete(path, ["01.jpg"])  # the one that was first
    assert keys(find(path, 1.0)) == [["0.jpg", "05.jpg"], ["a.jpg", "b.jpg"]]


@pytest.mark.parametrize("kind", ["exact", "ivf", "annoy"])
def test_newer_images_are_compared_and_deleted_ones_are_not(path: Path, kind: str) -> None:
    rows = families()
    write_features(path, rows[:200])
    publish_index(path, kind)
    write_features(path, rows[200:], first=200)
    before = components(rows, 0.96)
    assert numbers(find(path, 0.96)) == before
    gone = [*sorted(max(before, key=len))[::2], min(min(before, key=len))]
    delete(path, [f"c{number % 3}/{number:04d}.jpg" for number in gone])
    live = np.setdiff1d(np.arange(len(rows)), gone)
    expected = {frozenset(live[list(group)].tolist()) for group in components(rows[live], 0.96)}
    assert numbers(find(path, 0.96)) == expected != before


def test_compact_in_the_middle_changes_nothing(path: Path) -> None:
    """Rows are looked up by places that were read before."""
    rows = families(120)
    write_features(path, rows, shard_rows=10)
    remember(path, TINY)
    done = []

    def progress(stage: str, count: int, total: int) -> None:
        done.append(count)
        if len(done) == 2:
            compact(path)

    with Neighbours(path) as neighbours:
        found = list(duplicates(neighbours, 0.96, progress=progress))
    assert numbers(found) == components(rows, 0.96)
    assert done[-1] == 120 and done == sorted(done)


def test_an_empty_store_has_none(path: Path) -> None:
    """It was an error."""
    write_features(path, families()[:0])
    assert find(path, 0.9) == []


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan")])
def test_a_wrong_threshold_is_refused(path: Path, threshold: float) -> None:
    write_features(path, families(9))
    with pytest.raises(ValueError, match=r"threshold: .* is not above 0 and up to 1"):
        find(path, threshold)


def test_it_stops_when_asked(path: Path) -> None:
    write_features(path, families(9))
    asked: Callable[[], bool] = iter([False, True]).__next__
    remember(path, TINY)
    with Neighbours(path) as neighbours, pytest.raises(Interrupted, match="stopped before all"):
        list(duplicates(neighbours, 0.9, should_stop=asked))


def test_a_store_that_is_searched_by_distance_has_the_same_duplicates(path: Path) -> None:
    """Neighbours were asked for by distance and judged by cosine: pairs of different length were missed."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    short = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    write_features(path, np.concatenate([short, 100 * short]))
    remember(path, metric="l2")
    publish_index(path, "exact")
    assert numbers(find(path, 0.999)) == {frozenset((place, 40 + place)) for place in range(40)}
