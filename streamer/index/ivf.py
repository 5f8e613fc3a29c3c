"""An inverted file: the vectors in clusters, of which a query looks at the nearest only.

``centroids.npy`` (clusters, dimension) and ``vectors.npy`` (rows, dimension), float32, the vectors of one cluster after
those of another; cluster c takes the positions ``starts[c]`` to ``starts[c + 1]`` of ``starts.npy``.

Jegou, Douze, Schmid 2011, "Product Quantization for Nearest Neighbor Search", section IV, without the quantization: the
answer is ranked at full precision anyway.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import IndexMissingError
from streamer.index.arrays import MappedArray, writing_array

__all__ = ["IvfIndex", "Spool", "write_ivf"]

_BLOCK_BYTES = 4 * 2**20
# Scores, and the places they are partitioned by, of the queries that share one pass.
_SCORES_BYTES = 32 * 2**20
_SCORE_BYTES = 12
# So many of the largest are found faster one after the other.
_FEW = 16
# So many queries are multiplied with a cluster faster one after the other, while it is in the cache: BLAS copies a
# matrix before it multiplies it with another (of 180 x 128 with 3 vectors: 12 microseconds in the place of 24).
_FEW_QUERIES = 6


class Spool:
    """Rows on disk, while an index is made of them.

    Parameters
    ----------
    path : Path
    dimension : int
        Length of a row.
    dtype : {"<f4", "<i8"}
        Vectors, or the places of images.
    """

    def __init__(self, path: Path, dimension: int, dtype: str = "<f4") -> None:
        self.path = path
        self.dimension = dimension
        self.dtype = np.dtype(dtype)
        self.count = 0

    def fill(self, blocks: Iterable[NDArray[Any]]) -> None:
        """Write blocks of shape (n, dimension), one after the other."""
        with self.filling() as append:
            for block in blocks:
                append(block)

    @contextlib.contextmanager
    def filling(self) -> Iterator[Callable[[NDArray[Any]], None]]:
        """Give a function that appends blocks of shape (n, dimension)."""
        with self.path.open("wb") as file:

            def append(block: NDArray[Any]) -> None:
                file.write(np.ascontiguousarray(block, dtype=self.dtype).tobytes())
                self.count += len(block)

            yield append

    def run(self, start: int, count: int) -> NDArray[Any]:
        """So many rows that stand together, or as many as there are: shape (n, dimension)."""
        n_bytes = self.dimension * self.dtype.itemsize
        count = min(count, self.count - start)
        return np.fromfile(self.path, self.dtype, count * self.dimension, offset=start * n_bytes).reshape(count, -1)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Rows by position: shape (n, dimension). Not through a map, most of which would be held."""
        found = np.empty((len(positions), self.dimension), self.dtype)
        with self.path.open("rb", buffering=0) as file:
            for row, position in zip(found, positions.tolist(), strict=True):
                file.seek(position * row.nbytes)
                if file.readinto(row.data) != row.nbytes:
                    raise OSError(f"{self.path}: ends before row {position}")
        return found

    def batches(self, rows: int, total: int, seed: int) -> Iterator[NDArray[Any]]:
        """Batches drawn at random, without replacement until all have had their turn, `total` rows in all."""
        chance = np.random.default_rng(seed)
        while total > 0:
            order = chance.permutation(self.count)[:total]
            total -= len(order)
            for start in range(0, len(order), rows):
                yield self.rows(np.sort(order[start : start + rows]))


