"""Features in an HDF5 file that somebody else made, read as they come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.errors import StreamerError

__all__ = ["ForeignFile", "ForeignNames"]

_NAME_ROWS = 4096
# HDF5 holds a whole compressed chunk, and reads it again for each block that begins inside.
_MOST_CHUNK_BYTES = 64 * 2**20


class ForeignFile:
    """One dataset of rows.

    Parameters
    ----------
    path : Path
    dataset : str, optional
        Its name; without it, the only dataset of numbers with two axes or more.

    Attributes
    ----------
    shape : tuple of int
        Of all rows: (n, ...).
    dtype : numpy.dtype

    Raises
    ------
    StreamerError
        It is no HDF5 file, or damaged; there is no such dataset, or several it could be; it is reached by a link, or
        its data lie in another file.
    """

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        self._path = path
        with _errors(path):
            self._file = h5py.File(path, "r", locking=False)
        try:
            with _errors(path):
                self._dataset = self._found(dataset or self._only_one())
                self.shape: tuple[int, ...] = self._dataset.shape or ()
                self.dtype = self._dataset.dtype
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def blocks(self, block_rows: int) -> Iterator[NDArray[np.generic]]:
        """All rows in order, about so many at a time, as they are stored: shape (block, ...)."""
        chunk = self._dataset.chunks
        if chunk is not None:
            if int(np.prod(chunk)) * self.dtype.itemsize > _MOST_CHUNK_BYTES:
                raise StreamerError(
                    f"{self._path}: {self._dataset.name} has chunks of {chunk}, more than "
                    f"{_MOST_CHUNK_BYTES // 2**20} MiB each; write it anew with smaller ones"
                )
            block_bytes = chunk[0] * int(np.prod(self.shape[1:])) * self.dtype.itemsize
            if block_bytes <= _MOST_CHUNK_BYTES:
                block_rows = max(block_rows - block_rows % chunk[0], chunk[0])
        for start in range(0, self.shape[0], block_rows):
            with _errors(self._path):
                rows = self._dataset[start : start + block_rows]
            yield rows

    def names(self) -> ForeignNames | None:
        """What ``/key`` and ``/label`` say of the rows, as in an export of ours; None where there is no ``/key``."""
        with _errors(self._path):
            if "key" not in self._file:
                return None
            key = self._found("key")
            label = self._found("label") if "label" in self._file else None
            for each in (key, label):
                if each is not None and h5py.check_string_dtype(each.dtype) is None:
                    raise StreamerError(f"{self._path}: {each.name} holds no text; name the rows by --keys KEYS.csv")
            if label is not None and label.shape != key.shape:
                raise StreamerError(f"{self._path}: /key is {key.shape} and /label {label.shape}: one of each a row")
        return ForeignNames(self._path, key, label)

    def _only_one(self) -> str:
        found: list[str] = []

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "fiu":
                found.append(name)

        self._file.visititems(visit)  # does not follow soft and external links
        if len(found) != 1:
            listed = f"there are several: {', '.join(sorted(found))}" if found else "there is none"
            raise StreamerError(
                f"{self._path}: wanted one dataset of numbers with two axes or more, and {listed}; name it by --dataset"
            )
        return found[0]

    def _found(self, name: str) -> h5py.Dataset:
        item = self._file
        for part in name.strip("/").split("/"):
            link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
            if link is None:
                raise StreamerError(f"{self._path}: no dataset {name!r}; see what there is with h5ls -r")
            # A link out of the file would let it read any file of this machine.
            if not isinstance(link, h5py.HardLink):
                raise StreamerError(f"{self._path}: {part!r} of {name!r} is a link; copy the data into the file itself")
            item = item[part]
        if not isinstance(item, h5py.Dataset):
            raise StreamerError(f"{self._path}: {name!r} is no dataset; name one inside it, such as {name}/features")
        if item.external or item.is_virtual:
            raise StreamerError(
                f"{self._path}: {name!r} keeps its data in another file; copy it into one, or 'streamer export' the "
                "store it belongs to"
            )
        return item


class ForeignNames:
    """Keys and labels of the rows, as often as asked for.

    Parameters
    ----------
    path : Path
    key : h5py.Dataset
    label : h5py.Dataset or None
    """

    def __init__(self, path: Path, key: h5py.Dataset, label: h5py.Dataset | None) -> None:
        self._path = path
        self._key = key
        self._label = label

    def place(self, line: int) -> str:
        """A row in words."""
        return f"{self._path}: /key, row {line}"

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        for start in range(0, len(self._key), _NAME_ROWS):
            with _errors(self._path):
                keys = self._key.asstr()[start : start + _NAME_ROWS]
                labels = (
                    self._label.asstr()[start : start + _NAME_ROWS] if self._label is not None else [""] * len(keys)
                )
            for place, (key, label) in enumerate(zip(keys, labels, strict=True), start=start):
                yield place, str(key), str(label)


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Damaged bytes make HDF5 raise whatever it likes."""
    try:
        yield
    except (StreamerError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:
        raise StreamerError(f"{path}: cannot be read as HDF5 ({type(error).__name__}: {error})") from error
