"""Photos of the store as queries: what the index answers, what exact search does, what colours alone would."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamer.errors import IndexMissingError, StreamerError
from streamer.evaluation.measures import FIRST, Evaluation, Quality, Shown, expected_by_chance, precision
from streamer.evaluation.photos import PART, Photos
from streamer.images.decode import decode_stream
from streamer.images.histogram import BINS, hsv_histogram
from streamer.images.pixels import DecodeLimits
from streamer.index import Metric
from streamer.records import Decoded, Hit, ImageRef, Progress
from streamer.searcher import Searcher
from streamer.store import Store

__all__ = ["evaluate"]

# Scores of a block of queries against every photo, and the rows read at a time.
_SCORES_BYTES = 64 * 2**20
_ROWS_BYTES = 16 * 2**20
# Float32 scores of the scan against the float64 ones of the hits.
_ROUNDING = 1e-5
_HISTOGRAM_SIDE = 64
_HISTOGRAM_THREADS = 2
_HISTOGRAM_LIMITS = DecodeLimits(max_pixels=100_000_000, max_file_bytes=256 * 2**20, memory_bytes=128 * 2**20)
_MOST_HISTOGRAMS = 100_000
_SHOWN = 5


def evaluate(
    searcher: Searcher,
    *,
    queries: int = 2000,
    k: int = 10,
    exclude: Sequence[str] = (),
    baselines: bool = True,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Measure the answers to photos of the store itself.

    Answers are judged by the metric that the store is searched by: what is nearest by ``search.metric: l2`` is so by
    Euclidean distance.

    Parameters
    ----------
    searcher : Searcher
    queries : int
        How many photos to ask for, drawn with a fixed seed where there are more.
    k : int
        Of recall.
    exclude : sequence of str
        Labels that count neither as queries nor as answers.
    baselines : bool
        Whether to read the photos again for the colour histograms.
    progress : callable, optional

    Returns
    -------
    Evaluation

    Raises
    ------
    IndexMissingError
        If there is no index to measure, or it is damaged.
    StreamerError
        If the store holds fewer than two photos, or no photo of a label that is excluded.
    """
    store = searcher.store
    if searcher.generation is None:
        raise IndexMissingError(f"{store.path}: there is no index to measure; run 'streamer index CONFIG'")
    photos = Photos.of(store, exclude)
    count = len(photos.ids)
    if count < 2:
        raise StreamerError(f"{store.path}: holds {count} photos; two are the least that can be compared")
    same = photos.same()
    by_label = len(photos.names) > 1 and bool((same > 0).any())
    chosen = np.flatnonzero(same > 0) if by_label else np.arange(count)
    if queries < len(chosen):
        drawn = np.random.default_rng(0).choice(len(chosen), queries, replace=False, shuffle=False)
        chosen = chosen[np.sort(drawn)]

    metric = searcher.metric
    recalls: list[float] = []
    answers: list[NDArray[np.float64]] = []
    qualities: list[tuple[float, float, float]] = []
    seconds = 0.0
    for block in _blocks(chosen, count, store.feature_length(store.spec.indexed)):
        features = _features(store, photos.ids[block])
        scores = _scores(store, features, count, metric)
        scores[np.arange(len(block)), block] = -np.inf
        began = time.perf_counter()
        answered = searcher.nearest(list(features), max(k, FIRST) + 1)
        seconds += time.perf_counter() - began
        for place, query, row, hits in zip(block, features, scores, answered, strict=True):
            key = photos.key(store, place)
            recalls.append(_recall([hit for hit in hits if hit.key != key][:k], row, k, _rounding(query, metric)))
            if by_label:
                first = _labelled(searcher, query, key, photos.names, hits)
                answers.append(np.array([photos.names[hit.label] == photos.labels[place] for hit in first], dtype=bool))
                qualities.append(precision(_relevant(row, photos, place)))
        progress("evaluate", len(recalls), len(chosen))

    result = Evaluation(len(chosen), k, float(np.mean(recalls)), len(chosen) / max(seconds, 1e-9))
    result.notes += photos.notes(by_label, same)
    if not by_label:
        return result
    measured = np.array(qualities)
    result.p_at_1 = float(np.mean([each[:1].sum() for each in answers]))
    result.p_at_5 = float(np.mean([each.sum() / FIRST for each in answers]))
    result.exact = Quality(*measured.mean(0).tolist())
    result.baselines["random"] = expected_by_chance(same[chosen], int((photos.labels >= 0).sum()) - 1)
    if baselines:
        _add_histograms(result, store, photos, chosen, progress)
    order = np.argsort(measured[:, 2], kind="stable")
    result.worst = list(_shown(searcher, photos, chosen[order], measured[order, 2]))
    result.best = list(_shown(searcher, photos, chosen[order[::-1]], measured[order[::-1], 2]))
    return result