def write_ivf(
    folder: Path, spool: Spool, centroids: NDArray[np.float32], check_stop: Callable[[], None]
) -> NDArray[np.int64]:
    """Write the files of an inverted file.

    Parameters
    ----------
    folder : Path
    spool : Spool
    centroids : ndarray of shape (clusters, dimension), float32
        Those that no vector is nearest to are left out.
    check_stop : callable
        Called now and then; may raise.

    Returns
    -------
    ndarray of shape (rows,), int64
        Which vector of the spool stands at each position.
    """
    labels = np.empty(spool.count, dtype=np.int32)
    halves = _halves(centroids)
    step = max(1, _BLOCK_BYTES // (4 * max(centroids.shape)))
    for start in range(0, spool.count, step):
        labels[start : start + step] = np.argmax(spool.run(start, step) @ centroids.T - halves, axis=1)
        check_stop()
    sizes = np.bincount(labels, minlength=len(centroids))
    order: NDArray[np.int64] = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int64)
    with writing_array(folder / "centroids.npy", "<f4", (int((sizes > 0).sum()), spool.dimension)) as append:
        append(centroids[sizes > 0])
    with writing_array(folder / "starts.npy", "<i8", starts.shape) as append:
        append(starts)
    with writing_array(folder / "vectors.npy", "<f4", (spool.count, spool.dimension)) as append:
        for start in range(0, spool.count, step):
            append(spool.rows(order[start : start + step]))
    return order


