"""An open store that is asked for neighbours: by way of the index or not, and while others write to it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import EngineUnavailableError, IndexMissingError, StoreMissingError
from streamer.index import TopOfBlock
from streamer.neighbours import Neighbours
from streamer.retrieval import Neighbour
from streamer.searcher import Searcher, open_neighbours
from streamer.store import CatalogWriter
from tests.conftest import delete, publish_index, remember, write_features

LENGTH = 16


def features(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (np.abs(random.normal(size=(count, LENGTH))) * random.uniform(1, 5, (count, 1))).astype(np.float32)


def nearest(rows: np.ndarray, queries: np.ndarray, k: int, metric: str = "cosine") -> list[list[int]]:
    """Numbers of the nearest rows, by plain numpy."""
    wide, asked = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        away = np.sqrt(np.square(wide[None] - asked[:, None]).sum(axis=2))
    else:
        unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        away = -np.round(asked / np.linalg.norm(asked, axis=1, keepdims=True) @ unit.T, 7)
    return np.argsort(away, axis=1, kind="stable")[:, :k].tolist()


def numbers(found: list[list[Neighbour]]) -> list[list[int]]:
    return [[int(each.entry.key[-8:-4]) for each in hits] for hits in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_features(tmp_path / "a.store", features(300))
    return tmp_path / "a.store"


@pytest.mark.parametrize("kind", ["exact", "ivf", "annoy"])
def test_they_are_those_of_numpy_by_every_kind_of_index(path: Path, kind: str) -> None:
    publish_index(path, kind)
    rows, queries = features(300), features(8, seed=1)
    with Neighbours(path) as neighbours:
        assert neighbours.scans() == (kind == "exact")
        assert numbers(neighbours.nearest(queries)) == nearest(rows, queries, 10)
        assert numbers(neighbours.nearest(queries, 3, exact=True)) == nearest(rows, queries, 3)
        assert neighbours.nearest(queries[:0]) == []


@pytest.mark.parametrize("kind", ["ivf", "annoy"])
def test_distances_are_looked_for_past_the_index(path: Path, kind: str) -> None:
    """It knows angles only, and lengths differ by a factor of five here."""
    publish_index(path, kind)
    rows, queries = features(300), features(8, seed=1)
    with Neighbours(path) as neighbours:
        assert neighbours.scans(metric="l2")
        found = neighbours.nearest(queries, 10, metric="l2")
        assert numbers(found) == nearest(rows, queries, 10, "l2") != nearest(rows, queries, 10)
        for query, hits in zip(queries, found, strict=True):
            away = np.linalg.norm(rows[numbers([hits])[0]].astype(np.float64) - query, axis=1)
            np.testing.assert_allclose([each.distance for each in hits], away, atol=1e-9)
        assert all(each.distance is None for hits in neighbours.nearest(queries) for each in hits)


def test_what_the_last_run_asked_for_holds_unless_told_otherwise(path: Path) -> None:
    remember(path, k=4, metric="l2")
    publish_index(path, "exact")
    rows, queries = features(300), features(5, seed=1)
    with Neighbours(path) as neighbours:
        assert numbers(neighbours.nearest(queries)) == nearest(rows, queries, 4, "l2")
        assert numbers(neighbours.nearest(queries, 6, metric="cosine")) == nearest(rows, queries, 6)


@pytest.mark.parametrize("kind", ["ivf", "annoy"])
def test_without_reranking_the_reduced_vectors_decide_also_about_newer_images(path: Path, kind: str) -> None:
    publish_index(path, kind, components=4)
    newer = features(5, seed=1) + np.float32(0.05)
    write_features(path, newer, first=300)
    rows, queries = np.concatenate([features(300), newer]), features(5, seed=1)
    with Neighbours(path) as neighbours:
        found = neighbours.nearest(queries, 10, candidates=300, rerank=False)
        reducer = neighbours._open_index().reducer
    reduced = reducer.transform(rows) @ reducer.transform(queries).T
    for query, hits in enumerate(found):
        assert (
            np.round(reduced[numbers([hits])[0], query], 4).tolist()
            == np.round(np.sort(reduced[:, query])[::-1][:10], 4).tolist()
        )
        np.testing.assert_allclose([each.score for each in hits], reduced[numbers([hits])[0], query], atol=1e-5)
    assert numbers(found) != nearest(rows, queries, 10)
    assert [hits[0] for hits in numbers(found)] == [300, 301, 302, 303, 304]


@pytest.mark.parametrize("kind", ["exact", "ivf", "annoy"])
def test_many_queries_get_what_each_gets_alone_with_newer_images_beside_the_index(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_index(path, kind)
    write_features(path, features(60, seed=2), first=300)
    delete(path, [f"c{number % 3}/{number:04d}.jpg" for number in (3, 5, 301)])
    live = np.setdiff1d(np.arange(360), [3, 5, 301])
    rows, queries = np.concatenate([features(300), features(60, seed=2)])[live], features(50, seed=3)
    monkeypatch.setattr("streamer.retrieval.approximate._TOGETHER", 7)
    with Neighbours(path) as neighbours:
        together = neighbours.nearest(queries, 6)
        assert together == [neighbours.nearest(query[None], 6)[0] for query in queries]
        assert numbers(together) == live[nearest(rows, queries, 6)].tolist()


@pytest.mark.parametrize("kind", ["ivf", "annoy"])
@pytest.mark.parametrize("k", [299, 300, 1000])
def test_as_many_as_there_are_come_when_they_are_asked_for(path: Path, kind: str, k: int) -> None:
    """The index was not looked through to its end: 450 of 600 came."""
    publish_index(path, kind, effort=1)
    rows, queries = features(300), features(4, seed=1)
    with Neighbours(path) as neighbours:
        found = numbers(neighbours.nearest(queries, k))
        assert found == nearest(rows, queries, k)


def test_it_follows_the_generations_that_are_published(path: Path) -> None:
    rows, query = features(400), features(1, seed=1)
    with Neighbours(path) as neighbours:
        for number, kind in enumerate(("exact", "ivf", "exact", "ivf", "ivf"), start=1):
            publish_index(path, kind)
            assert numbers(neighbours.nearest(query)) == nearest(rows[:300], query, 10)
            assert neighbours.generation is not None
            assert (neighbours.generation.number, neighbours.scans()) == (number, kind == "exact")
        opened = neighbours._open_index()
        assert neighbours.nearest(query) and neighbours._open_index() is opened  # not opened for every question
        write_features(path, rows[300:], first=300)
        assert numbers(neighbours.nearest(query)) == nearest(rows, query, 10)
        publish_index(path, "ivf")
        assert numbers(neighbours.nearest(query)) == nearest(rows, query, 10)
        assert neighbours._open_index().rows == 400


def test_a_damaged_newer_generation_leaves_the_open_one_answering(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish_index(path, "ivf")
    rows, query = features(300), features(1, seed=1)
    with Neighbours(path) as neighbours:
        neighbours.nearest(query)
        (path / "index" / "CURRENT").write_text("000007\n")
        assert numbers(neighbours.nearest(query)) == nearest(rows, query, 10)
        assert "the index that is open goes on answering" in caplog.text


@pytest.mark.parametrize("name", ["CURRENT", "000001/manifest.json"])
def test_a_damaged_index_is_in_the_way_of_nothing_that_does_without_it(
    path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The store did not even open, and its own advice to search with --exact could not be followed."""
    publish_index(path, "ivf")
    (path / "index" / name).write_text("{")
    rows, query = features(300), features(1, seed=1)
    with Neighbours(path) as neighbours:
        for _ in range(2):
            assert numbers(neighbours.nearest(query, exact=True)) == nearest(rows, query, 10)
        assert numbers(neighbours.nearest(query, metric="l2")) == nearest(rows, query, 10, "l2")
        assert caplog.text.count("; every image is looked at") == 1
        for ask in (neighbours.scans, neighbours.inverted_file, lambda: neighbours.nearest(query)):
            with pytest.raises(IndexMissingError, match=r"cannot be read.*run 'streamer index"):
                ask()
        publish_index(path, "ivf")
        assert numbers(neighbours.nearest(query)) == nearest(rows, query, 10)
        assert not neighbours.scans()


