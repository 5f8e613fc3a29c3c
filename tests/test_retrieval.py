"""Features in, hits out: the index and the exact ranking against plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from streamer.calibration import calibrate, recall_of
from streamer.index import Metric, annoy_installed
from streamer.indexing import IndexBuilder, IndexSettings
from streamer.retrieval import Neighbour, ReducedIndex, nearest_among, nearest_approximate, nearest_exact
from streamer.store import Entry, Store, StoreWriter
from streamer.upkeep import compact
from tests.conftest import feature_batch

ROWS, LENGTH = 600, 32


def clustered(count: int = ROWS, seed: int = 0) -> np.ndarray:
    """Features as ReLU gives them: not negative, in groups."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(20, LENGTH))
    rows = centres[random.integers(0, 20, count)] + 0.4 * random.normal(size=(count, LENGTH))
    return np.maximum(rows, 0).astype(np.float32)


@pytest.fixture
def store(open_writer: Callable[..., StoreWriter], tmp_path: Path) -> Iterator[Store]:
    rows = clustered()
    rows[500] = rows[3]  # a duplicate
    with open_writer(LENGTH) as writer:
        for start in range(0, ROWS, 100):
            keys = [f"c/{number:04d}.jpg" for number in range(start, start + 100)]
            writer.append(feature_batch(keys, rows[start : start + 100]))
            writer.commit()
    with Store(tmp_path / "a.store") as opened:
        yield opened


@pytest.fixture(params=["annoy", "ivf"])
def index(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ReducedIndex]:
    """All there is to one generation; 16 of 32 components, so that the order of candidates is not the answer's."""
    if request.param == "annoy" and not annoy_installed():
        pytest.skip("annoy is not installed on this platform")
    settings = IndexSettings(request.param, 16, False, None, None, 0, 50, 0.9)
    (tmp_path / "a.store" / "index").mkdir(exist_ok=True)
    builder = IndexBuilder(store, settings, 2**30, lambda *_: None, lambda: False)
    builder.reduce()
    generation = builder.build()
    with ReducedIndex(request.param, generation.path) as opened:
        yield opened


def truth(query: np.ndarray, k: int, without: set[str] = frozenset()) -> list[tuple[str, float]]:
    rows = clustered()
    rows[500] = rows[3]
    wide = rows.astype(np.float64)
    scores = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query.astype(np.float64))
    found = [(f"c/{number:04d}.jpg", round(float(score), 7)) for number, score in enumerate(scores)]
    return sorted((each for each in found if each[0] not in without), key=lambda each: (-each[1], each[0]))[:k]


def pairs(neighbours: list[Neighbour]) -> list[tuple[str, float]]:
    return [(each.entry.key, each.score) for each in neighbours]


@pytest.mark.parametrize("k", [1, 7, 600, 1000])
def test_exact_search_is_numpy(store: Store, k: int) -> None:
    queries = clustered(5, seed=4)
    for query, hits in zip(queries, nearest_exact(store, queries, k), strict=True):
        expected = truth(query, k)
        assert [key for key, _ in pairs(hits)] == [key for key, _ in expected]
        np.testing.assert_allclose([score for _, score in pairs(hits)], [score for _, score in expected], atol=2e-7)


@pytest.mark.parametrize("k", [1, 7, 1000])
def test_exact_search_by_distance_is_numpy(store: Store, k: int) -> None:
    queries, rows = clustered(5, seed=4), clustered()
    rows[500] = rows[3]
    for query, found in zip(queries, nearest_exact(store, queries, k, "l2"), strict=True):
        away = np.sqrt(np.square(rows.astype(np.float64) - query).sum(axis=1))
        expected = np.lexsort((np.arange(ROWS), away))[:k]
        assert [each.entry.key for each in found] == [f"c/{number:04d}.jpg" for number in expected]
        np.testing.assert_allclose([each.distance for each in found], away[expected], atol=1e-9)
        cosines = dict(truth(query, ROWS))
        np.testing.assert_allclose(
            [each.score for each in found], [cosines[each.entry.key] for each in found], atol=2e-7
        )


def test_ties_go_by_key_even_where_they_are_more_than_are_kept(
    open_writer: Callable[..., StoreWriter], tmp_path: Path
) -> None:
    """Sixty photos with the same features, the first keys written last."""
    with open_writer(LENGTH) as writer:
        for part in (range(40, 60), range(20, 40), range(20)):
            rows = np.tile(clustered(1), (20, 1))
            writer.append(feature_batch([f"c/{number:04d}.jpg" for number in part], rows))
            writer.commit()
    with Store(tmp_path / "a.store") as store:
        for metric in ("cosine", "l2"):
            (found,) = nearest_exact(store, clustered(1), 5, metric)
            assert [each.entry.key for each in found] == [f"c/{number:04d}.jpg" for number in range(5)]


def test_duplicates_score_the_same_and_are_ranked_by_key(store: Store, index: ReducedIndex) -> None:
    query = clustered()[[3]]
    for found in (
        nearest_exact(store, query, 3)[0],
        nearest_approximate(store, index, query, 3, candidates=50, effort=2000)[0],
    ):
        assert pairs(found)[:2] == [("c/0003.jpg", 1.0), ("c/0500.jpg", 1.0)]
        assert (found[0].entry.label, found[0].entry.path) == ("c", "/photos/c/0003.jpg")


def test_reranked_hits_carry_full_precision_scores(store: Store, index: ReducedIndex) -> None:
    queries = clustered(10, seed=5)
    found = nearest_approximate(store, index, queries, 10, candidates=200, effort=5000)
    assert [pairs(each) for each in found] == [pairs(each) for each in nearest_exact(store, queries, 10)]


