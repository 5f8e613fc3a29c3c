"""A k-nearest-neighbour graph as an HDF5 file, for tools that want one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.errors import StoreWriteError
from streamer.files import PatientFile, published, require_space
from streamer.store.store import Store

__all__ = ["writing_graph"]

_CHUNK_ROWS = 1024
_CHUNK_BYTES = 2**20
_NAMES = 10_000
# An id and a distance; an id, a key and a label, which lie in heaps of their own: 134 bytes with keys of 45 letters.
_NEIGHBOUR_BYTES, _IMAGE_BYTES = 12, 200


class GraphFile:
    """The graph while it is written.

    Parameters
    ----------
    file : h5py.File
    check : callable
        Raises what the disk has answered.
    rows, k : int
    """

    def __init__(self, file: h5py.File, check: Callable[[], None], rows: int, k: int) -> None:
        chunks = (max(1, min(_CHUNK_ROWS, rows, _CHUNK_BYTES // (8 * k))), k)
        self._ids = file.create_dataset("ids", (rows, k), np.int64, chunks=chunks, fillvalue=-1)
        self._distances = file.create_dataset("distances", (rows, k), np.float32, chunks=chunks, fillvalue=np.nan)
        self._check = check
        self._done = 0

    def append(self, ids: NDArray[np.int64], distances: NDArray[np.float32]) -> None:
        """Write the neighbours of the next queries: ``ids`` and ``distances`` of shape (q, k).

        Raises
        ------
        StoreWriteError
            If the disk is full, or fails.
        """
        part = slice(self._done, self._done + len(ids))
        self._ids[part], self._distances[part] = ids, distances
        self._done += len(ids)
        self._check()


@contextlib.contextmanager
def writing_graph(
    target: Path,
    images: tuple[Store, NDArray[np.int64]],
    queries: tuple[Store, NDArray[np.int64]],
    k: int,
    facts: Mapping[str, Any],
) -> Iterator[GraphFile]:
    """Write a graph; it gets its name when it is whole.

    The file holds ``/ids`` (q, k) int64 and ``/distances`` (q, k) float32, nearest first, -1 and NaN where there are
    fewer; ``/query/id``, ``/query/key``, ``/query/label`` (q,), which image each line is about; and ``/image/id``,
    ``/image/key``, ``/image/label`` (n,), by id, the images that ``/ids`` speaks of.

    Parameters
    ----------
    target : Path
        Replaced if it is there.
    images, queries : (Store, ndarray of shape (n,), int64)
        Which images may be neighbours, and which are the queries: the store they are in, and their ids.
    k : int
    facts : mapping
        Attributes of the file.

    Raises
    ------
    StoreWriteError
        If the disk has no room for it, is full, or fails.
    """
    rows = len(queries[1])
    n_bytes = rows * k * _NEIGHBOUR_BYTES + (rows + len(images[1])) * _IMAGE_BYTES
    require_space(target.parent, n_bytes, f"a graph of {rows} images with {k} neighbours each")
    with published(target) as partial:
        disk = PatientFile(partial)
        with contextlib.closing(disk), h5py.File(disk, "w") as file:
            file.attrs.update({"format": 1, "k": k, **facts})
            _write_names(file, "query", *queries)
            _write_names(file, "image", *images)

            def check() -> None:
                with _telling(target):
                    disk.check()

            check()
            yield GraphFile(file, check, rows, k)
            file.close()
            with _telling(target):
                disk.close(sync=True)


@contextlib.contextmanager
def _telling(target: Path) -> Iterator[None]:
    """Say which file it is that a disk that is full or fails is in the way of."""
    try:
        yield
    except OSError as error:
        raise StoreWriteError(
            f"{target}: cannot be written ({error.strerror or error}), and was given up. Free some space, or write to "
            "another disk"
        ) from error


def _write_names(file: h5py.File, group: str, store: Store, ids: NDArray[np.int64]) -> None:
    strings = h5py.string_dtype()
    chunks = (max(1, min(_CHUNK_ROWS, len(ids))),)
    file.create_dataset(f"{group}/id", data=ids, chunks=chunks)
    keys = file.create_dataset(f"{group}/key", ids.shape, strings, chunks=chunks)
    labels = file.create_dataset(f"{group}/label", ids.shape, strings, chunks=chunks)
    for start in range(0, len(ids), _NAMES):
        part = ids[start : start + _NAMES].tolist()
        names = store.catalog.names(part)
        named = [names.get(number, ("", "", "")) for number in part]
        keys[start : start + len(part)] = [key for key, *_ in named]
        labels[start : start + len(part)] = [label for *_, label in named]