@pytest.mark.parametrize("kind", ["exact", "ivf", "annoy"])
def test_whoever_asks_for_everything_gets_it_in_the_memory_that_it_takes(path: Path, kind: str) -> None:
    """Room was made for all the neighbours that were asked for, and Annoy was given a number it cannot hold."""
    publish_index(path, kind)
    rows, query = features(300), features(1, seed=1)
    with Neighbours(path) as neighbours:
        for exact in (False, True):
            found = neighbours.nearest(query, 10**9, 10**9, exact=exact)
            assert numbers(found) == nearest(rows, query, 300)
        assert len(neighbours.nearest(query, 3, 10**9)[0]) == 3


def test_without_an_index_every_image_is_looked_at_and_that_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Neighbours(path) as neighbours:
        for _ in range(2):
            assert numbers(neighbours.nearest(features(1, seed=1), 5)) == nearest(features(300), features(1, seed=1), 5)
        assert neighbours.inverted_file() is None
    assert caplog.text.count("there is no index yet") == 1
    with pytest.raises(StoreMissingError):
        Neighbours(path / "nowhere")


def test_products_elsewhere_are_used_where_there_are_enough(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, chosen = [], []

    def top(queries: np.ndarray, rows: np.ndarray, offsets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append((len(queries), len(rows), k))
        scores = queries @ rows.T - offsets
        places = np.argsort(-scores, axis=1)[:, :k]
        return places, np.take_along_axis(scores, places, axis=1)

    queries = features(20, seed=1)

    def products() -> TopOfBlock:
        chosen.append(True)
        return top

    with Neighbours(path, products) as neighbours:
        neighbours.nearest(queries, 5)
        assert asked == chosen == []  # too few to be worth it: whether there is a GPU at all is no matter
        monkeypatch.setattr("streamer.neighbours._WORTH_A_GPU", 300 * 20 * LENGTH)
        for metric in ("cosine", "l2"):
            assert numbers(neighbours.nearest(queries, 5, metric=metric)) == nearest(features(300), queries, 5, metric)
        assert asked == [(20, 300, 21), (20, 300, 21)]
        neighbours.nearest(queries[1:], 5)
        assert len(asked) == 2


def test_a_store_made_on_a_gpu_is_asked_on_a_machine_without(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was refused as it was opened, also for questions that no GPU is needed for."""
    with contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog:
        catalog.set_settings({"extract": {"device": "gpu"}})
    rows, queries = features(300), features(20, seed=1)
    with open_neighbours(path) as neighbours:
        assert numbers(neighbours.nearest(queries, 5)) == nearest(rows, queries, 5)
        monkeypatch.setattr("streamer.neighbours._WORTH_A_GPU", 1)
        with pytest.raises(EngineUnavailableError, match=r"no CUDA GPU is visible.*--device cpu"):
            neighbours.nearest(queries, 5)
    with open_neighbours(path, "cpu") as neighbours:
        assert numbers(neighbours.nearest(queries, 5)) == nearest(rows, queries, 5)


def test_a_searcher_that_cannot_be_made_leaves_nothing_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog:
        catalog.set_settings({"extract": {"of": "a newer release"}})
    closed: list[Neighbours] = []

    def close(self: Neighbours) -> None:
        closed.append(self)

    monkeypatch.setattr(Neighbours, "close", close)
    with pytest.raises(TypeError):
        Searcher(path)
    assert len(closed) == 1
    monkeypatch.undo()
    closed[0].close()


def test_a_store_with_an_annoy_index_says_what_to_do_where_annoy_is_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_index(path, "annoy")
    monkeypatch.setitem(sys.modules, "annoy", None)
    query = features(1, seed=1)
    with Neighbours(path) as neighbours:
        with pytest.raises(EngineUnavailableError, match=r"annoy package is not installed.*--exact"):
            neighbours.nearest(query)
        assert numbers(neighbours.nearest(query, exact=True)) == nearest(features(300), query, 10)
        publish_index(path, "ivf")
        assert numbers(neighbours.nearest(query)) == nearest(features(300), query, 10)