def test_queries_together_get_what_they_get_alone(store: Store, index: ReducedIndex) -> None:
    queries = clustered(20, seed=8)
    together = nearest_approximate(store, index, queries, 5, candidates=20, effort=50)
    alone = [nearest_approximate(store, index, query[None], 5, candidates=20, effort=50)[0] for query in queries]
    assert together == alone


def test_without_reranking_the_reduced_vectors_decide(store: Store, index: ReducedIndex) -> None:
    query = clustered(1, seed=6)
    (found,) = nearest_approximate(store, index, query, 10, candidates=50, effort=5000, rerank=False)
    positions, scores = index.candidates(query, 10, 5000)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert {each.entry.id for each in found} == set(index.images(positions[0])[:, 0].tolist())
    np.testing.assert_allclose([each.score for each in found], scores[0], atol=1e-6)


def test_deleted_images_are_made_up_for(
    open_writer: Callable[..., StoreWriter], store: Store, index: ReducedIndex
) -> None:
    """Deleting most of the nearest must not leave the answer short."""
    query = clustered(1, seed=7)
    gone = {key for key, _ in truth(query[0], 120)}
    with open_writer(LENGTH) as writer, writer.catalog.transaction():
        writer.catalog.execute(f"DELETE FROM images WHERE key IN ({','.join('?' * len(gone))})", list(gone))
    (found,) = nearest_approximate(store, index, query, 10, candidates=20, effort=2000)
    assert len(found) == 10 and not gone & {each.entry.key for each in found}
    (everything,) = nearest_approximate(store, index, query, 1000, candidates=20, effort=2000)
    assert len(everything) == ROWS - 120


def test_rows_that_compact_moved_are_found_again(
    open_writer: Callable[..., StoreWriter], store: Store, index: ReducedIndex, tmp_path: Path
) -> None:
    """The index knows them by the places they had."""
    queries = clustered(6, seed=2)
    before = [pairs(each) for each in nearest_approximate(store, index, queries, 10, candidates=50, effort=500)]
    assert len(store.shard_numbers()) == 6
    compact(tmp_path / "a.store")
    with Store(tmp_path / "a.store") as after:
        assert len(after.shard_numbers()) == 1
        found = nearest_approximate(after, index, queries, 10, candidates=50, effort=500)
        assert [pairs(each) for each in found] == before
        places = {number: (shard, row) for number, shard, row in after.locate(np.arange(1, ROWS + 1)).tolist()}
        assert all(places[each.entry.id] == (each.entry.shard, each.entry.row) for each in found[0])


def test_calibration_measures_recall_and_raises_the_effort(store: Store, index: ReducedIndex) -> None:
    tuned = calibrate(store, index, candidates=30, recall=0.999)
    queries = next(iter(store.blocks("fc2", 100)))[1]
    found = nearest_approximate(store, index, queries, 10, candidates=30, effort=tuned.effort)
    exact = nearest_exact(store, queries, 10)
    assert abs(np.mean([recall_of(*pair) for pair in zip(found, exact, strict=True)]) - tuned.recall) < 0.05
    assert calibrate(store, index, candidates=30, recall=0.3).effort <= tuned.effort
    assert calibrate(store, index, candidates=30, recall=0.999, effort=7).effort == 7
    poor = calibrate(store, index, candidates=1, recall=0.999)
    assert poor.recall < tuned.recall  # ten hits from ten candidates: the ranking cannot make up for it


def test_recall_counts_equally_good_hits() -> None:
    def found(*scores: float) -> list[Neighbour]:
        return [Neighbour(Entry(number, f"{number}", "", "", 1, 0), score) for number, score in enumerate(scores)]

    assert recall_of(found(1.0, 0.9, 0.5), found(1.0, 0.9, 0.8)) == pytest.approx(2 / 3)
    assert recall_of(found(1.0, 0.8), found(1.0, 0.8)) == 1
    assert recall_of([], found(1.0)) == 0


def test_calibration_does_not_stop_where_looking_further_hides_what_an_effort_brings(
    open_writer: Callable[..., StoreWriter], tmp_path: Path
) -> None:
    """With a few rows in each cluster, one, two and four of them gave the same answers, as fewer held no ten rows."""
    random = np.random.default_rng(1)
    rows = (np.repeat(random.normal(size=(3, 24)), 30, axis=0) + 0.3 * random.normal(size=(90, 24))).astype(np.float32)
    with open_writer(24) as writer:
        writer.append(feature_batch([f"c/{number:04d}.jpg" for number in range(90)], rows))
    (tmp_path / "a.store" / "index").mkdir(exist_ok=True)
    with Store(tmp_path / "a.store") as store:
        settings = IndexSettings("ivf", 8, False, None, None, 0, 200, 0.99)
        builder = IndexBuilder(store, settings, 2**30, lambda *_: None, lambda: False)
        builder.reduce()
        assert (builder.build().manifest.recall_at_10 or 0) > 0.98


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_among_some_images_each_is_ranked(store: Store, metric: Metric) -> None:
    ids = np.array([4, 9, 501, 77, 300, 10_000])  # 4 and 501 are alike, and no image has the last
    queries = clustered()[[3, 200]]
    found = nearest_among(store, queries, 4, ids, metric)
    expected = nearest_exact(store, queries, 4, metric, among=ids)
    for one, other in zip(found, expected, strict=True):
        assert [each.entry for each in one] == [each.entry for each in other]
        np.testing.assert_allclose([each.score for each in one], [each.score for each in other], atol=1e-6)
        assert [each.distance is None for each in one] == [metric == "cosine"] * 4
    assert [each.entry.id for each in found[0][:2]] == [4, 501]
    assert nearest_among(store, queries, 4, np.empty(0, np.int64), metric) == [[], []]
