"""Arrays of an index on disk: ``.npy`` files, written block by block and read through memory maps."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.residency import MAPS

__all__ = ["MappedArray", "writing_array"]


@contextlib.contextmanager
def writing_array(path: Path, dtype: str, shape: tuple[int, ...]) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write an array of a shape that is known beforehand: gives a function that appends blocks of rows.

    Not through a memory map: Windows renames no folder with a mapped file in it, and on a disk that fills up a map
    ends the process.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})

        def append(block: NDArray[Any]) -> None:
            file.write(np.ascontiguousarray(block, dtype=dtype).tobytes())

        yield append


class MappedArray:
    """A ``.npy`` file of little-endian numbers, mapped for reading, within the bound for all maps.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    array : ndarray

    Raises
    ------
    OSError, ValueError
        If it cannot be read or is no such array.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{path.name} is of another version of the format")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            if fortran or dtype.hasobject:
                raise ValueError(f"{path.name} is not an array of rows")
            offset, count = file.tell(), int(np.prod(shape))
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array: NDArray[Any] = np.frombuffer(self._map, dtype, count, offset).reshape(shape)
        self._leave = MAPS.join(self._let_go)

    def touched(self, n_bytes: int) -> None:
        """Note that so much of it was read."""
        MAPS.touched(n_bytes)

    def _let_go(self) -> bool:
        if not hasattr(self._map, "madvise"):
            return False
        if not self._map.closed:
            self._map.madvise(mmap.MADV_DONTNEED)
        return True

    def close(self) -> None:
        """Unmap the file, unless somebody still holds the array."""
        self._leave()
        self.array = np.empty((0,) * self.array.ndim, self.array.dtype)
        with contextlib.suppress(BufferError):
            self._map.close()
