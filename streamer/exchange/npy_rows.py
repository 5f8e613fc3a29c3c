"""Rows of a ``.npy`` file, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StreamerError

__all__ = ["NpyRows"]

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpyRows:
    """The array of a file, never held as a whole.

    It is read, not mapped: pages of a map count as the process's own for as long as they are there, and a file that is
    cut short meanwhile would end the process.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    shape : tuple of int
        Of all rows: (n, ...).
    dtype : numpy.dtype

    Raises
    ------
    StreamerError
        It is no ``.npy`` file, shorter than it says, or of objects, which only a pickle can hold.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        try:
            self.shape, self._fortran, self.dtype = self._header()
            self._offset = self._file.tell()
            self._check_size()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def blocks(self, block_rows: int) -> Iterator[NDArray[np.generic]]:
        """All rows in order, so many at a time, as they are stored: shape (block, ...)."""
        for start in range(0, self.shape[0], block_rows):
            count = min(block_rows, self.shape[0] - start)
            yield self._columns(start, count) if self._fortran else self._rows(start, count)

    def _rows(self, start: int, count: int) -> NDArray[np.generic]:
        rows = np.empty((count, *self.shape[1:]), self.dtype)
        self._read(rows, start * (rows.nbytes // count))
        return rows

    def _columns(self, start: int, count: int) -> NDArray[np.generic]:
        """Rows of an array in Fortran's order: a piece of each column."""
        length = int(np.prod(self.shape[1:]))
        columns = np.empty((length, count), self.dtype)
        for number, column in enumerate(columns):
            self._read(column, (number * self.shape[0] + start) * self.dtype.itemsize)
        rows: NDArray[np.generic] = columns.T.reshape((count, *self.shape[1:]), order="F")
        return rows

    def _read(self, target: NDArray[np.generic], place: int) -> None:
        self._file.seek(self._offset + place)
        if self._file.readinto(target.view(np.uint8).data) != target.nbytes:
            raise StreamerError(f"{self._path}: became shorter while it was read; import it again when it is whole")

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
        try:
            version = np.lib.format.read_magic(self._file)
            if version not in _READERS:
                raise ValueError(f"version {version}")
            shape, fortran, dtype = _READERS[version](self._file)
        except (ValueError, TypeError, EOFError, SyntaxError, TokenError) as error:
            raise StreamerError(
                f"{self._path}: is no .npy file of numbers ({error}); write one with numpy.save"
            ) from error
        if dtype.hasobject:
            raise StreamerError(
                f"{self._path}: holds Python objects, which only unpickling can read, and a pickle can run any "
                "program; save numbers: numpy.save(path, numpy.stack(rows).astype('float32'))"
            )
        return tuple(map(int, shape)), bool(fortran), dtype

    def _check_size(self) -> None:
        expected = self._offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        found = self._path.stat().st_size
        if min(self.shape, default=0) < 0 or found < expected:
            raise StreamerError(
                f"{self._path}: {found} bytes, but {self.dtype} {self.shape} takes {expected}: it is not whole; "
                "copy it again"
            )
