"""The k-nearest-neighbour graph of a store against scikit-learn's brute force."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from streamer.errors import FingerprintMismatchError, Interrupted, StoreWriteError, StreamerError
from streamer.files import PatientFile
from streamer.index import Metric
from streamer.joins import Graph, knn_graph
from streamer.neighbours import Neighbours
from streamer.store import Store
from tests.conftest import delete, publish_index, remember, write_features

LENGTH = 24
SCIKIT_LEARN = {"cosine": "cosine", "l2": "euclidean"}
TINY = 50_000  # bytes: from one to seven queries at a time


def features(count: int, seed: int = 0) -> np.ndarray:
    """Not negative, as ReLU gives them, of different lengths."""
    random = np.random.default_rng(seed)
    return (np.abs(random.normal(size=(count, LENGTH))) * random.uniform(1, 5, (count, 1))).astype(np.float32)


def brute(rows: np.ndarray, queries: np.ndarray | None, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances and row numbers; without queries, each row's own neighbours, itself left out."""
    return NearestNeighbors(metric=SCIKIT_LEARN[metric], algorithm="brute").fit(rows).kneighbors(queries, k)


def graph(store: Path, target: Path, queries: Path | None = None, **options: Any) -> tuple[Graph, dict[str, Any]]:
    """Write a graph; gives what was said of it and what is in the file."""
    with Neighbours(store) as neighbours:
        if queries is None:
            said = knn_graph(neighbours, target, **options)
        else:
            with Store(queries) as others:
                said = knn_graph(neighbours, target, queries=others, **options)
    with h5py.File(target, "r") as file:
        found: dict[str, Any] = {name: file[name][:] for name in ("ids", "distances")}
        for group in ("query", "image"):
            found[f"{group}/id"] = file[group]["id"][:]
            found |= {f"{group}/{name}": file[group][name].asstr()[:].tolist() for name in ("key", "label")}
        return said, found | {"attributes": dict(file.attrs)}


