"""Many rows of a shard, read from its beginning to its end: straight from the file where they lie there as they are.

HDF5 checks each chunk as it reads: 0.8 GB/s where the file itself comes at 7, from the system's cache. Training reads
everything anew in each epoch, and leaves the chunks' checksums to `streamer check`, as reading single rows through a
map does. Rows that are stored in another form, compressed ones, are read by HDF5, and checked.
"""

from __future__ import annotations

import contextlib
import os
from io import RawIOBase
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.store.mapped import chunk_offsets

__all__ = ["DirectRows", "read_blocks"]

# What HDF5 is asked for at a time.
_BLOCK_BYTES = 2**20


class DirectRows:
    """The rows of one dataset, at their places in the file.

    Parameters
    ----------
    path : Path
        The shard.
    dataset : h5py.Dataset
        Of shape (rows, ...).
    """

    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        self._path = path
        self._rows = len(dataset)
        self._dtype = dataset.dtype
        self._row_bytes = self._dtype.itemsize * int(np.prod(dataset.shape[1:]))
        self._chunk_rows = (dataset.chunks or (1,))[0]
        self._offsets: NDArray[np.int64] | None = None
        with contextlib.suppress(FileNotFoundError):  # compact has just removed it: HDF5 still has it open
            self._offsets = chunk_offsets(path, dataset)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> bool:
        """Read n rows.

        Parameters
        ----------
        rows : ndarray of shape (n,), int64, n > 0
            Ascending; a row may come more than once.
        out : ndarray of shape (n, ...), float32
            Takes the features.

        Returns
        -------
        bool
            False where they are not in the file as they are, or the file has just been removed: HDF5 is to be asked.

        Raises
        ------
        IndexError
            If there is no such row.
        OSError
            If the file cannot be read, or ends too early.
        """
        _require_rows(rows, self._rows)
        if self._offsets is None:
            return False
        try:
            file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        with file:
            self._read(cast(RawIOBase, file), self._offsets, rows, out)
        return True

    def _read(
        self, file: RawIOBase, offsets: NDArray[np.int64], rows: NDArray[np.int64], out: NDArray[np.float32]
    ) -> None:
        chunks = rows // self._chunk_rows
        starts = np.flatnonzero(np.diff(chunks, prepend=-1))
        stops = np.append(starts[1:], len(rows))
        firsts = rows[starts]
        counts = rows[stops - 1] - firsts + 1
        begins = offsets[chunks[starts]] + firsts % self._chunk_rows * self._row_bytes
        as_stored = self._dtype == out.dtype and bool((np.diff(rows) > 0).all())
        block = np.empty((self._chunk_rows, *out.shape[1:]), self._dtype)
        pieces = zip(*(each.tolist() for each in (starts, stops, firsts, counts, begins)), strict=True)
        for start, stop, first, count, begin in pieces:
            file.seek(begin)
            if as_stored and count == stop - start:
                _fill(file, out[start:stop])
            else:
                _fill(file, block[:count])
                _take(block, rows[start:stop] - first, out[start:stop])

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Have the system read ahead what `read` will want of these rows, ascending, n > 0; where it can be asked."""
        if self._offsets is None or not hasattr(os, "posix_fadvise"):
            return
        try:
            file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return
        chunk_bytes = self._chunk_rows * self._row_bytes
        begins = np.sort(self._offsets[np.unique(rows // self._chunk_rows)])
        cuts = np.flatnonzero(np.diff(begins) > chunk_bytes + 4) + 1  # a checksum lies between two neighbours
        with file:
            for part in np.split(begins, cuts):
                length = int(part[-1] - part[0]) + chunk_bytes
                os.posix_fadvise(file.fileno(), int(part[0]), length, os.POSIX_FADV_WILLNEED)


def read_blocks(dataset: h5py.Dataset, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Read n rows through HDF5: no chunk twice, and none that holds no row that is wanted. See `DirectRows.read`."""
    _require_rows(rows, len(dataset))
    chunk_rows = (dataset.chunks or (1,))[0]
    block_rows = chunk_rows * max(1, _BLOCK_BYTES // (chunk_rows * out[0].nbytes))
    apart = (np.diff(rows // chunk_rows) > 1) | (np.diff(rows // block_rows) > 0)
    cuts = (np.flatnonzero(apart) + 1).tolist()
    block = np.empty((block_rows, *out.shape[1:]), dataset.dtype)
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        low, high = int(rows[start]), int(rows[stop - 1]) + 1
        dataset.read_direct(block, np.s_[low:high], np.s_[: high - low])
        _take(block, rows[start:stop] - low, out[start:stop])


def _require_rows(rows: NDArray[np.int64], count: int) -> None:
    if rows[0] < 0 or rows[-1] >= count:
        raise IndexError(f"row {rows[-1]} of {count}")


def _take(block: NDArray[Any], places: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Put ``block[places]`` into `out`, as float32: NumPy makes it of float16 ten times as fast as HDF5."""
    if block.dtype != out.dtype:
        out[:] = block[places]
    else:
        np.take(block, places, axis=0, out=out, mode="clip")  # it copies once more where it would have to raise


def _fill(file: RawIOBase, out: NDArray[Any]) -> None:
    """Read as many bytes as the array has."""
    left = out.view(np.uint8).data.cast("B")
    while len(left):
        got = file.readinto(left)
        if not got:
            raise OSError("the file ends too early")
        left = left[got:]
