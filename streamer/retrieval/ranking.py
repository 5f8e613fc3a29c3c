"""Candidates in, the nearest out: ranked by the features in the store, ties by key, none that is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.index import Metric, cosines, distances
from streamer.records import Hit
from streamer.store import Entry, Store

__all__ = ["Neighbour", "Pool", "locate", "pool_of", "rank", "scan_rows", "score", "score_entries", "to_hits"]

# Rows that are held at a time, and again as float64: they stay in the cache of one core.
_ROWS_BYTES = 2**20
# A scan holds a block of rows, its normalised copy and its scores.
_SCAN_BYTES = 16 * 2**20


class Neighbour(NamedTuple):
    """An image near to a query.

    Attributes
    ----------
    entry : Entry
    score : float
        Cosine of its features and the query's.
    distance : float or None
        Their Euclidean distance, where it was what they were ranked by.
    """

    entry: Entry
    score: float
    distance: float | None = None


@dataclass(frozen=True)
class Pool:
    """Candidates of several queries, those of one after those of another.

    Attributes
    ----------
    owners : ndarray of shape (n,), int
        Which query each belongs to, in ascending order.
    images : ndarray of shape (n, 3), int64
        Id, shard and row of each.
    """

    owners: NDArray[np.intp]
    images: NDArray[np.int64]


def scan_rows(store: Store, output: str) -> int:
    """Rows in a block of a scan."""
    return max(1, _SCAN_BYTES // (4 * store.feature_length(output)))


def pool_of(store: Store, ids: NDArray[np.int64]) -> Pool:
    """Candidates by id: shape (q, m), int64, -1 where there is none. Those that are gone are left out."""
    owners, columns = np.nonzero(ids >= 0)
    there, images = locate(store, ids[owners, columns])
    return Pool(owners[there], images)


def locate(store: Store, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Find images by id, in any order, an id as often as one likes.

    Returns
    -------
    there : ndarray of shape (n,), bool
        Whether it is still there.
    images : ndarray of shape (m, 3), int64
        Id, shard and row of those that are.
    """
    found = store.locate(np.unique(ids))
    places = np.searchsorted(found[:, 0], ids)
    there = places < len(found)
    there[there] = found[places[there], 0] == ids[there]
    return there, found[places[there]]


def score(store: Store, queries: NDArray[np.float32], pool: Pool, metric: Metric = "cosine") -> NDArray[np.float64]:
    """Score candidates by the features of the indexed output: shape (n,), float64, higher is nearer.

    Parameters
    ----------
    store : Store
    queries : ndarray of shape (q, d), float32
    pool : Pool
    metric : {"cosine", "l2"}
    """
    output = store.spec.indexed
    step = max(1, _ROWS_BYTES // (4 * store.feature_length(output)))  # rows may be megabytes each
    scores = np.empty(len(pool.owners))
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        rows = store.rows(output, pool.images[part, 1], pool.images[part, 2])
        if metric == "cosine":
            scores[part] = cosines(queries, pool.owners[part], rows)
        else:
            scores[part] = -distances(queries, pool.owners[part], rows)
    return scores


def score_entries(store: Store, query: Entry, entries: Sequence[Entry]) -> list[Neighbour]:
    """Cosines between one image of a store and others, in the order given."""
    _, features = store.features_of(store.spec.indexed, [query])
    images = np.array([(entry.id, entry.shard, entry.row) for entry in entries], dtype=np.int64).reshape(-1, 3)
    scores = score(store, features, Pool(np.zeros(len(images), np.intp), images)).tolist()
    return [Neighbour(entry, value) for entry, value in zip(entries, scores, strict=True)]


def rank(
    store: Store, count: int, pool: Pool, scores: NDArray[np.float64], k: int
) -> tuple[list[list[Neighbour]], NDArray[np.intp]]:
    """Pick the k best of each query: best first, ties by key, images that are gone left out.

    Only the names of those are read from the catalog, and of as many more as it takes when some are gone.

    Parameters
    ----------
    store : Store
    count : int
        Number of queries.
    pool : Pool
    scores : ndarray of shape (n,), float64
    k : int

    Returns
    -------
    neighbours : list of list of Neighbour
    short : ndarray of int
        Queries of which fewer than k candidates are still there.
    """
    order = np.lexsort((-scores, pool.owners))
    images, values = pool.images[order], scores[order]
    bounds = np.searchsorted(pool.owners, np.arange(count + 1))
    found: list[list[Neighbour]] = [[] for _ in range(count)]
    short: list[int] = []
    pending, wanted = np.arange(count), k
    while len(pending):
        begins, ends = bounds[pending], bounds[pending + 1]
        heads = _heads(values, begins, ends, wanted)
        parts = [images[begin:end].tolist() for begin, end in zip(begins.tolist(), heads, strict=True)]
        names = store.catalog.names(sorted({number for part in parts for number, _, _ in part}))
        again = []
        for query, begin, end, head, part in zip(
            pending.tolist(), begins.tolist(), ends.tolist(), heads, parts, strict=True
        ):
            scored = values[begin:head].tolist()
            live = [
                Neighbour(Entry(number, *names[number], shard, row), value)
                for (number, shard, row), value in zip(part, scored, strict=True)
                if number in names
            ]
            if len(live) < k and head < end:
                again.append(query)
                continue
            if len(live) < k:
                short.append(query)
            if len(set(scored)) < len(scored):
                live.sort(key=lambda each: (-each.score, each.entry.key))
            found[query] = live[:k]
        pending, wanted = np.array(again, dtype=np.intp), 4 * wanted
    return found, np.array(short, dtype=np.intp)


def _heads(values: NDArray[np.float64], begins: NDArray[np.intp], ends: NDArray[np.intp], count: int) -> list[int]:
    """Where the best `count` of each stretch of falling values end, and all that equal the last of them."""
    heads = np.minimum(begins + count, ends)
    inside = np.flatnonzero(heads < ends)
    for place in inside[values[heads[inside]] == values[heads[inside] - 1]].tolist():  # a tie at the cut
        stretch = -values[begins[place] : ends[place]]
        heads[place] = begins[place] + np.searchsorted(stretch, -values[heads[place] - 1], side="right")
    return [int(head) for head in heads]


def to_hits(neighbours: Sequence[Neighbour]) -> list[Hit]:
    """Give a query's neighbours the form of an answer."""
    return [
        Hit(rank, each.entry.key, each.entry.path, each.entry.label, each.score, each.distance)
        for rank, each in enumerate(neighbours, start=1)
    ]