class IvfIndex:
    """An inverted file opened for reading; the system's page cache holds the vectors, not the process.

    Parameters
    ----------
    folder : Path
    n_items : int
        How many vectors it must hold.

    Raises
    ------
    IndexMissingError
        If a file is missing or damaged, or holds another number of vectors.
    """

    def __init__(self, folder: Path, n_items: int) -> None:
        try:
            self.centroids: NDArray[np.float32] = np.load(folder / "centroids.npy", allow_pickle=False)
            self.starts: NDArray[np.int64] = np.load(folder / "starts.npy", allow_pickle=False)
            self._mapped = MappedArray(folder / "vectors.npy")
        except (OSError, ValueError, EOFError) as error:
            raise IndexMissingError(f"{folder}: the index does not open ({error}); run 'streamer index'") from error
        wanted = {"starts": (len(self.centroids) + 1,), "vectors": (n_items, *self.centroids.shape[1:])}
        found = {"starts": self.starts.shape, "vectors": self._mapped.array.shape}
        if found != wanted or self.centroids.ndim != 2 or self.starts[-1] != n_items:
            self._mapped.close()  # Windows removes no folder with a mapped file in it
            raise IndexMissingError(f"{folder}: holds {found['vectors']} vectors, not {n_items}; run 'streamer index'")
        self._vectors: NDArray[np.float32] = self._mapped.array
        self.full_effort = len(self.centroids)
        self._halves = _halves(self.centroids)

    def first_effort(self, count: int) -> int:
        """Clusters to look at; see `CandidateIndex`."""
        return 1

    def candidates(
        self, queries: NDArray[np.float32], count: int, effort: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and cosines of the nearest vectors; see `CandidateIndex`."""
        positions = np.full((len(queries), count), -1, dtype=np.int64)
        cosines = np.full((len(queries), count), -np.inf, dtype=np.float32)
        step = max(1, _SCORES_BYTES // (_SCORE_BYTES * self.full_effort))
        for first in range(0, len(queries), step):
            clusters = self.nearest_clusters(queries[first : first + step], effort)
            for block in _blocks((self.starts[clusters + 1] - self.starts[clusters]).sum(axis=1)):
                part = slice(first + block.start, first + block.stop)
                found, scores = self._among(queries[part], count, clusters[block])
                positions[part, : found.shape[1]], cosines[part, : found.shape[1]] = found, scores
        return positions, cosines

    def _among(
        self, queries: NDArray[np.float32], count: int, clusters: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Shape (q, <= count): each cluster is read once, for all the queries that look into it."""
        begins, sizes = self.starts[clusters], self.starts[clusters + 1] - self.starts[clusters]
        ends = np.cumsum(sizes, axis=1)  # where a cluster's scores end in the line of the query
        width = int(ends[:, -1].max())
        # No cosine is below -1. One number for all that is missing would make the partition below slow.
        scores = np.tile(np.linspace(-3, -2, width, dtype=np.float32), (len(queries), 1))
        lines = width * np.arange(len(queries))[:, None]
        flat, starts = scores.ravel(), (lines + ends - sizes).ravel()
        order = np.argsort(clusters, axis=None, kind="stable")
        owners, places = (order // clusters.shape[1]).tolist(), starts[order].tolist()
        first_rows, lengths = begins.ravel()[order].tolist(), sizes.ravel()[order].tolist()
        groups = np.flatnonzero(np.diff(clusters.ravel()[order], prepend=-1)).tolist()
        for first, last in zip(groups, [*groups[1:], len(order)], strict=True):
            begin, size = first_rows[first], lengths[first]
            vectors = self._vectors[begin : begin + size]
            if last - first <= _FEW_QUERIES:
                for owner, place in zip(owners[first:last], places[first:last], strict=True):
                    np.dot(vectors, queries[owner], out=flat[place : place + size])
                continue
            for place, line in zip(places[first:last], queries[owners[first:last]] @ vectors.T, strict=True):
                flat[place : place + size] = line
        self._mapped.touched(sum(lengths[first] for first in groups) * self._vectors.itemsize * self._vectors.shape[1])
        count = min(count, width)
        best = np.argpartition(scores, width - count, axis=1)[:, width - count :]
        near = np.take_along_axis(scores, best, axis=1)
        best = np.take_along_axis(best, np.argsort(-near, axis=1, kind="stable"), axis=1)
        near = np.take_along_axis(scores, best, axis=1)
        which = np.searchsorted((ends + lines).ravel(), best + lines, side="right")
        which = which.clip(max=ends.size - 1)  # beyond the end of the last line
        positions = best + lines - starts[which] + begins.ravel()[which]
        missing = near < -1.5
        return np.where(missing, -1, positions), np.where(missing, np.float32(-np.inf), near)

    def nearest_clusters(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Clusters whose centres are nearest to each query: shape (q, count), int64, in ascending order."""
        scores = queries @ self.centroids.T - self._halves
        count = min(count, len(self.centroids))
        if count > _FEW:
            nearest = np.argpartition(scores, scores.shape[1] - count, axis=1)[:, scores.shape[1] - count :]
        else:
            nearest = np.empty((len(queries), count), dtype=np.int64)
            for column in range(count):
                nearest[:, column] = scores.argmax(axis=1)
                scores[np.arange(len(queries)), nearest[:, column]] = -np.inf
        found: NDArray[np.int64] = np.sort(nearest, axis=1)
        return found

    def members(self, cluster: int, part: slice = slice(None)) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions of a cluster's vectors, shape (n,), int64, and the vectors, shape (n, dimension), float32.

        Parameters
        ----------
        cluster : int
        part : slice
            Which of them, all by default: a cluster may be as large as the library.
        """
        rows = range(*self.starts[cluster : cluster + 2].tolist())[part]
        vectors = np.array(self._vectors[rows.start : rows.stop : rows.step])
        self._mapped.touched(vectors.nbytes)
        return np.arange(rows.start, rows.stop, rows.step), vectors

    def close(self) -> None:
        """Unmap the files."""
        self._vectors = np.empty((0, 0), np.float32)
        self._mapped.close()


def _blocks(rows: NDArray[np.int64]) -> Iterator[slice]:
    """Cut queries that look at so many rows each, as many as the widest of a block, into blocks of bounded size.

    Clusters may be of very different sizes: nine photos in ten may be black.
    """
    start, widest = 0, 0
    for number, width in enumerate(rows.tolist()):
        widest = max(widest, width)
        if number > start and (number + 1 - start) * widest * _SCORE_BYTES > _SCORES_BYTES:
            yield slice(start, number)
            start, widest = number, width
    yield slice(start, len(rows))


def _halves(centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """What turns scalar products into an order by Euclidean distance."""
    halves: NDArray[np.float32] = np.einsum("ij,ij->i", centroids, centroids) / 2
    return halves
