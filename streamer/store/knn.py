"""A k-nearest-neighbour graph as an HDF5 file, for tools that want one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.files import PatientFile, published
from streamer.store.store import Store

__all__ = ["writing_graph"]

_CHUNK_ROWS = 1024
_CHUNK_BYTES = 2**20
_NAMES = 10_000


class GraphFile:
    """The graph while it is written.

    Parameters
    ----------
    file : h5py.File
    rows, k : int
    """

    def __init__(self, file: h5py.File, rows: int, k: int) -> None:
        chunks = (max(1, min(_CHUNK_ROWS, rows, _CHUNK_BYTES // (8 * k))), k)
        self._ids = file.create_dataset("ids", (rows, k), np.int64, chunks=chunks, fillvalue=-1)
        self._distances = file.create_dataset("distances", (rows, k), np.float32, chunks=chunks, fillvalue=np.nan)
        self._done = 0

    def append(self, ids: NDArray[np.int64], distances: NDArray[np.float32]) -> None:
        """Write the neighbours of the next queries: ``ids`` and ``distances`` of shape (q, k)."""
        part = slice(self._done, self._done + len(ids))
        self._ids[part], self._distances[part] = ids, distances
        self._done += len(ids)


@contextlib.contextmanager
def writing_graph(
    target: Path, store: Store, queries: Store, query_ids: NDArray[np.int64], k: int, facts: Mapping[str, Any]
) -> Iterator[GraphFile]:
    """Write a graph; it gets its name when it is whole.

    The file holds ``/ids`` (q, k) int64 and ``/distances`` (q, k) float32, nearest first, -1 and NaN where there are
    fewer; ``/query/id``, ``/query/key``, ``/query/label`` (q,), which image each line is about; and ``/image/id``,
    ``/image/key``, ``/image/label`` (n,), by id, the images that ``/ids`` speaks of.

    Parameters
    ----------
    target : Path
        Replaced if it is there.
    store, queries : Store
        Where the neighbours are, and where the queries.
    query_ids : ndarray of shape (q,), int64
    k : int
    facts : mapping
        Attributes of the file.
    """
    with published(target) as partial:
        disk = PatientFile(partial)
        with contextlib.closing(disk), h5py.File(disk, "w") as file:
            file.attrs.update({"format": 1, "k": k, **facts})
            _write_names(file, "query", queries, [query_ids])
            _write_names(file, "image", store, [store.images()[:, 0]])
            yield GraphFile(file, len(query_ids), k)
            file.close()
            disk.close(sync=True)


def _write_names(file: h5py.File, group: str, store: Store, blocks: Iterable[NDArray[np.int64]]) -> None:
    strings = h5py.string_dtype()
    chunks, most = (_CHUNK_ROWS,), (None,)
    numbers = file.create_dataset(f"{group}/id", (0,), np.int64, chunks=chunks, maxshape=most)
    keys = file.create_dataset(f"{group}/key", (0,), strings, chunks=chunks, maxshape=most)
    labels = file.create_dataset(f"{group}/label", (0,), strings, chunks=chunks, maxshape=most)
    for block in blocks:
        for start in range(0, len(block), _NAMES):
            ids = block[start : start + _NAMES]
            names = store.catalog.names(ids.tolist())
            named = [names.get(number, ("", "", "")) for number in ids.tolist()]
            done = len(numbers)
            columns = (numbers, ids), (keys, [key for key, *_ in named]), (labels, [label for *_, label in named])
            for dataset, values in columns:
                dataset.resize(done + len(ids), axis=0)
                dataset[done:] = values
