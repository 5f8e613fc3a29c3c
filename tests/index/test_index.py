"""Candidates, ranking and generations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import IndexMissingError, StoreWriteError
from streamer.index import (
    AnnoyIndex,
    Draft,
    Manifest,
    annoy_index,
    build_annoy,
    cosines,
    current_generation,
    distances,
)


def unit(count: int, length: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, length)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def manifest(rows: int) -> Manifest:
    return Manifest("exact", "fc2", "f" * 32, rows, rows, 0, 0, False, 0, None, 0, 0, None, 0, 1.0, None)


def test_annoy_finds_neighbours_and_says_how_near(tmp_path: Path) -> None:
    pytest.importorskip("annoy", reason="annoy is not installed on this platform")
    rows = unit(500, 16)
    assert build_annoy(tmp_path / "a.ann", [rows[:200], rows[200:]], 16, trees=20, seed=3) == 500
    index = AnnoyIndex(tmp_path / "a.ann", 16, 500)
    for number in (0, 199, 200, 499):
        (positions,), (scores,) = index.candidates(rows[[number]], 10, 5000)
        assert positions[0] == number
        np.testing.assert_allclose(scores, rows[positions] @ rows[number], atol=1e-5)
        assert set(positions) == set(np.argsort(-(rows @ rows[number]))[:10])
    few, scores = index.candidates(rows[:2], 501, 5000)
    assert few.shape == (2, 501) and (few[:, -1] == -1).all() and (scores[:, -1] == -np.inf).all()
    assert index.full_effort == 20 * 500
    index.close()


def test_the_same_seed_builds_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("annoy", reason="annoy is not installed on this platform")
    rows = unit(300, 8)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_annoy(tmp_path / name, [rows], 8, trees=5, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_damaged_index_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("annoy", reason="annoy is not installed on this platform")
    path = tmp_path / "a.ann"
    build_annoy(path, [unit(50, 8)], 8, trees=5, seed=1)
    with pytest.raises(IndexMissingError, match=r"a\.ann: holds 50 vectors, not 51"):
        AnnoyIndex(path, 8, 51)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(IndexMissingError, match=r"a\.ann: the index does not open"):
        AnnoyIndex(path, 8, 50)


def test_rows_of_zeros_score_nothing() -> None:
    rows = np.array([[0, 0], [3, 4], [-3, -4], [4, -3], [3, 4]], np.float32)
    queries = np.array([[3, 4], [0, 0]], np.float32)
    np.testing.assert_allclose(cosines(queries, np.array([0, 0, 0, 0, 1]), rows), [0, 1, -1, 0, 0])
    np.testing.assert_allclose(distances(queries, np.array([0, 0, 0, 1, 1]), rows), [5, 0, 10, 5, 5])


def test_equal_rows_score_equally_wherever_they_stand() -> None:
    """A float32 matrix product rounds by position, and would break ties between duplicates at random."""
    row = unit(1, 513)[0]
    rows = unit(101, 513, seed=2)
    rows[[0, 13, 50, 99, 100]] = row
    for measure in (cosines, distances):
        scores = measure(unit(1, 513, seed=5), np.zeros(101, int), rows)
        assert len(set(scores[[0, 13, 50, 99, 100]])) == 1


def test_generations_are_published_whole_and_two_are_kept(tmp_path: Path) -> None:
    assert current_generation(tmp_path) is None
    for rows in (1, 2, 3):
        draft = Draft.begin(tmp_path)
        assert current_generation(tmp_path) is None or current_generation(tmp_path).number == rows - 1
        with draft.writing_images(rows) as append:
            append(np.full((rows, 3), rows))
        assert draft.publish(manifest(rows)).number == rows
    generation = current_generation(tmp_path)
    assert generation is not None and replace(generation.manifest, files={}) == manifest(3)
    np.testing.assert_array_equal(np.load(generation.path / "images.npy"), np.full((3, 3), 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000003", "CURRENT"]


def test_what_a_crash_left_is_cleared_and_never_published(tmp_path: Path) -> None:
    draft = Draft.begin(tmp_path)
    (draft.path / "reducer.npz").write_bytes(b"whole")
    draft.publish(manifest(1))
    half = Draft.begin(tmp_path)
    (half.path / "annoy.ann").write_bytes(b"half")
    complete_but_unnamed = tmp_path / "000002"
    complete_but_unnamed.mkdir()
    assert current_generation(tmp_path).number == 1
    again = Draft.begin(tmp_path)
    assert (again.number, complete_but_unnamed.exists(), list(again.path.iterdir())) == (2, False, [])


def test_what_an_interrupted_build_left_in_a_draft_is_not_published(tmp_path: Path) -> None:
    """Only `begin` swept: a build of another kind published the files of the one before with its own."""
    begun = Draft.begin(tmp_path)
    begun.reducer_path.write_text("PCA")
    for name in ("annoy.ann", "vectors.spool", "manifest.json.partial"):
        (begun.path / name).write_text("half")
    draft = Draft.existing(tmp_path)
    assert draft is not None and draft.path == begun.path
    generation = draft.publish(manifest(3))
    assert set(generation.manifest.files) == {"reducer.npz"}
    assert {file.name for file in generation.path.iterdir()} == {"reducer.npz", "manifest.json"}
    assert Draft.existing(tmp_path) is None


@pytest.mark.parametrize("damage", ["manifest", "kind", "images", "current", "gone"])
def test_a_damaged_generation_is_named(tmp_path: Path, damage: str) -> None:
    draft = Draft.begin(tmp_path)
    with draft.writing_images(3) as append:
        append(np.ones((1, 3), np.int64))
        append(np.ones((2, 3), np.int64))
    path = draft.publish(manifest(3)).path
    text = (path / "manifest.json").read_text()
    if damage == "manifest":
        (path / "manifest.json").write_text('{"kind": "exact"}')
    elif damage == "kind":
        (path / "manifest.json").write_text(text.replace('"exact"', '"hypercube"'))
    elif damage == "images":
        np.save(path / "images.npy", np.arange(9).reshape(3, 3))
    elif damage == "current":
        (tmp_path / "CURRENT").write_text("??")
    else:
        path.rename(tmp_path / "elsewhere")
    with pytest.raises(IndexMissingError):
        current_generation(tmp_path).verify()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 7)", "raise OSError('no space')"])
def test_annoy_may_die_of_a_full_disk_but_not_we(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(annoy_index, "_START", f"import os; {end}")
    vectors = (np.ones((1000, 64), np.float32) for _ in range(200))
    with pytest.raises(StoreWriteError, match=r"Annoy could not build its file \(exit code -?\d: .*disk may be full"):
        build_annoy(tmp_path / "a.ann", vectors, 64, trees=2, seed=0)


def test_annoy_is_stopped_when_the_vectors_stop(tmp_path: Path) -> None:
    def vectors() -> Iterator[np.ndarray]:
        yield np.ones((10, 4), np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_annoy(tmp_path / "a.ann", vectors(), 4, trees=2, seed=0)


def test_a_file_that_lost_a_part_is_noticed(tmp_path: Path) -> None:
    """Annoy says nothing when its file cannot grow."""
    path = tmp_path / "a.ann"
    build_annoy(path, [np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)], 4, trees=3, seed=0)
    data = bytearray(path.read_bytes())
    data[28 * 20 : 28 * 30] = bytes(280)
    path.write_bytes(data)
    with pytest.raises(StoreWriteError, match="lost part"):
        annoy_index._verify(path, 4, 50)
