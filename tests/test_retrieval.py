"""Features in, hits out: the index and the exact ranking against plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from streamer.calibration import calibrate, recall_of
from streamer.index import build_annoy
from streamer.records import Hit
from streamer.reduction import block_sizes, fit
from streamer.retrieval import ApproximateIndex, nearest_approximate, nearest_exact
from streamer.store import Store, StoreWriter
from tests.conftest import feature_batch

pytest.importorskip("annoy", reason="annoy is not installed on this platform")

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


@pytest.fixture
def index(store: Store, tmp_path: Path) -> Iterator[ApproximateIndex]:
    blocks = [rows for _, rows in store.blocks("fc2", block_sizes(ROWS, 100, 16))]
    reducer = fit(blocks, ROWS, LENGTH, 16, whiten=False)
    reducer.save(tmp_path / "reducer.npz")
    build_annoy(tmp_path / "a.ann", map(reducer.transform, blocks), 16, trees=10, seed=0)
    ids = np.concatenate([ids for ids, _ in store.blocks("fc2", 1000)])
    with ApproximateIndex(tmp_path / "reducer.npz", tmp_path / "a.ann", ids) as opened:
        yield opened


def truth(query: np.ndarray, k: int, without: set[str] = frozenset()) -> list[tuple[str, float]]:
    rows = clustered()
    rows[500] = rows[3]
    wide = rows.astype(np.float64)
    scores = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query.astype(np.float64))
    found = [(f"c/{number:04d}.jpg", round(float(score), 7)) for number, score in enumerate(scores)]
    return sorted((each for each in found if each[0] not in without), key=lambda each: (-each[1], each[0]))[:k]


def pairs(hits: list[Hit]) -> list[tuple[str, float]]:
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    return [(hit.key, hit.score) for hit in hits]


@pytest.mark.parametrize("k", [1, 7, 600, 1000])
def test_exact_search_is_numpy(store: Store, k: int) -> None:
    queries = clustered(5, seed=4)
    for query, hits in zip(queries, nearest_exact(store, queries, k), strict=True):
        expected = truth(query, k)
        assert [key for key, _ in pairs(hits)] == [key for key, _ in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=2e-7)


def test_duplicates_score_the_same_and_are_ranked_by_key(store: Store, index: ApproximateIndex) -> None:
    query = clustered()[3]
    for hits in (
        nearest_exact(store, query[None], 3)[0],
        nearest_approximate(store, index, query, 3, candidates=50, search_k=2000),
    ):
        assert pairs(hits)[:2] == [("c/0003.jpg", 1.0), ("c/0500.jpg", 1.0)]
        assert (hits[0].label, hits[0].path) == ("c", "/photos/c/0003.jpg")


def test_reranked_hits_carry_full_precision_scores(store: Store, index: ApproximateIndex) -> None:
    for query in clustered(10, seed=5):
        hits = nearest_approximate(store, index, query, 10, candidates=200, search_k=5000)
        assert pairs(hits) == pairs(nearest_exact(store, query[None], 10)[0])


def test_without_reranking_the_reduced_vectors_decide(store: Store, index: ApproximateIndex) -> None:
    query = clustered(1, seed=6)[0]
    hits = nearest_approximate(store, index, query, 10, candidates=50, search_k=5000, rerank=False)
    ids, scores = index.candidates(query, 10, 5000)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert {hit.key for hit in hits} == {entry.key for entry in store.entries(ids.tolist()).values()}
    np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-6)


def test_deleted_images_are_made_up_for(
    open_writer: Callable[..., StoreWriter], store: Store, index: ApproximateIndex
) -> None:
    """Deleting most of the nearest must not leave the answer short."""
    query = clustered(1, seed=7)[0]
    gone = {key for key, _ in truth(query, 120)}
    with open_writer(LENGTH) as writer, writer.catalog.transaction():
        writer.catalog.execute(f"DELETE FROM images WHERE key IN ({','.join('?' * len(gone))})", list(gone))
    hits = nearest_approximate(store, index, query, 10, candidates=20, search_k=2000)
    assert len(hits) == 10 and not gone & {hit.key for hit in hits}
    everything = nearest_approximate(store, index, query, 1000, candidates=20, search_k=2000)
    assert len(everything) == ROWS - 120


def test_calibration_measures_recall_and_raises_the_effort(store: Store, index: ApproximateIndex) -> None:
    tuned = calibrate(store, index, trees=10, candidates=30, recall=0.999)
    queries = [rows for _, rows in store.blocks("fc2", 1)][:100]
    found = [nearest_approximate(store, index, q[0], 10, candidates=30, search_k=tuned.search_k) for q in queries]
    exact = [nearest_exact(store, q, 10)[0] for q in queries]
    assert abs(np.mean([recall_of(*pair) for pair in zip(found, exact, strict=True)]) - tuned.recall) < 0.05
    poor = calibrate(store, index, trees=10, candidates=1, recall=0.999)
    assert poor.recall < tuned.recall  # ten hits from ten candidates: the ranking cannot make up for it


def test_recall_counts_equally_good_hits() -> None:
    def hits(*scores: float) -> list[Hit]:
        return [Hit(rank, f"{rank}", "", "", score) for rank, score in enumerate(scores, start=1)]

    assert recall_of(hits(1.0, 0.9, 0.5), hits(1.0, 0.9, 0.8)) == pytest.approx(2 / 3)
    assert recall_of(hits(1.0, 0.8), hits(1.0, 0.8)) == 1
    assert recall_of([], hits(1.0)) == 0
