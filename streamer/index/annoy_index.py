"""Annoy: a forest of random hyperplanes, built on disk and read through a memory map."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import EngineUnavailableError, IndexMissingError, StoreWriteError
from streamer.files import fsync_file

__all__ = ["AnnoyIndex", "annoy_installed", "build_annoy", "require_annoy"]


def annoy_installed() -> bool:
    """Whether the annoy package can be imported."""
    try:
        import annoy  # noqa: F401
    except ImportError:
        return False
    return True


def require_annoy() -> None:
    """Raise `EngineUnavailableError`, saying what to do, unless annoy can be imported."""
    if not annoy_installed():
        raise EngineUnavailableError(
            "the annoy package is not installed; install it (pip needs a C++ compiler for it; conda has it as "
            "'python-annoy'), or use exact search: index.kind: exact in the config, --exact on the command line"
        )


def _annoy(dimension: int) -> Any:
    require_annoy()
    import annoy

    return annoy.AnnoyIndex(dimension, "angular")


def build_annoy(path: Path, vectors: Iterable[NDArray[np.float32]], dimension: int, *, trees: int, seed: int) -> int:
    """Build an index file.

    Parameters
    ----------
    path : Path
        The file to write. Nodes go to it as they are made, through a memory map, not to the process.
    vectors : iterable of ndarray of shape (block, dimension), float32
        Their positions count from 0.
    dimension : int
    trees : int
    seed : int
        The same vectors and seed give the same file.

    Returns
    -------
    int
        Number of vectors.
    """
    index = _annoy(dimension)
    with _file_errors(path):
        index.on_disk_build(str(path))
    index.set_seed(seed)
    position = 0
    for block in vectors:
        with _file_errors(path):
            for vector in block:
                index.add_item(position, vector)
                position += 1
    with _file_errors(path):
        # One job: with several, the order of the nodes depends on which thread came first.
        index.build(trees, n_jobs=1)
        index.unload()
    fsync_file(path)
    _verify(path, dimension, position)
    return position


def _verify(path: Path, dimension: int, n_items: int) -> None:
    """Annoy says nothing when its file cannot grow; the nodes that it lost are all zero then.

    A node is the number of its descendants, two numbers of children or a norm, and a vector, each of four bytes.
    """
    words = 3 + dimension
    numbers = np.memmap(path, dtype=np.int32, mode="r")
    if len(numbers) % words or len(numbers) < words * n_items or (numbers[::words] < 1).any():
        raise StoreWriteError(f"{path}: the disk lost part of what was written; the index before stays as it is")


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Annoy has no other class for a disk that is full
        raise StoreWriteError(f"{path}: cannot be written ({error}); the index before stays as it is") from error


class AnnoyIndex:
    """An index file opened for reading; its pages are shared with every process that reads it.

    Parameters
    ----------
    path : Path
    dimension : int
        Length of the vectors.
    n_items : int
        How many it must hold.

    Raises
    ------
    IndexMissingError
        If the file is missing, damaged, or holds another number of vectors.
    """

    def __init__(self, path: Path, dimension: int, n_items: int) -> None:
        self._index = _annoy(dimension)
        try:
            self._index.load(str(path))
        except OSError as error:
            raise IndexMissingError(f"{path}: the index does not open ({error}); run 'streamer index' again") from error
        if self._index.get_n_items() != n_items:
            found = self._index.get_n_items()
            self._index.unload()
            raise IndexMissingError(f"{path}: holds {found} vectors, not {n_items}; run 'streamer index' again")

    def candidates(
        self, query: NDArray[np.float32], count: int, search_k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions of the nearest vectors by angle, nearest first, and their cosines to the query.

        Parameters
        ----------
        query : ndarray of shape (dimension,), float32
        count : int
            How many, at most.
        search_k : int
            Nodes to look at; more find more.

        Returns
        -------
        positions : ndarray of shape (<= count,), int64
        cosines : ndarray of shape (<= count,), float64
        """
        positions, distances = self._index.get_nns_by_vector(query, count, search_k, include_distances=True)
        # Annoy's angular distance is the Euclidean distance of the unit vectors: sqrt(2 - 2 cos).
        return np.array(positions, dtype=np.int64), 1.0 - np.square(np.array(distances, dtype=np.float64)) / 2.0

    def close(self) -> None:
        """Unmap the file."""
        self._index.unload()
