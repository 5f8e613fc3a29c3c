"""Exact search against scikit-learn's brute force, however the rows are cut into blocks."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from streamer.index import Metric, cosines, distances, exact_candidates


def features(count: int, length: int, seed: int = 0) -> np.ndarray:
    """Not negative, of different lengths, and no two products the same."""
    random = np.random.default_rng(seed)
    rows = np.abs(random.normal(size=(count, length))) * random.uniform(0.5, 20, size=(count, 1))
    return rows.astype(np.float32)


def cut(rows: np.ndarray, block: int, order: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids are twice the number of the row, plus 5."""
    order = np.arange(len(rows)) if order is None else order
    for start in range(0, len(rows), block):
        part = order[start : start + block]
        yield 2 * part + 5, rows[part]


def settled(queries: np.ndarray, rows: np.ndarray, ids: np.ndarray, k: int, metric: Metric) -> list[list[int]]:
    """Rank the candidates in float64, as the product does, ties by number."""
    found = []
    for query, mine in zip(queries, ids, strict=True):
        numbers = (mine[mine >= 0] - 5) // 2
        given = (query[None], np.zeros(len(numbers), int), rows[numbers])
        away = -cosines(*given) if metric == "cosine" else distances(*given)
        found.append([int(number) for _, number in sorted(zip(away, numbers, strict=True))][:k])
    return found


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("block", [1, 7, 64, 500])
@pytest.mark.parametrize("k", [1, 10, 499, 500, 600])
def test_it_is_scikit_learn_brute_force(metric: Metric, block: int, k: int) -> None:
    rows, queries = features(500, 12), features(4, 12, seed=9)
    best = exact_candidates(queries, cut(rows, block), k, metric)
    assert not best.undecided.any()
    brute = NearestNeighbors(metric={"cosine": "cosine", "l2": "euclidean"}[metric], algorithm="brute").fit(rows)
    away, numbers = brute.kneighbors(queries, min(k, 500))
    found = settled(queries, rows, best.ids, k, metric)
    np.testing.assert_array_equal(found, numbers)
    owners = np.repeat(np.arange(4), len(found[0]))
    flat = rows[np.concatenate(found)]
    measured = 1 - cosines(queries, owners, flat) if metric == "cosine" else distances(queries, owners, flat)
    np.testing.assert_allclose(measured, away.ravel(), atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("block", [1, 3, 50, 1000])
@pytest.mark.parametrize(("tile_queries", "tile_rows"), [(1, 2), (3, 64), (512, 2048)])
def test_no_order_of_the_rows_hides_a_neighbour(
    monkeypatch: pytest.MonkeyPatch, metric: Metric, block: int, tile_queries: int, tile_rows: int
) -> None:
    """In ascending order of nearness, too: then every block is better than all before it."""
    monkeypatch.setattr(sys.modules["streamer.index.exact"], "_TILE_QUERIES", tile_queries)
    monkeypatch.setattr(sys.modules["streamer.index.exact"], "_TILE_ROWS", tile_rows)
    queries, rows = features(7, 6, seed=1), features(300, 6, seed=2)
    rows[10] = rows[20] = rows[290]  # the same thrice
    truth = settled(queries, rows, np.tile(2 * np.arange(300) + 5, (7, 1)), 4, metric)
    nearness = rows @ queries[0]
    for order in (np.arange(300), np.argsort(nearness), np.argsort(-nearness)):
        best = exact_candidates(queries, cut(rows, block, order), 4, metric)
        assert settled(queries, rows, best.ids, 4, metric) == truth


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_more_ties_than_are_kept_are_said_to_be_undecided(metric: Metric) -> None:
    """A library with thirty copies of one picture: which of them are first by key, float32 cannot know."""
    rows = features(200, 8)
    rows[50:80] = rows[50]
    queries = rows[[0, 50]]
    best = exact_candidates(queries, cut(rows, 64), 3, metric)
    assert best.undecided.tolist() == [False, True]
    wider = exact_candidates(queries, cut(rows, 64), 3, metric, margin=40)
    assert not wider.undecided.any()
    assert settled(queries, rows, wider.ids, 3, metric)[1] == [50, 51, 52]


def test_what_cannot_matter_is_not_handed_on() -> None:
    rows = np.eye(40, dtype=np.float32)
    query = (rows[0] + 0.5 * rows[1])[None]
    best = exact_candidates(query, cut(rows, 16), 2)
    assert best.ids[0, :2].tolist() == [5, 7] and (best.ids[0, 2:] == -1).all()


def test_products_made_elsewhere_give_the_same() -> None:
    def top(queries: np.ndarray, rows: np.ndarray, offsets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ rows.T - offsets
        places = np.argsort(-scores, axis=1)[:, :k]
        return places, np.take_along_axis(scores, places, axis=1)

    rows, queries = features(300, 10), features(5, 10, seed=3)
    for metric in ("cosine", "l2"):
        here, there = (exact_candidates(queries, cut(rows, 64), 5, metric, top=each) for each in (None, top))
        assert settled(queries, rows, here.ids, 5, metric) == settled(queries, rows, there.ids, 5, metric)


def test_a_store_without_rows_has_no_neighbours() -> None:
    best = exact_candidates(features(3, 4), iter(()), 5)
    assert best.ids.shape == (3, 0) and not best.undecided.any()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("length", [2048, 25_088])
def test_rows_that_are_nearly_flat_and_nearly_equal_are_told_apart(metric: Metric, length: int) -> None:
    """Lengths summed in float32 were off by more than the neighbours differ, and the wrong ones were handed on."""
    chance = np.random.default_rng(0)
    rows = (1.3 + 0.002 * chance.standard_normal((120, 1)) + 1e-3 * chance.standard_normal((120, length)) / 20).astype(
        np.float32
    )
    truth = settled(rows[:5], rows, np.tile(2 * np.arange(120) + 5, (5, 1)), 5, metric)
    for margin in (1, 16, 60):
        best = exact_candidates(rows[:5], cut(rows, 50), 5, metric, margin=margin)
        found = settled(rows[:5], rows, best.ids, 5, metric)
        assert all(best.undecided[query] or found[query] == truth[query] for query in range(5))
