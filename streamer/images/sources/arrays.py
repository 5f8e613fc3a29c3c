"""Images that lie in one array: uint8 of shape (n, height, width, 3), RGB, in an ``.npy`` file or a dataset of HDF5."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from streamer.images.opened import ImageGoneError, OpenedImage, UnreadableImageError, Window, file_errors, open_regular
from streamer.images.sources.folder import SourceUnavailableError
from streamer.records import ImageRef, Rejected

__all__ = ["ArraySource", "open_array_member"]

_HELP = "An array of images is uint8 of shape (n, height, width, 3), RGB"


class ArraySource:
    """The images of an array.

    Parameters
    ----------
    path : Path
        ``.npy``, or ``.h5`` or ``.hdf5``.
    dataset : str, optional
        Which one of an HDF5 file; needed there.

    Yields
    ------
    ImageRef
        In the order of the array, which is that of the keys: ``photos/000000012``. The path is that of the file, ``#``
        and the number; for HDF5 ``#``, the dataset, ``#`` and the number. There is no label: see ``labels`` in the
        config.

    Raises
    ------
    SourceUnavailableError
        When iterating: the file cannot be read, holds no such array, or is another at the end.
    """

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        self.path = path
        self.dataset = dataset

    def __iter__(self) -> Iterator[ImageRef | Rejected]:
        path = os.path.abspath(self.path)  # noqa: PTH100 - Path.absolute keeps ".."
        try:
            with open_regular(path) as (_, state, is_unchanged):
                with _array(path, self.dataset) as array:
                    count, *sides = array.shape if array.dtype == np.uint8 and array.ndim == 4 else (0,)
                    if len(sides) != 3 or sides[2] != 3 or 0 in sides:
                        raise SourceUnavailableError(f"{path}: {array.dtype} of shape {array.shape}. {_HELP}")
                n_bytes = int(np.prod(sides))
                place = f"{path}#" if self.dataset is None else f"{path}#{self.dataset}#"
                stem = Path(path).stem
                for number in range(count):
                    yield ImageRef(f"{stem}/{number:09d}", f"{place}{number}", n_bytes, state.st_mtime_ns, "")
                if not is_unchanged():
                    raise SourceUnavailableError(
                        f"{path}: changed while it was being listed; run again when it is complete"
                    )
        except (UnreadableImageError, OSError, ValueError, KeyError) as error:
            raise SourceUnavailableError(
                f"{path}: the array cannot be read ({error}). Is the disk mounted? Check source.array in the config. "
                f"{_HELP}"
            ) from error


@contextlib.contextmanager
def open_array_member(path: str, member: str) -> Iterator[OpenedImage]:
    """Open an image of an array.

    Parameters
    ----------
    path : str
        Of the file.
    member : str
        ``NUMBER`` or ``DATASET#NUMBER``, as `ArraySource` lists it.
    """
    dataset, _, number = member.rpartition("#")
    with open_regular(path) as (file, state, is_unchanged):
        with file_errors(), _array(path, dataset or None) as array:
            count, height, width, _ = array.shape
            if int(number) >= count:
                raise ImageGoneError(f"there is no image {number}: the array holds {count}")
            n_bytes = height * width * 3
            if dataset:
                image: Any = _DatasetImage(path, dataset, int(number))
            else:
                image = BufferedReader(Window(file, array.offset + int(number) * n_bytes, n_bytes))
        yield OpenedImage(image, n_bytes, is_unchanged, (height, width), state=state)


class _DatasetImage(RawIOBase):
    """One image of a dataset, which is read when its bytes are: they may be many, and have to be waited for."""

    def __init__(self, path: str, dataset: str, number: int) -> None:
        self._place = path, dataset
        self._number = number

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert (offset, whence) == (0, os.SEEK_SET)
        return 0

    def read(self, size: int = -1) -> bytes:
        with _array(*self._place) as array:
            return bytes(np.ascontiguousarray(array[self._number]).data)[: None if size < 0 else size]


@contextlib.contextmanager
def _array(path: str, dataset: str | None) -> Iterator[Any]:
    if dataset is None:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not found.flags.c_contiguous:
            raise ValueError("the array is stored column after column: save np.ascontiguousarray of it")
        yield found
        return
    import h5py

    with h5py.File(path, "r") as file:
        found = file.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"there is no dataset {dataset!r}; there are {', '.join(sorted(file)) or 'none'}")
        if found.file != file or found.external or found.is_virtual:
            raise ValueError(f"the dataset {dataset!r} takes its bytes from another file")
        yield found
