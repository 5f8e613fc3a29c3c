"""Rows of a store as queries, in blocks that fit into the budget."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streamer.neighbours import Neighbours
from streamer.store import ShardMissingError, Store

__all__ = ["queries_at_once", "query_blocks"]

# Of the budget: the queries, a normalised copy, what is kept of each while all rows pass by, and what was found.
_SHARE = 0.125
# A neighbour and its names, in a list: 250 to 390 bytes were measured.
_HIT_BYTES = 400
# Beside an index, more at a time bring nothing.
_BY_INDEX = 512


def queries_at_once(neighbours: Neighbours, k: int) -> int:
    """How many queries, with k neighbours each, fit into their share of the budget."""
    length = neighbours.store.feature_length(neighbours.store.spec.indexed)
    return max(1, int(_SHARE * neighbours.budget_bytes) // (4 * length + _HIT_BYTES * k))


def query_blocks(
    store: Store, ids: NDArray[np.int64], neighbours: Neighbours, k: int, *, scans: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Ids and features of the images of a store with these ids, shapes (n,) and (n, d); those gone are left out.

    Where every block takes a scan of its own, blocks are as large as the budget allows with k neighbours for each.
    """
    output = store.spec.indexed
    rows = queries_at_once(neighbours, k)
    step = rows if scans else min(rows, _BY_INDEX)
    for start in range(0, len(ids), step):
        try:
            block = _read(store, output, ids[start : start + step])
        except ShardMissingError:  # compact has just moved its rows
            block = _read(store, output, ids[start : start + step])
        yield block


def _read(store: Store, output: str, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    with store.catalog.snapshot():
        located = store.locate(ids)
        return located[:, 0], store.rows(output, located[:, 1], located[:, 2])
