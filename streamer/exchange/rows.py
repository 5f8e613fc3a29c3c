"""The live images of a store in blocks, features and names together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.records import ExportBlock
from streamer.store import ShardMissingError, Store

__all__ = ["export_blocks"]

_BLOCK_BYTES = 8 * 2**20
# Names are held in blocks, too, and as fixed-width text each is as long as the longest.
_MOST_ROWS = 4096


def export_blocks(store: Store, outputs: Sequence[str], ids: NDArray[np.int64] | None = None) -> Iterator[ExportBlock]:
    """All live images, by id, or those that are asked for.

    Those of the moment it begins: an image that goes meanwhile is left out, one that comes is not in it.

    Parameters
    ----------
    store : Store
    outputs : sequence of str
    ids : ndarray of shape (n,), int64, optional

    Yields
    ------
    ExportBlock
        Of some megabytes, or one image.
    """
    if ids is None:
        ids = store.ids()
    row_bytes = 4 * sum(store.feature_length(output) for output in outputs)
    step = max(1, min(_MOST_ROWS, _BLOCK_BYTES // row_bytes))
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        try:
            yield _read(store, outputs, part)
        except ShardMissingError:  # compact has just moved its rows
            yield _read(store, outputs, part)


def _read(store: Store, outputs: Sequence[str], ids: NDArray[np.int64]) -> ExportBlock:
    with store.catalog.snapshot():
        places = store.locate(ids)
        found = places[:, 0]
        names = store.catalog.names(found.tolist())
        features = {
            output: store.rows(output, places[:, 1], places[:, 2]).reshape(-1, *store.spec.outputs[output])
            for output in outputs
        }
    keys, paths, labels = (
        zip(*(names[number] for number in found.tolist()), strict=True) if len(found) else ((), (), ())
    )
    return ExportBlock(found, list(keys), list(labels), list(paths), features)