def _blocks(chosen: NDArray[np.intp], count: int, length: int) -> Iterator[NDArray[np.intp]]:
    """Cut the queries so that neither their features nor their scores take too much."""
    step = max(1, min(_SCORES_BYTES // (4 * count), _ROWS_BYTES // (4 * length)))
    return (chosen[start : start + step] for start in range(0, len(chosen), step))


def _features(store: Store, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    found = store.entries(ids.tolist())
    return store.features_of(store.spec.indexed, [found[number] for number in ids.tolist()])[1]


def _normalised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, np.where(norms == 0, 1, norms), dtype=np.float32)


def _scores(store: Store, queries: NDArray[np.float32], count: int, metric: Metric) -> NDArray[np.float32]:
    """Cosine of each query with every photo, or the distance from it, negative: shape (q, n), float32."""
    output = store.spec.indexed
    scores = np.empty((len(queries), count), np.float32)
    units = _normalised(queries)
    done = 0
    for _, rows in store.blocks(output, max(1, _ROWS_BYTES // (4 * store.feature_length(output)))):
        part = slice(done, done + len(rows))
        scores[:, part] = units @ _normalised(rows).T if metric == "cosine" else -_distances(queries, rows)
        done += len(rows)
    return scores


def _distances(queries: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean distances, shape (q, n); in float32, those between near photos would be lost in the squares."""
    wide, asked = rows.astype(np.float64), queries.astype(np.float64)
    squares = np.einsum("ij,ij->i", asked, asked)[:, None] + np.einsum("ij,ij->i", wide, wide) - 2 * asked @ wide.T
    distances: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0))
    return distances


def _rounding(query: NDArray[np.float32], metric: Metric) -> float:
    """What a score of the scan may be wrong by; distances grow with the features."""
    return _ROUNDING if metric == "cosine" else _ROUNDING * float(np.linalg.norm(query))


def _recall(hits: list[Hit], scores: NDArray[np.float32], k: int, rounding: float) -> float:
    """Share of the k nearest that was found; photos as near as the last of them are as right."""
    wanted = min(k, len(scores) - 1)
    last = float(np.partition(scores, -wanted)[-wanted])
    found = (hit.score if hit.distance is None else -hit.distance for hit in hits)
    return min(1.0, sum(score >= last - rounding for score in found) / wanted)


def _labelled(
    searcher: Searcher, query: NDArray[np.float32], key: str, names: Collection[str], hits: list[Hit]
) -> list[Hit]:
    """The index's first hits with a label that counts, the photo itself left out; `hits` are the first of all."""
    while True:
        counting = [hit for hit in hits if hit.key != key and hit.label in names]
        if len(counting) >= FIRST:
            return counting[:FIRST]
        asked = 4 * len(hits)
        hits = searcher.nearest([query], asked)[0]
        if len(hits) < asked:
            return [hit for hit in hits if hit.key != key and hit.label in names][:FIRST]


def _relevant(scores: NDArray[np.float32], photos: Photos, place: int) -> NDArray[np.bool_]:
    """Whether the photo at each rank carries the query's label. Ties are ranked in the order of the store."""
    counts = np.flatnonzero(photos.labels >= 0)
    order = np.argsort(-scores[counts], kind="stable")[:-1]  # the last is the query itself
    ranked: NDArray[np.bool_] = photos.labels[counts][order] == photos.labels[place]
    return ranked


def _shown(
    searcher: Searcher, photos: Photos, places: NDArray[np.intp], averages: NDArray[np.float64]
) -> Iterator[Shown]:
    """The first queries, one of each label, with what the index answers."""
    seen: set[int] = set()
    for place, average in zip(places, averages, strict=True):
        label = int(photos.labels[place])
        if label not in seen and len(seen) < _SHOWN:
            seen.add(label)
            (entry,) = searcher.store.entries([int(photos.ids[place])]).values()
            (query,) = _features(searcher.store, photos.ids[[place]])
            hits = searcher.nearest([query], FIRST + 1)[0]
            counting = _labelled(searcher, query, entry.key, photos.names, hits)
            yield Shown(entry.path, entry.label, counting, float(average))


def _add_histograms(
    result: Evaluation, store: Store, photos: Photos, chosen: NDArray[np.intp], progress: Progress
) -> None:
    """Rank by colour alone."""
    places = np.flatnonzero(photos.labels >= 0)
    if len(places) > _MOST_HISTOGRAMS:
        result.notes.append(f"no colour histograms: {len(places)} photos are more than {_MOST_HISTOGRAMS}")
        return
    histograms = np.zeros((len(photos.ids), int(np.prod(BINS))), np.float32)
    readable = np.zeros(len(photos.ids), dtype=bool)
    stream = decode_stream(
        _refs(store, photos.ids, places),
        size=(_HISTOGRAM_SIDE, _HISTOGRAM_SIDE),
        threads=_HISTOGRAM_THREADS,
        lookahead_images=_HISTOGRAM_THREADS * 4,
        limits=_HISTOGRAM_LIMITS,
    )
    with contextlib.closing(stream):
        for place, decoded in zip(places, stream, strict=True):
            if isinstance(decoded, Decoded):
                histograms[place] = hsv_histogram(decoded.pixels)
                readable[place] = True
            progress("histograms", int(np.searchsorted(places, place)) + 1, len(places))
    if not readable[places].all():
        result.notes.append(f"{(~readable[places]).sum()} photos cannot be read any more: no colour histogram of them")
    seen = replace(photos, labels=np.where(readable, photos.labels, -1))
    asked = chosen[seen.same()[chosen] > 0]
    if not len(asked):
        return
    qualities = []
    for block in _blocks(asked, len(photos.ids), histograms.shape[1]):
        scores = histograms[block] @ histograms.T
        scores[np.arange(len(block)), block] = -np.inf
        qualities += [precision(_relevant(row, seen, place)) for place, row in zip(block, scores, strict=True)]
    result.baselines["colour_histogram"] = Quality(*np.array(qualities).mean(0).tolist())


def _refs(store: Store, ids: NDArray[np.int64], places: NDArray[np.intp]) -> Iterator[ImageRef]:
    for start in range(0, len(places), PART):
        numbers = ids[places[start : start + PART]].tolist()
        entries = store.entries(numbers)
        for number in numbers:
            entry = entries[number]
            yield ImageRef(entry.key, entry.path, 0, 0, entry.label)
