"""Features in, hits out: candidates from the index, their rows from the store, ranking by full-precision cosine.

Images that are newer than the index are scanned beside it, all of them: an answer is never older than the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from streamer.index import AnnoyIndex, best, cosines, exact_candidates
from streamer.records import Hit
from streamer.reduction import Reducer
from streamer.store import Entry, Store

__all__ = ["ApproximateIndex", "nearest_approximate", "nearest_exact", "newer_candidates"]

# A scan holds a block of rows, its normalised copy and its scores.
_SCAN_BLOCK_BYTES = 16 * 2**20


class ApproximateIndex:
    """Reducer, index file and ids of one generation, opened together.

    Parameters
    ----------
    reducer_path, annoy_path : Path
    ids : ndarray of shape (n,), int64
        Image id at each position of the index.
    """

    def __init__(self, reducer_path: Path, annoy_path: Path, ids: NDArray[np.int64]) -> None:
        self.ids = ids
        self._reducer = Reducer.load(reducer_path)
        self._annoy = AnnoyIndex(annoy_path, len(self._reducer.components), len(ids))

    def __enter__(self) -> ApproximateIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the files."""
        self._annoy.close()
        self.ids = np.empty(0, np.int64)

    def candidates(
        self, query: NDArray[np.float32], count: int, search_k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids near to a query, nearest first, and their cosines in the reduced space.

        Parameters
        ----------
        query : ndarray of shape (d,), float32
            Full-precision features.
        count, search_k : int
            How many candidates, and how many nodes of the forest to look at.
        """
        positions, scores = self._annoy.candidates(self.reduced(query[None])[0], count, search_k)
        return self.ids[positions], scores

    def reduced(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows of shape (n, d), float32, in the space that is indexed."""
        return self._reducer.transform(rows)


def nearest_approximate(
    store: Store,
    index: ApproximateIndex,
    query: NDArray[np.float32],
    k: int,
    *,
    candidates: int,
    search_k: int,
    rerank: bool = True,
    beside: Sequence[int] = (),
) -> list[Hit]:
    """The k images nearest to a query, by way of the index.

    Parameters
    ----------
    store : Store
    index : ApproximateIndex
    query : ndarray of shape (d,), float32
        Features of the indexed output, flattened.
    k : int
    candidates : int
        How many the index proposes; raised to `k`, and doubled when images deleted since leave too few.
    search_k : int
        Nodes of the forest to look at, for that many candidates.
    rerank : bool
        Rank by the cosine of the stored features. Otherwise by that of the reduced vectors.
    beside : sequence of int
        Ids of further candidates, that the index does not hold.

    Returns
    -------
    list of Hit
        Best first, ties by key.
    """
    asked = max(k, candidates)
    while True:
        ids, scores = index.candidates(query, asked, max(search_k, search_k * asked // max(1, candidates)))
        live = store.entries(ids.tolist())
        if len(live) >= k or asked >= len(index.ids):
            break
        asked *= 2
    newer = list(store.entries(beside).values())
    if rerank:
        return _ranked(store, query, [*live.values(), *newer], k)
    by_id = dict(zip(ids.tolist(), scores.tolist(), strict=True))
    entries = list(live.values())
    known = np.array([by_id[entry.id] for entry in entries])
    _, rows = store.features_of(store.spec.indexed, newer)
    return _hits([*entries, *newer], np.append(known, cosines(index.reduced(query[None])[0], index.reduced(rows))), k)


def newer_candidates(store: Store, queries: NDArray[np.float32], newest_id: int, k: int) -> list[list[int]]:
    """Ids of the images newer than an index that are nearest to each query, by a scan of all of them.

    Parameters
    ----------
    store : Store
    queries : ndarray of shape (q, d), float32
    newest_id : int
        Of the index.
    k : int

    Returns
    -------
    list of list of int
        For each query, at least `k` where there are as many.
    """
    output = store.spec.indexed
    block_rows = max(1, _SCAN_BLOCK_BYTES // (4 * store.feature_length(output)))
    found: list[list[int]] = exact_candidates(queries, store.blocks(output, block_rows, newest_id), k).tolist()
    return found


def nearest_exact(store: Store, queries: NDArray[np.float32], k: int) -> list[list[Hit]]:
    """The k images nearest to each query, by a scan of all of them.

    Parameters
    ----------
    store : Store
    queries : ndarray of shape (q, d), float32
    k : int

    Returns
    -------
    list of list of Hit
        For each query, best first, ties by key.
    """
    output = store.spec.indexed
    block_rows = max(1, _SCAN_BLOCK_BYTES // (4 * store.feature_length(output)))
    found = exact_candidates(queries, store.blocks(output, block_rows), k)
    return [
        _ranked(store, query, list(store.entries(ids.tolist()).values()), k)
        for query, ids in zip(queries, found, strict=True)
    ]


def _ranked(store: Store, query: NDArray[np.float32], entries: Sequence[Entry], k: int) -> list[Hit]:
    output = store.spec.indexed
    step = max(1, _SCAN_BLOCK_BYTES // (4 * store.feature_length(output)))  # rows may be megabytes each
    scores = [
        cosines(query, store.features_of(output, entries[start : start + step])[1])
        for start in range(0, len(entries), step)
    ]
    return _hits(entries, np.concatenate(scores) if scores else np.empty(0), k)


def _hits(entries: Sequence[Entry], scores: NDArray[np.float64], k: int) -> list[Hit]:
    places = best(scores, [entry.key for entry in entries], k)
    return [
        Hit(rank, entries[place].key, entries[place].path, entries[place].label, float(scores[place]))
        for rank, place in enumerate(places, start=1)
    ]
