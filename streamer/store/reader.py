"""Reading sealed shards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.errors import StoreCorruptError, StoreFormatError
from streamer.store.shard import shard_path
from streamer.store.spec import FORMAT

__all__ = ["ShardMissingError", "ShardReader"]

_REMEDY = "restore it, or have 'streamer check STORE --repair' drop it, and the next run extract its images again"

# An open file costs about 100 kB and a descriptor; a laptop's default limit is 256 descriptors.
_OPEN_FILES = 64
# Reading a row that nobody wants, between two that are wanted, costs less than another read.
_SKIPPED_ROWS = 4


class ShardMissingError(StoreCorruptError):
    """A shard is not there: damage, or `compact` has replaced it since its place was looked up."""


class ShardReader:
    """Rows of the shards in one folder, read by shard number and row.

    Parameters
    ----------
    folder : Path
        ``features/`` of a store.
    fingerprint : str
        What every shard must carry.
    outputs : mapping of str to tuple of int
        Shape of one image's feature, by output name.
    """

    def __init__(self, folder: Path, fingerprint: str, outputs: Mapping[str, tuple[int, ...]]) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._outputs = outputs
        self._open: OrderedDict[int, h5py.File] = OrderedDict()

    def rows(self, output: str, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of n images.

        Parameters
        ----------
        output : str
            Name of the output.
        shards, rows : ndarray of shape (n,), int64
            Where they are. Any order; an entry may occur more than once.

        Returns
        -------
        ndarray of shape (n, ...), float32
            In the order asked for.

        Raises
        ------
        StoreCorruptError
            If a shard is missing, damaged, or not of this store.
        """
        found = np.empty((len(rows), *self._outputs[output]), dtype=np.float32)
        for shard in np.unique(shards):
            wanted = np.flatnonzero(shards == shard)
            path = shard_path(self._folder, int(shard))
            try:
                dataset = self._file(int(shard))["features"][output]
                _read(dataset, rows[wanted], found, wanted)
            except (OSError, KeyError, RuntimeError, IndexError, ValueError) as error:
                raise StoreCorruptError(f"{path}: rows of {output} cannot be read ({error}); {_REMEDY}") from error
        return found

    def shard_rows(self, shard: int) -> int:
        """Number of rows of a shard, by its own account."""
        return len(self.contents(shard))

    def contents(self, shard: int) -> list[bytes]:
        """Digest of the image file behind each row of a shard.

        Raises
        ------
        StoreCorruptError
            If its datasets are not of one length.
        """
        file = self._file(shard)
        digests = file["content"][:]
        lengths = {name: len(file[name]) for name in ("key", "label", *(f"features/{name}" for name in self._outputs))}
        if set(lengths.values()) != {len(digests)}:
            raise StoreCorruptError(f"{file.filename}: content has {len(digests)} rows, but {lengths}")
        return [digest.tobytes() for digest in digests]

    def engine(self, shard: int) -> str:
        """Name of the engine that made a shard."""
        return str(self._file(shard).attrs["engine"])

    def close(self) -> None:
        """Close every file."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _file(self, shard: int) -> h5py.File:
        file = self._open.pop(shard, None)
        if file is None:
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            file = self._checked(shard_path(self._folder, shard))
        self._open[shard] = file
        return file

    def _checked(self, path: Path) -> h5py.File:
        try:
            # Nobody writes to a sealed shard, so HDF5's own file lock, which some network disks lack, protects nothing.
            file = h5py.File(path, "r", locking=False)
        except FileNotFoundError:
            raise ShardMissingError(f"{path}: the shard is missing; {_REMEDY}") from None
        except OSError as error:
            raise StoreCorruptError(f"{path}: the shard does not open ({error}); {_REMEDY}") from error
        try:
            _check(file, path, self._fingerprint, self._outputs)
        except BaseException:
            file.close()
            raise
        return file


def _check(file: h5py.File, path: Path, fingerprint: str, outputs: Mapping[str, tuple[int, ...]]) -> None:
    found: Any = file.attrs.get("format")
    if found is None or int(found) > FORMAT:
        raise StoreFormatError(f"{path}: format {found}; this release reads up to {FORMAT}: upgrade streamer")
    if file.attrs.get("fingerprint") != fingerprint:
        raise StoreCorruptError(
            f"{path}: holds features of another fingerprint; it does not belong to this store; {_REMEDY}"
        )
    for name in ("features", "key", "label", "content", *(f"features/{output}" for output in outputs)):
        # A link out of the file would let a shard from elsewhere read any file of this machine.
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise StoreCorruptError(f"{path}: /{name} is missing or a link; it is not a shard of this store; {_REMEDY}")
        dataset = file[name]
        if isinstance(dataset, h5py.Dataset) and (dataset.external or dataset.is_virtual):
            raise StoreCorruptError(
                f"{path}: /{name} keeps its data in another file; it is not a shard of this store; {_REMEDY}"
            )
    for output, shape in outputs.items():
        dataset = file["features"][output]
        if dataset.shape[1:] != tuple(shape) or dataset.dtype != np.float32:
            raise StoreCorruptError(
                f"{path}: /features/{output} is {dataset.dtype} {dataset.shape}, not float32 {shape}; {_REMEDY}"
            )


def _read(dataset: h5py.Dataset, rows: NDArray[np.int64], out: NDArray[np.float32], places: NDArray[np.intp]) -> None:
    """Put ``dataset[rows[i]]`` into ``out[places[i]]``."""
    low, high = int(rows.min()), int(rows.max()) + 1
    if low < 0 or high > len(dataset):
        raise IndexError(f"row {high - 1} of {len(dataset)}")
    if np.array_equal(rows, np.arange(low, high)) and np.array_equal(places, np.arange(places[0], places[-1] + 1)):
        dataset.read_direct(out, np.s_[low:high], np.s_[int(places[0]) : int(places[-1]) + 1])
        return
    order = np.argsort(rows, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(rows[order]) > _SKIPPED_ROWS) + 1):
        low, high = int(rows[part[0]]), int(rows[part[-1]]) + 1
        out[places[part]] = dataset[low:high][rows[part] - low]
