"""A store: shards and catalog under one roof, with one writer and any number of readers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import FingerprintMismatchError, StoreCorruptError, StoreMissingError
from streamer.files import PARTIAL, fsync_folder, published
from streamer.records import FeatureBatch, ImageRef, Rejected
from streamer.store.catalog import Catalog, Entry, Failure
from streamer.store.changes import Changes
from streamer.store.reader import ShardReader
from streamer.store.shard import ShardWriter, shard_path
from streamer.store.spec import FORMAT, FeatureSpec
from streamer.store.view import write_view

__all__ = ["Store", "StoreWriter"]

_LOG = logging.getLogger(__name__)

# Bounds the names and digests that wait in memory for their shard to be sealed: about 400 bytes each.
_MAX_SHARD_ROWS = 65_536


class Store:
    """A store opened for reading.

    Parameters
    ----------
    path : path-like
        The store's folder.

    Raises
    ------
    StoreMissingError
        If there is no store at `path`.
    StoreCorruptError
        If its catalog is damaged, or of a newer format.

    Examples
    --------
    >>> with Store("photos.store") as store:                         # doctest: +SKIP
    ...     for ids, features in store.blocks("block5_pool:gem", 1024):
    ...         print(ids.shape, features.shape)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / "catalog.sqlite").is_file():
            raise StoreMissingError(f"{self.path}: no store here; make one with 'streamer run CONFIG'")
        self.catalog = Catalog(self.path / "catalog.sqlite")
        self.spec = self.catalog.spec
        self._reader = ShardReader(self.path / "features", self.spec.fingerprint, self.spec.outputs)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every file."""
        self._reader.close()
        self.catalog.close()

    def __len__(self) -> int:
        """Number of images that can be searched."""
        return self.catalog.count("images")

    def info(self) -> dict[str, Any]:
        """What the store holds, as ``streamer info --json`` prints it (without the index)."""
        return {
            "format": FORMAT,
            "images": len(self),
            "failed": self.catalog.count("failures"),
            "shards": self.catalog.count("shards"),
            "bytes": sum(n_bytes for _, _, n_bytes in self.catalog.shards()),
            "outputs": {name: {"shape": list(shape), "dtype": "float32"} for name, shape in self.spec.outputs.items()},
            "backbone": self.spec.backbone,
            "weights": self.spec.weights,
            "fingerprint": self.spec.fingerprint,
        }

    def failures(self) -> Iterator[Failure]:
        """Images that could not be read, sorted by key."""
        return self.catalog.failures()

    def entries(self, ids: Sequence[int]) -> dict[int, Entry]:
        """The live images with these ids."""
        return self.catalog.entries(ids)

    def rows(self, output: str, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features at these places, flattened: shape (n, d), float32. See `ShardReader.rows`."""
        return self._reader.rows(output, shards, rows).reshape(len(rows), self.feature_length(output))

    def feature_length(self, output: str) -> int:
        """Length d of one image's feature when flattened."""
        return int(np.prod(self.spec.outputs[output]))

    def blocks(
        self, output: str, block_rows: int | Iterable[int]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """All live rows, in the order of the shards, a block at a time.

        Parameters
        ----------
        output : str
            Name of the output, such as ``"block5_pool:gem"``.
        block_rows : int or iterable of int
            Rows in every block, or in each.

        Yields
        ------
        ids : ndarray of shape (block,), int64
            Ids of the images.
        features : ndarray of shape (block, d), float32
            Their features, flattened.
        """
        if output not in self.spec.outputs:
            raise KeyError(f"{self.path}: no output {output!r}; there are: {', '.join(self.spec.outputs)}")
        sizes = iter(lambda: block_rows, None) if isinstance(block_rows, int) else block_rows
        for ids, shards, rows in self.catalog.places(sizes):
            yield ids, self.rows(output, shards, rows)


class StoreWriter:
    """The one writer of a store: sweeps what a crash left, appends, commits. Hold the `StoreLock` while it lives.

    Use as a context manager; leaving it normally commits what is pending, leaving it by an exception drops it.

    Parameters
    ----------
    path : path-like
        The store's folder; made when it does not exist.
    spec : FeatureSpec
        What the features are. A store that exists must agree.
    engine : str
        Name of the engine, recorded in each shard.
    commit_seconds, commit_bytes : float, int
        A shard is sealed and committed when it is this old or this large, whichever comes first.
    limits : str
        The limits that images are decoded under, remembered with each failure.

    Raises
    ------
    FingerprintMismatchError
        If the store holds features of another kind.
    StoreCorruptError
        If the folder is not a store, or its catalog is damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: FeatureSpec,
        *,
        engine: str,
        limits: str,
        commit_seconds: float = 60.0,
        commit_bytes: int = 256 * 2**20,
    ) -> None:
        self.path = Path(path)
        self.spec = spec
        self._engine = engine
        self._limits = limits
        self._commit_seconds = commit_seconds
        self._commit_bytes = commit_bytes
        self._features = self.path / "features"
        self._shard: ShardWriter | None = None
        self._shard_number = 0
        self._shard_began = 0.0
        self._rows: list[tuple[ImageRef, bytes]] = []
        self._rejected: list[Rejected] = []
        self.added = self.updated = self.failed = 0
        _prepare(self.path, spec)
        self.catalog = Catalog(self.path / "catalog.sqlite", writable=True)
        try:
            self._refuse_other_features()
            self._sweep()
        except BaseException:
            self.catalog.close()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            if self._shard is not None:
                self._shard.abandon()
                self._shard = None
            self.catalog.close()

    def apply(self, changes: Changes) -> None:
        """Drop what is gone from the source, note new paths and what could not be listed, all in one transaction."""
        with self.catalog.transaction():
            self.catalog.forget_ids(changes.removed)
            self.catalog.forget_failures((path,) for path in changes.fixed)
            self.catalog.relocate(changes.relocated())
            self.catalog.forget_unreadable(changes.rejected)
            self.catalog.add_failures(changes.rejected, self._limits)

    def append(self, batch: FeatureBatch) -> None:
        """Take the features of a batch; commit when the shard is due."""
        self._rejected.extend(batch.rejected)
        if batch.refs:
            if self._shard is None:
                self._shard_number = self.catalog.next_shard()
                target = shard_path(self._features, self._shard_number)
                self._shard = ShardWriter(target, self.spec.outputs, self.spec.fingerprint, self._engine)
                self._shard_began = time.monotonic()
            keys = [ref.key for ref in batch.refs]
            self._shard.append(keys, [ref.label for ref in batch.refs], batch.features)
            self._rows.extend(zip(batch.refs, batch.contents, strict=True))
        if self._due():
            self.commit()

    def _due(self) -> bool:
        if self._shard is None:
            return len(self._rejected) >= _MAX_SHARD_ROWS
        return (
            self._shard.feature_bytes >= self._commit_bytes
            or self._shard.rows + len(self._rejected) >= _MAX_SHARD_ROWS
            or time.monotonic() - self._shard_began >= self._commit_seconds
        )

    def commit(self) -> None:
        """Seal the shard, then make its rows and the failures met on the way real in one transaction."""
        if self._shard is None and not self._rejected:
            return
        n_bytes = self._shard.seal() if self._shard is not None else 0
        with self.catalog.transaction():
            if self._shard is not None:
                replaced = self.catalog.add_shard(self._shard_number, n_bytes, self._engine, self._rows)
                self.updated += replaced
                self.added += len(self._rows) - replaced
            # An image that can no longer be read has no features: those of its old content are not its own.
            self.catalog.forget_unreadable(self._rejected)
            self.catalog.add_failures(self._rejected, self._limits)
        self.failed += len(self._rejected)
        self._shard = None
        self._rows = []
        self._rejected = []

    def _refuse_other_features(self) -> None:
        differences = self.spec.differences(self.catalog.spec)
        if differences:
            raise FingerprintMismatchError(
                f"{self.path}: this store holds other features than the config asks for: {'; '.join(differences)}. "
                "Give the config another 'store:', or change it back"
            )
        if self.spec != self.catalog.spec:  # the same weights, from another place
            self.catalog.set_spec(self.spec)

    def _sweep(self) -> None:
        """Remove what a crash left: half a shard, or a sealed one that never reached the catalog."""
        next_shard = self.catalog.next_shard()
        for path in sorted(self._features.iterdir()):
            orphan = path.suffix == ".h5" and path.stem.isdigit() and int(path.stem) >= next_shard
            if orphan or path.name.endswith(PARTIAL):
                _LOG.info("removing %s, left by a run that was cut short", path)
                path.unlink()
        fsync_folder(self._features)

    def publish_view(self) -> None:
        """Write ``features.h5`` anew."""
        try:
            write_view(self.path / "features.h5", self._features, self.catalog)
        except PermissionError as error:
            # Windows: somebody has it open. It is a convenience, not the truth: the next run writes it again.
            _LOG.warning("features.h5 is in use and stays as it was: %s", error)


def _prepare(path: Path, spec: FeatureSpec) -> None:
    """Make the folders and an empty catalog where there is none yet."""
    catalog, features = path / "catalog.sqlite", path / "features"
    if not catalog.is_file():
        if features.is_dir() and any(features.glob("*.h5")):
            raise StoreCorruptError(
                f"{path}: there are shards but no catalog.sqlite; restore it from a backup, "
                "or move the folder away to extract anew"
            )
        strangers = [each.name for each in path.iterdir() if each.name not in _STORE_NAMES] if path.is_dir() else []
        if strangers:
            raise StoreCorruptError(
                f"{path}: not a store: the folder holds {strangers[0]!r}; name a new or empty folder in 'store:'"
            )
    for folder in (path, features, path / "index", path / "reports"):
        folder.mkdir(parents=True, exist_ok=True)
    if not catalog.is_file():
        with published(catalog) as partial:
            partial.unlink(missing_ok=True)
            Catalog.create(partial, spec)


_STORE_NAMES = {"features", "index", "reports", "lock", f"catalog.sqlite{PARTIAL}"}
_STORE_NAMES |= {f"catalog.sqlite{PARTIAL}-wal", f"catalog.sqlite{PARTIAL}-shm"}
