"""Features computed elsewhere, and the names of their rows, into a store."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from streamer.errors import (
    ConfigError,
    ExitCode,
    FingerprintMismatchError,
    Interrupted,
    StoreMissingError,
    StreamerError,
)
from streamer.exchange.batches import import_batches
from streamer.exchange.keys import Names, count_names
from streamer.exchange.npy import FEATURES, KEYS
from streamer.exchange.npy_rows import NpyRows
from streamer.files import require_space
from streamer.records import Progress
from streamer.store import FeatureSpec, ForeignFile, Store, StoreLock, StoreWriter, recorded
from streamer.tables import KeyTable

__all__ = ["Import", "import_features"]

_LOG = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,99}")
_HDF5 = (".h5", ".hdf5", ".hdf")
_UNNAMED = "imported"
_ORIGIN_BYTES = 2**20
_MOST_ROW_BYTES = 64 * 2**20
_NAMES_BYTES = 600


@dataclass(frozen=True)
class Import:
    """What was taken.

    Attributes
    ----------
    store, output : str
    shape : list of int
        Of one image's feature.
    rows : int
        Of the file.
    images : dict of str to int
        What became of them: added, updated, unchanged, failed.
    seconds : float
    """

    store: str
    output: str
    shape: list[int]
    rows: int
    images: dict[str, int]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0, or 3 when there are rows that could not be taken."""
        return ExitCode.SOME_UNREADABLE if self.images["failed"] else ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as ``streamer import --json`` prints them."""
        return asdict(self)


def import_features(
    path: Path,
    features: Path,
    *,
    keys: Path | None = None,
    dataset: str | None = None,
    name: str | None = None,
    progress: Progress = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Import:
    """Take features into a store, which is made when it is not there. A key that is there gets the new features.

    A row that is not finite, as float32, becomes a failure of the store. All that is wrong with the file as a whole, or
    with the names, is found before anything is written. Memory: a block of some megabytes, and 8 bytes a row.

    Parameters
    ----------
    path : Path
        The store's folder.
    features : Path
        A ``.npy`` file or HDF5 dataset of shape (n, ...) of floats or integers, n rows; or the folder of an export.
    keys : Path, optional
        CSV with the columns ``key`` and perhaps ``label``, a line a row, in the same order. An HDF5 file may hold them
        itself, as ``/key`` and ``/label``; the folder of an export does.
    dataset : str, optional
        Which dataset of an HDF5 file; without it, the only one there can be.
    name : str, optional
        Of the network that the features are of, and so of the output: by default that of the store. A new store without
        one is called ``imported``, and is told from every other by its first rows.
    progress, should_stop : callable, optional
        Called with ``("import", rows done, rows)``; asked after each block.

    Returns
    -------
    Import

    Raises
    ------
    ConfigError
        If the options do not go together.
    FingerprintMismatchError
        If the store holds features of another kind.
    StreamerError
        If the file or the names cannot be used.
    StoreLockedError, StoreCorruptError, StoreWriteError
        If the store cannot be written.
    Interrupted
        `should_stop` said so. All rows up to then are committed.
    """
    began = time.monotonic()
    if features.is_dir():
        features, keys = _inside_export(features, keys)
    with contextlib.closing(_opened(features, dataset)) as rows:
        names = _names(rows, features, keys)
        _check_array(rows, features)
        count = count_names(names)
        if count != rows.shape[0]:
            raise StreamerError(
                f"{features}: has {rows.shape[0]} rows, but {keys or features} names {count}; one key for each row"
            )
        spec = _spec(path, name, rows)
        row_bytes = 4 * int(np.prod(rows.shape[1:])) + _NAMES_BYTES
        require_space(_nearest_folder(path), count * row_bytes, f"importing {count} rows")
        with StoreLock(path), recorded(path, "import") as record:
            with StoreWriter(path, spec, engine="import", limits="") as writer:
                record.begin()
                done = 0
                for batch in import_batches(rows, names, spec.indexed, writer.knows):
                    writer.append(batch)
                    done += len(batch.refs) + len(batch.rejected) + len(batch.known)
                    progress("import", done, count)
                    if should_stop() and done < count:
                        writer.commit()
                        raise Interrupted(
                            f"stopped after {done} of {count} rows; they are committed: run again to go on"
                        )
                writer.commit()
                writer.publish_view()
                images = {what: writer.counts[what] for what in ("added", "updated", "unchanged", "failed")}
            result = Import(str(path), spec.indexed, list(rows.shape[1:]), count, images, 0.0)
            record.exit_code = result.exit_code
    return Import(**{**result.to_dict(), "seconds": round(time.monotonic() - began, 3)})


def _inside_export(folder: Path, keys: Path | None) -> tuple[Path, Path]:
    if not (folder / FEATURES).is_file():
        raise ConfigError(
            f"{folder}: is a folder, and not what 'streamer export --format npy' makes: no {FEATURES} in it"
        )
    return folder / FEATURES, keys or folder / KEYS


def _opened(features: Path, dataset: str | None) -> NpyRows | ForeignFile:
    if features.suffix.lower() in _HDF5:
        return ForeignFile(features, dataset)
    if dataset is not None:
        raise ConfigError(
            f"--dataset {dataset!r} is for HDF5, which {features} is not by its suffix ({', '.join(_HDF5)})"
        )
    return NpyRows(features)


def _names(rows: NpyRows | ForeignFile, features: Path, keys: Path | None) -> Names:
    if keys is not None:
        return KeyTable(keys, label_optional=True)
    found = rows.names() if isinstance(rows, ForeignFile) else None
    if found is None:
        raise ConfigError(
            f"{features}: nothing says what its rows are; give --keys KEYS.csv with the columns key,label"
        )
    return found


def _check_array(rows: NpyRows | ForeignFile, features: Path) -> None:
    what = f"{features}: {rows.dtype} {rows.shape}"
    if rows.dtype.kind not in "fiu":
        raise StreamerError(f"{what} is no array of numbers; wanted are floats or integers, converted to float32")
    if len(rows.shape) < 2 or 0 in rows.shape:
        raise StreamerError(f"{what}: wanted is one row of features for each image: (n, d), or (n, height, width, d)")
    if int(np.prod(rows.shape[1:], dtype=object)) * max(4, rows.dtype.itemsize) > _MOST_ROW_BYTES:
        raise StreamerError(
            f"{what}: a row takes more than {_MOST_ROW_BYTES // 2**20} MiB; is the first axis that of images?"
        )


def _spec(path: Path, name: str | None, rows: NpyRows | ForeignFile) -> FeatureSpec:
    """What the features are called; a store that is there must hold such."""
    shape = rows.shape[1:]
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: wanted are up to 100 letters, digits and _ . : + -, such as clip-vit-b32")
    try:
        with Store(path) as store:
            there = store.spec
    except StoreMissingError:
        if name is not None:
            return FeatureSpec.of_imported(name, shape)
        _LOG.warning(
            "%s: imported without --name: nothing says which network its features are of, and so no head that is "
            "trained on other features takes them, nor are they compared with those of another store; if there are to "
            "be more of the same network, name it: --name clip-vit-b32",
            path,
        )
        return FeatureSpec.of_imported(_UNNAMED, shape, origin=_origin(rows))
    if not there.imported:
        raise FingerprintMismatchError(
            f"{path}: holds features of {there.backbone} ({', '.join(there.outputs)}), made here from photos; those "
            "computed elsewhere cannot be compared with them: import into a store of their own"
        )
    called = name or there.indexed
    if {called: shape} != dict(there.outputs):
        raise FingerprintMismatchError(
            f"{path}: holds features called {there.indexed} of {there.outputs[there.indexed]}, not {called} "
            f"of {shape}; import into a store of their own"
        )
    return there


def _origin(rows: NpyRows | ForeignFile) -> str:
    """Digest of the first rows, as float32: what tells features from others where nobody says what they are."""
    count = max(1, _ORIGIN_BYTES // (4 * int(np.prod(rows.shape[1:]))))
    with np.errstate(over="ignore"):
        first = np.ascontiguousarray(next(rows.blocks(count))[:count], dtype=np.float32)
    return blake2b(first.tobytes(), digest_size=16).hexdigest()


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest above that is there."""
    return next(each for each in (path, *path.absolute().parents) if each.is_dir())