@pytest.mark.parametrize("budget_bytes", [TINY, 2**30], ids=["tiny", "large"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("k", [1, 10])
def test_it_is_scikit_learn_brute_force_whatever_the_budget(
    tmp_path: Path, metric: Metric, k: int, budget_bytes: int
) -> None:
    rows = features(211)
    write_features(tmp_path / "a.store", rows)
    remember(tmp_path / "a.store", budget_bytes)
    said, found = graph(tmp_path / "a.store", tmp_path / "a.h5", k=k, metric=metric, exact=True)
    distances, numbers = brute(rows, None, k, metric)
    np.testing.assert_array_equal(found["ids"], numbers + 1)
    np.testing.assert_allclose(found["distances"], distances, atol=1e-5)
    assert (said.queries, said.images, said.k, said.metric, said.exact) == (211, 211, k, metric, True)


def test_the_file_holds_what_its_description_says(tmp_path: Path) -> None:
    write_features(tmp_path / "a.store", features(30))
    _, found = graph(tmp_path / "a.store", tmp_path / "a.h5", k=4)
    assert (found["ids"].dtype, found["ids"].shape) == (np.int64, (30, 4))
    assert (found["distances"].dtype, found["distances"].shape) == (np.float32, (30, 4))
    assert (np.diff(found["distances"], axis=1) >= 0).all()
    for group in ("query", "image"):
        assert found[f"{group}/id"].tolist() == list(range(1, 31))
        assert found[f"{group}/key"] == [f"c{number % 3}/{number:04d}.jpg" for number in range(30)]
        assert found[f"{group}/label"] == [f"c{number % 3}" for number in range(30)]
    store = str(tmp_path / "a.store")
    expected = {"format": 1, "k": 4, "metric": "cosine", "exact": True, "store": store, "queries": store}
    assert found["attributes"] == expected


@pytest.mark.parametrize("budget_bytes", [TINY, 2**30], ids=["tiny", "large"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_images_of_another_store_may_be_the_queries(tmp_path: Path, metric: Metric, budget_bytes: int) -> None:
    """Nobody is left out then, though the two stores use the same numbers."""
    rows, others = features(150), features(40, seed=1)
    others[7] = rows[7]
    write_features(tmp_path / "a.store", rows)
    write_features(tmp_path / "b.store", others, [f"b/{number}.jpg" for number in range(40)])
    remember(tmp_path / "a.store", budget_bytes)
    _, found = graph(tmp_path / "a.store", tmp_path / "a.h5", tmp_path / "b.store", k=5, metric=metric)
    distances, numbers = brute(rows, others, 5, metric)
    np.testing.assert_array_equal(found["ids"], numbers + 1)
    np.testing.assert_allclose(found["distances"], distances, atol=1e-5)
    assert found["ids"][7, 0] == 8
    assert found["query/key"] == [f"b/{number}.jpg" for number in range(40)]
    assert len(found["image/key"]) == 150


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_images_with_equal_features_are_neighbours_and_none_is_its_own(tmp_path: Path, metric: Metric) -> None:
    """More are equal than are asked for: the image itself may not be among those that are found."""
    rows = features(60)
    rows[10:40] = rows[10]
    write_features(tmp_path / "a.store", rows)
    _, found = graph(tmp_path / "a.store", tmp_path / "a.h5", k=6, metric=metric)
    distances, _ = brute(rows, None, 6, metric)
    np.testing.assert_allclose(found["distances"], distances, atol=1e-5 if metric == "cosine" else 1e-2)
    assert not (found["ids"] == found["query/id"][:, None]).any()
    equal = set(range(11, 41))
    for number in equal:
        line = found["ids"][number - 1].tolist()
        assert len(set(line)) == 6 and set(line) < equal
        assert (found["distances"][number - 1] == 0).all()


@pytest.mark.parametrize("k", [7, 10**9])
def test_where_there_are_fewer_than_k_a_line_is_as_long_as_there_are(
    tmp_path: Path, k: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A large k made lines too long for HDF5, and for the memory."""
    rows, others = features(4), features(2, seed=1)
    write_features(tmp_path / "a.store", rows)
    write_features(tmp_path / "b.store", others)
    for queries, expected in ((None, 3), (tmp_path / "b.store", 4)):
        said, found = graph(tmp_path / "a.store", tmp_path / "a.h5", queries, k=k)
        assert said.k == found["attributes"]["k"] == expected
        wanted = brute(rows, None if queries is None else others, expected, "cosine")
        np.testing.assert_array_equal(found["ids"], wanted[1] + 1)
        assert f"{k} neighbours were asked for; there are {expected}, and {expected} in a line" in caplog.text


def test_an_image_alone_has_an_empty_line(tmp_path: Path) -> None:
    write_features(tmp_path / "a.store", features(1))
    said, found = graph(tmp_path / "a.store", tmp_path / "a.h5", k=3)
    assert said.k == 1 and found["ids"].tolist() == [[-1]] and np.isnan(found["distances"]).all()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_images_that_come_while_it_works_are_neither_queries_nor_neighbours(tmp_path: Path, metric: Metric) -> None:
    """They stood in the lines without standing among the images that the file names."""
    rows = features(40)
    write_features(tmp_path / "a.store", rows)
    remember(tmp_path / "a.store", TINY)
    committed = []

    def progress(stage: str, done: int, total: int) -> None:
        if not committed:  # twice all that is there, and each is nearer than all but its twin
            write_features(tmp_path / "a.store", np.concatenate([rows, rows]) * np.float32(1.0001), first=500)
            committed.append(done)

    said, found = graph(tmp_path / "a.store", tmp_path / "a.h5", k=3, metric=metric, progress=progress)
    assert committed[0] < 20 and said.images == 40
    np.testing.assert_array_equal(found["ids"], brute(rows, None, 3, metric)[1] + 1)
    assert found["image/id"].tolist() == found["query/id"].tolist() == list(range(1, 41))


def test_a_full_disk_ends_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was noticed when all was done."""
    write_features(tmp_path / "a.store", features(700))
    remember(tmp_path / "a.store", 2**25)
    answered = []

    def write(self: PatientFile, data: Any) -> int:
        if len(answered) >= 2:
            self._error = OSError(errno.ENOSPC, "No space left on device")
        return right(self, data)

    right = PatientFile.write
    monkeypatch.setattr(PatientFile, "write", write)
    monkeypatch.setattr("streamer.store.knn._CHUNK_BYTES", 2**14)  # HDF5 keeps a megabyte of chunks back
    with pytest.raises(
        StoreWriteError, match=r"a\.h5: cannot be written \(No space left on device\), and was given up"
    ):
        graph(tmp_path / "a.store", tmp_path / "a.h5", k=500, progress=lambda *_: answered.append(1))
    assert 2 <= len(answered) < 25 and not list(tmp_path.glob("a.h5*"))


def test_too_large_a_graph_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_features(tmp_path / "a.store", features(30))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=64 * 2**20 + 1000))
    with pytest.raises(StoreWriteError, match="a graph of 30 images with 2 neighbours each takes about 0 MB"):
        graph(tmp_path / "a.store", tmp_path / "a.h5", k=2)
    assert not list(tmp_path.glob("a.h5*"))


@pytest.mark.parametrize("kind", ["annoy", "ivf"])
def test_by_way_of_an_index_that_leaves_nothing_out_it_is_the_same(tmp_path: Path, kind: str) -> None:
    rows = features(120)
    write_features(tmp_path / "a.store", rows)
    remember(tmp_path / "a.store", TINY, candidates=120)
    publish_index(tmp_path / "a.store", kind, effort=10**6 if kind == "annoy" else 10**4)
    said, found = graph(tmp_path / "a.store", tmp_path / "a.h5", k=10)
    exactly, expected = graph(tmp_path / "a.store", tmp_path / "b.h5", k=10, exact=True)
    assert (said.exact, exactly.exact) == (False, True)
    np.testing.assert_array_equal(found["ids"], expected["ids"])
    np.testing.assert_array_equal(found["distances"], expected["distances"])
    said, found = graph(tmp_path / "a.store", tmp_path / "a.h5", k=10, metric="l2")
    assert said.exact
    np.testing.assert_array_equal(found["ids"], brute(rows, None, 10, "l2")[1] + 1)


def test_deleted_images_are_neither_queries_nor_neighbours(tmp_path: Path) -> None:
    rows = features(50)
    write_features(tmp_path / "a.store", rows, [f"{number:02d}.jpg" for number in range(50)])
    delete(tmp_path / "a.store", [f"{number:02d}.jpg" for number in range(0, 50, 5)])
    live = np.array([number for number in range(50) if number % 5])
    said, found = graph(tmp_path / "a.store", tmp_path / "a.h5", k=8)
    assert (said.queries, said.images) == (40, 40)
    np.testing.assert_array_equal(found["ids"], live[brute(rows[live], None, 8, "cosine")[1]] + 1)
    assert found["query/id"].tolist() == found["image/id"].tolist() == (live + 1).tolist()


def test_lines_of_images_that_go_while_it_works_stay_empty(tmp_path: Path) -> None:
    """Lines of the others must not move up."""
    rows = features(40)
    write_features(tmp_path / "a.store", rows, [f"{number:02d}.jpg" for number in range(40)])
    remember(tmp_path / "a.store", TINY)
    gone = [*range(10, 25), 38, 39]

    def progress(stage: str, done: int, total: int) -> None:
        if done == 3:  # after the first block
            delete(tmp_path / "a.store", [f"{number:02d}.jpg" for number in gone])

    _, found = graph(tmp_path / "a.store", tmp_path / "a.h5", k=3, progress=progress)
    assert (found["ids"][gone] == -1).all() and np.isnan(found["distances"][gone]).all()
    live = np.setdiff1d(np.arange(40), gone)
    expected = live[brute(rows[live], None, 3, "cosine")[1]] + 1
    np.testing.assert_array_equal(found["ids"][live][3:], expected[3:])


def test_features_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_features(tmp_path / "a.store", features(5))
    write_features(tmp_path / "b.store", features(5)[:, :7])
    with pytest.raises(FingerprintMismatchError, match=r"b\.store.*cannot be compared.*outputs is \{'fc2': \[7\]\}"):
        graph(tmp_path / "a.store", tmp_path / "a.h5", tmp_path / "b.store")
    assert not list(tmp_path.glob("a.h5*"))


@pytest.mark.parametrize("after", [0, 3])
def test_when_it_is_stopped_no_file_is_left_and_the_one_before_stays(tmp_path: Path, after: int) -> None:
    write_features(tmp_path / "a.store", features(30))
    remember(tmp_path / "a.store", TINY)
    for before in (None, b"from yesterday"):
        asked = iter(range(100))
        with pytest.raises(Interrupted, match=r"a\.h5 was not written"):
            graph(tmp_path / "a.store", tmp_path / "a.h5", should_stop=lambda asked=asked: next(asked) >= after)
        assert [path.read_bytes() for path in tmp_path.glob("a.h5*")] == ([before] if before else [])
        (tmp_path / "a.h5").write_bytes(b"from yesterday")


def test_an_empty_store_is_named(tmp_path: Path) -> None:
    write_features(tmp_path / "a.store", features(3))
    write_features(tmp_path / "b.store", features(0))
    for store, queries in (("a", "b"), ("b", "a")):
        with pytest.raises(StreamerError, match=r"b\.store: holds no images; run 'streamer run CONFIG'"):
            graph(tmp_path / f"{store}.store", tmp_path / "a.h5", tmp_path / f"{queries}.store")
