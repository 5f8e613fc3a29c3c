"""Reading sealed shards."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.errors import CompressionUnavailableError, StoreCorruptError, StoreFormatError
from streamer.residency import MAPS
from streamer.store.compression import COMPRESSIONS, require_compression
from streamer.store.direct import DirectRows, read_blocks
from streamer.store.mapped import MappedRows
from streamer.store.shard import shard_path
from streamer.store.spec import FORMAT, FeatureSpec

__all__ = ["ShardMissingError", "ShardReader"]

_REMEDY = "restore it, or have 'streamer check STORE --repair' drop it, and the next run extract its images again"

# An open file costs about 100 kB and a descriptor; a laptop's default limit is 256 descriptors.
_OPEN_FILES = 64
# A map costs address space only.
_MAPPED_FILES = 1024
# Reading a row that nobody wants, between two that are wanted, costs less than another read.
_SKIPPED_ROWS = 4
# Of float16 rows that are on their way to float32.
_ROUNDED_BYTES = 2**20


class ShardMissingError(StoreCorruptError):
    """A shard is not there: damage, or `compact` has replaced it since its place was looked up."""


class ShardReader:
    """Rows of the shards in one folder, read by shard number and row.

    Parameters
    ----------
    folder : Path
        ``features/`` of a store.
    spec : FeatureSpec
        What every shard must hold.
    """

    def __init__(self, folder: Path, spec: FeatureSpec) -> None:
        self._folder = folder
        self._spec = spec
        self._outputs = spec.outputs
        self._open: OrderedDict[int, h5py.File] = OrderedDict()
        self._mapped: OrderedDict[tuple[int, str], MappedRows | None] = OrderedDict()
        self._leave: Callable[[], None] | None = None
        self._direct: dict[tuple[int, str], DirectRows] = {}

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
        CompressionUnavailableError
            If a shard is compressed by a package that is not installed.
        """
        found = np.empty((len(rows), *self._outputs[output]), dtype=np.float32)
        for shard in np.unique(shards):
            wanted = np.flatnonzero(shards == shard)
            path = shard_path(self._folder, int(shard))
            try:
                self._read(int(shard), output, rows[wanted], found, wanted)
            except (OSError, KeyError, RuntimeError, IndexError, ValueError) as error:
                raise StoreCorruptError(f"{path}: rows of {output} cannot be read ({error}); {_REMEDY}") from error
        return found

    def read_in_order(self, output: str, shard: int, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Read many rows of one shard from its beginning to its end, no chunk twice. See `DirectRows`.

        Parameters
        ----------
        output : str
            Name of the output.
        shard : int
        rows : ndarray of shape (n,), int64, n > 0
            Ascending; a row may come more than once.
        out : ndarray of shape (n, ...), float32
            Takes the features.

        Raises
        ------
        StoreCorruptError
            If the shard is missing, damaged, or not of this store.
        """
        path = shard_path(self._folder, shard)
        direct = self._direct_rows(output, shard)
        with _h5_errors(path):
            if not direct.read(rows, out):
                read_blocks(self._file(shard)["features"][output], rows, out)

    def expect_in_order(self, output: str, shard: int, rows: NDArray[np.int64]) -> None:
        """Say what `read_in_order` will be asked for soon, so that the system can read it ahead."""
        with _h5_errors(shard_path(self._folder, shard)):
            self._direct_rows(output, shard).expect(rows)

    def _direct_rows(self, output: str, shard: int) -> DirectRows:
        key = (shard, output)
        if key not in self._direct:
            file = self._file(shard)
            with _h5_errors(shard_path(self._folder, shard)):
                self._direct[key] = DirectRows(shard_path(self._folder, shard), file["features"][output])
        return self._direct[key]

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
        with _h5_errors(shard_path(self._folder, shard)):
            digests = file["content"][:]
            lengths = {name: len(file[name]) for name in self._columns(file)}
        if set(lengths.values()) != {len(digests)}:
            raise StoreCorruptError(f"{file.filename}: content has {len(digests)} rows, but {lengths}; {_REMEDY}")
        return [digest.tobytes() for digest in digests]

    def verify(self, shard: int) -> list[bytes]:
        """Read all of a shard, so that HDF5 checks every checksum; returns its `contents`."""
        file, contents = self._file(shard), self.contents(shard)
        with _h5_errors(shard_path(self._folder, shard)):
            for name in self._columns(file):
                dataset = file[name]
                step = max(1, (dataset.chunks or (1,))[0])
                for start in range(0, len(dataset), step):
                    _ = dataset[start : start + step]
        return contents

    def copies(self, shard: int) -> list[int]:
        """Which augmented copy of its image each row of a shard is of; 0 is the image itself."""
        with _h5_errors(shard_path(self._folder, shard)):
            file = self._file(shard)
            return file["copy"][:].tolist() if "copy" in file else [0] * len(file["content"])

    def compression(self, shard: int) -> str:
        """How the features of a shard are compressed, by its own account."""
        with _h5_errors(shard_path(self._folder, shard)):
            return _compression(self._file(shard))

    def _columns(self, file: h5py.File) -> list[str]:
        """Every dataset with a row for each, but for ``content``."""
        copy = ["copy"] if "copy" in file else []
        return ["key", "label", *copy, *(f"features/{name}" for name in self._outputs)]

    def engine(self, shard: int) -> str:
        """Name of the engine that made a shard."""
        with _h5_errors(shard_path(self._folder, shard)):
            return str(self._file(shard).attrs["engine"])

    def close(self) -> None:
        """Close every file."""
        if self._leave is not None:
            self._leave()
            self._leave = None
        while self._mapped:
            self._unmap()
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _read(
        self, shard: int, output: str, rows: NDArray[np.int64], out: NDArray[np.float32], places: NDArray[np.intp]
    ) -> None:
        """Put the features of ``rows[i]`` into ``out[places[i]]``."""
        if _is_run(rows) and _is_run(places):
            dataset = self._file(shard)["features"][output]
            if rows[0] < 0 or rows[-1] >= len(dataset):
                raise IndexError(f"row {rows[-1]} of {len(dataset)}")
            if len(rows) > 1:
                _read_run(dataset, int(rows[0]), out[places[0] : places[-1] + 1])
                return
        mapped = self._map(shard, output)
        if mapped is not None:
            out[places] = mapped.read(rows)
            MAPS.touched(mapped.pages_bytes(len(rows)))
        else:
            _read_apart(self._file(shard)["features"][output], rows, out, places)

    def _map(self, shard: int, output: str) -> MappedRows | None:
        key = (shard, output)
        if key in self._mapped:
            self._mapped.move_to_end(key)
        else:
            if self._leave is None:
                self._leave = MAPS.join(self._let_go)
            if len(self._mapped) >= _MAPPED_FILES:
                self._unmap()
            dataset = self._file(shard)["features"][output]
            try:
                self._mapped[key] = MappedRows.of(shard_path(self._folder, shard), dataset)
            except FileNotFoundError:  # compact has just removed it: HDF5 still has it open
                self._mapped[key] = None
            fit = sum(each.file_bytes for each in self._maps()) <= MAPS.limit_bytes
            for each in self._maps():
                each.expect(random=not fit)
        return self._mapped[key]

    def _let_go(self) -> bool:
        handed_back = [each.let_go() for each in self._maps()]
        return all(handed_back)

    def _maps(self) -> Iterator[MappedRows]:
        return (each for each in list(self._mapped.values()) if each is not None)

    def _unmap(self) -> None:
        mapped = self._mapped.popitem(last=False)[1]
        if mapped is not None:
            mapped.close()

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
            with _h5_errors(path):
                _check(file, path, self._spec)
        except BaseException:
            file.close()
            raise
        return file


@contextlib.contextmanager
def _h5_errors(path: Path) -> Iterator[None]:
    """Damaged bytes make HDF5 raise whatever it likes."""
    try:
        yield
    except (StoreCorruptError, CompressionUnavailableError):
        raise
    except Exception as error:
        raise StoreCorruptError(f"{path}: damaged ({type(error).__name__}: {error}); {_REMEDY}") from error


def _compression(file: h5py.File) -> str:
    return str(file.attrs.get("compression", "none"))


def _check(file: h5py.File, path: Path, spec: FeatureSpec) -> None:
    found: Any = file.attrs.get("format")
    if found is None or int(found) > FORMAT:
        raise StoreFormatError(f"{path}: format {found}; this release reads up to {FORMAT}: upgrade streamer")
    if file.attrs.get("fingerprint") != spec.fingerprint:
        raise StoreCorruptError(
            f"{path}: holds features of another fingerprint; it does not belong to this store; {_REMEDY}"
        )
    copy = ("copy",) if file.id.links.exists(b"copy") else ()  # shards have it since there is augmentation
    for name in ("features", "key", "label", "content", *copy, *(f"features/{output}" for output in spec.outputs)):
        # A link out of the file would let a shard from elsewhere read any file of this machine.
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise StoreCorruptError(f"{path}: /{name} is missing or a link; it is not a shard of this store; {_REMEDY}")
        dataset = file[name]
        if isinstance(dataset, h5py.Dataset) and (dataset.external or dataset.is_virtual):
            raise StoreCorruptError(
                f"{path}: /{name} keeps its data in another file; it is not a shard of this store; {_REMEDY}"
            )
    for output, shape in spec.outputs.items():
        dataset = file["features"][output]
        if dataset.shape[1:] != tuple(shape) or dataset.dtype != spec.dtype:
            raise StoreCorruptError(
                f"{path}: /features/{output} is {dataset.dtype} {dataset.shape}, not {spec.dtype} {shape}; {_REMEDY}"
            )
    compression = _compression(file)
    if compression not in COMPRESSIONS:  # a release that knows others has another format
        raise StoreCorruptError(f"{path}: is compressed by {compression!r}, which there is not: it is damaged")
    require_compression(compression, path)


def _read_run(dataset: h5py.Dataset, first: int, out: NDArray[np.float32]) -> None:
    """Put the rows from `first` on into `out`."""
    if dataset.dtype == out.dtype:
        dataset.read_direct(out, np.s_[first : first + len(out)])
        return
    # NumPy makes float32 of float16 ten times as fast as HDF5.
    step = max(1, _ROUNDED_BYTES // max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))))
    for low in range(0, len(out), step):
        part = out[low : low + step]
        part[:] = dataset[first + low : first + low + len(part)]


def _is_run(numbers: NDArray[Any]) -> bool:
    """Whether each number is the one before plus one."""
    return bool(numbers[-1] - numbers[0] == len(numbers) - 1 and (np.diff(numbers) == 1).all())


def _read_apart(
    dataset: h5py.Dataset, rows: NDArray[np.int64], out: NDArray[np.float32], places: NDArray[np.intp]
) -> None:
    """Put ``dataset[rows[i]]`` into ``out[places[i]]``, row by row where they lie far apart."""
    if rows.min() < 0 or rows.max() >= len(dataset):
        raise IndexError(f"row {rows.max()} of {len(dataset)}")
    order = np.argsort(rows, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(rows[order]) > _SKIPPED_ROWS) + 1):
        low, high = int(rows[part[0]]), int(rows[part[-1]]) + 1
        out[places[part]] = dataset[low:high][rows[part] - low]
