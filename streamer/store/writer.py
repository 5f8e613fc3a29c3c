"""The one writer of a store: it appends, commits, and sweeps up what a crash left."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from streamer.errors import FingerprintMismatchError, StoreCorruptError, StoreWriteError
from streamer.files import PARTIAL, fsync_folder, published
from streamer.records import FeatureBatch, ImageRef, Rejected
from streamer.store.catalog import Catalog
from streamer.store.catalog_writer import CatalogWriter
from streamer.store.changes import Changes
from streamer.store.compression import require_compression
from streamer.store.shard import ShardWriter, shard_path
from streamer.store.spec import FeatureSpec
from streamer.store.view import write_view

__all__ = ["StoreWriter", "beside", "publish_view", "sweep", "writing"]

_LOG = logging.getLogger(__name__)

# Bounds the names and digests that wait in memory for their commit: about 400 bytes each.
_MAX_PENDING = 65_536
# Of maps with 85 % zeros, measured by scripts/bench_storage.py.
_LEAST_SHARE = 0.2
# From here on values are rounded to infinity.
_FLOAT16_OVERFLOW = 65_520


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
    compression : {"none", "gzip", "lzf", "blosc"}
        Of the shards that are written. Those that are there may be compressed otherwise.
    commit_seconds, commit_bytes : float, int
        A shard is sealed and committed when it is this old or this large, whichever comes first.
    limits : str
        The limits that images are decoded under, remembered with each failure.

    Attributes
    ----------
    counts : Counter
        Committed images by what became of them: added, updated, moved, unchanged, failed.

    Raises
    ------
    FingerprintMismatchError
        If the store holds features of another kind.
    StoreCorruptError
        If the folder is not a store, or its catalog is damaged.
    StoreWriteError
        Here and by each method that writes: the disk is full, or fails. What was committed before is safe.
    CompressionUnavailableError
        If the package for the compression is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: FeatureSpec,
        *,
        engine: str,
        limits: str,
        compression: str = "none",
        commit_seconds: float = 60.0,
        commit_bytes: int = 256 * 2**20,
    ) -> None:
        require_compression(compression, f"{path}: storage.compression")
        self.path = Path(path)
        self.spec = spec
        self._compression = compression
        self.counts: Counter[str] = Counter()
        self._engine = engine
        self._limits = limits
        self._commit_seconds = commit_seconds
        self._commit_bytes = commit_bytes
        self._features = self.path / "features"
        self._shard: ShardWriter | None = None
        self._shard_number = 0
        self._began: float | None = None
        self._contents: list[bytes] = []
        self._copies: list[int] = []
        self._spoilt: dict[bytes, str] = {}
        self._uncommitted: set[bytes] = set()
        self._placed: list[tuple[ImageRef, bytes]] = []
        self._rejected: list[Rejected] = []
        self._changes: Changes | None = None
        self._asking = threading.Lock()
        with writing(self.path):
            _prepare(self.path, spec)
            self.catalog = CatalogWriter(self.path / "catalog.sqlite")
            try:
                self._refuse_other_features()
                sweep(self._features, self.catalog)
                # Asked by the threads that decode, while this one writes.
                self._lookup = Catalog(self.path / "catalog.sqlite")
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
            self._lookup.close()
            self.catalog.close()

    def knows(self, content: bytes) -> bool:
        """Whether there are features of the bytes with this digest, committed or not. Ask from any thread."""
        if content in self._uncommitted:
            return True
        with self._asking:
            return self._lookup.knows(content)

    def apply(self, changes: Changes) -> None:
        """Drop what is gone, note new paths, new labels and what could not be listed, all in one transaction.

        What may have moved, by the sizes of new files, stays until it turns up again, or until `finish`.
        """
        self._changes = changes
        with self.catalog.transaction():
            self.catalog.forget_ids(changes.removed())
            self.catalog.forget_failures((path,) for path in changes.fixed())
            self.catalog.relocate(changes.relocated())
            self.catalog.relabel(changes.relabelled())
            self.catalog.forget_unreadable(changes.rejected())
            self.catalog.add_failures(changes.rejected(), self._limits)

    def finish(self) -> None:
        """Commit, and drop what did not turn up again: every image of the changes has been appended."""
        self.commit()
        if self._changes is not None and self._changes.missing_count():
            with self.catalog.transaction():
                self.catalog.forget_ids(self._changes.missing())

    def append(self, batch: FeatureBatch) -> None:
        """Take the features of a batch; commit when that is due.

        An image of which a value is too large for the store's dtype is refused, and so are its augmented copies.
        """
        if self.spec.dtype == "float16":
            batch = batch.without(_overflows(batch), self._spoilt)
        if self._began is None:
            self._began = time.monotonic()
        self._rejected.extend(batch.rejected)
        if batch.refs:
            keys, labels = [ref.key for ref in batch.refs], [ref.label for ref in batch.refs]
            with writing(self.path):
                if self._shard is None:
                    self._shard_number = self.catalog.next_shard()
                    target = shard_path(self._features, self._shard_number)
                    self._shard = ShardWriter(target, self.spec, self._engine, self._compression)
                self._shard.append(keys, labels, batch.contents, batch.copy_numbers, batch.features)
            self._contents.extend(batch.contents)
            self._copies.extend(batch.copy_numbers)
            self._uncommitted.update(content for _, content in batch.originals)
            self._placed.extend(batch.originals)
        for each in batch.known:
            if self.knows(each.content):
                self._placed.append((each.ref, each.content))
            else:
                self._rejected.append(Rejected(each.ref, "the same bytes as another image, which cannot be used"))
        if self._due():
            self.commit()

    def _due(self) -> bool:
        assert self._began is not None
        return (
            (self._shard is not None and self._shard.feature_bytes >= self._commit_bytes)
            or max(len(self._placed), len(self._contents)) + len(self._rejected) >= _MAX_PENDING
            or time.monotonic() - self._began >= self._commit_seconds
        )

    def commit(self) -> None:
        """Seal the shard, then make its rows, what moved and the failures met on the way real in one transaction."""
        if not self._placed and not self._contents and not self._rejected:
            return
        claim = self._changes.claim if self._changes is not None else lambda content: None
        counts: Counter[str] = Counter(failed=len(self._rejected))
        with writing(self.path):
            sealed = self._shard.seal() if self._shard is not None else None
        with self.catalog.transaction():
            if sealed is not None:
                self.catalog.add_shard(self._shard_number, sealed, self._engine, self._contents, self._copies)
            counts.update(self.catalog.place(ref, content, claim) for ref, content in self._placed)
            self.catalog.forget_failures((ref.path,) for ref, _ in self._placed)
            # An image that can no longer be read has no features: those of its old content are not its own.
            self.catalog.forget_unreadable(self._rejected)
            self.catalog.add_failures(self._rejected, self._limits)
        self.counts += counts
        self._shard = None
        self._began = None
        self._contents, self._copies, self._placed, self._rejected = [], [], [], []
        self._uncommitted.clear()

    def _refuse_other_features(self) -> None:
        differences = self.spec.differences(self.catalog.spec)
        if differences:
            raise FingerprintMismatchError(
                f"{self.path}: this store holds other features than the config asks for: {'; '.join(differences)}. "
                "Give the config another 'store:', or change it back"
            )
        if self.spec != self.catalog.spec:  # the same weights, from another place
            self.catalog.set_spec(self.spec)

    def compressed_share(self) -> float:
        """What part of their uncompressed size features take on disk, by the newest shard that is compressed so.

        Before there is one, the least that maps after a ReLU were seen to take: a disk that is found too small later
        costs nothing that was committed, and a run that is refused for nothing has no way round.
        """
        if self._compression == "none":
            return 1.0
        alike = [each for each in self.catalog.sealed().values() if each.rows and each.compression == self._compression]
        return min(1.0, alike[-1].n_bytes / (alike[-1].rows * self.spec.row_bytes)) if alike else _LEAST_SHARE

    def publish_view(self) -> None:
        """Write ``features.h5`` anew, if images or shards have changed since it was written."""
        publish_view(self.path, self.catalog)


def _overflows(batch: FeatureBatch) -> dict[int, str]:
    """Rows with values that float16 would take for infinite, and why that is so."""
    found: dict[int, str] = {}
    for name, values in batch.features.items():
        flat = values.reshape(len(values), -1)
        peaks = np.maximum(flat.max(axis=1, initial=0), -flat.min(axis=1, initial=0))
        for row, peak in enumerate(peaks.tolist()):
            if peak >= _FLOAT16_OVERFLOW:
                found[row] = (
                    f"{name}: a feature of {peak:.6g} is more than float16 can hold (65504); give the config another "
                    "'store:' and storage.dtype: float32"
                )
    return found


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a disk answers that is full or fails into a `StoreWriteError`.

    Parameters
    ----------
    path : Path
        The store's folder.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or path
        remedy = "Free some space or mend the disk"
        if isinstance(error, PermissionError):
            remedy = "See who may write there, and whether another program has it open"
        raise StoreWriteError(
            f"{place}: cannot be written ({error.strerror or error}); what was committed before is safe. "
            f"{remedy}, and run again"
        ) from error


def publish_view(path: Path, catalog: Catalog) -> None:
    """Write ``features.h5`` of the store at `path` anew, if images or shards have changed since it was written."""
    with writing(path):
        try:
            write_view(path / "features.h5", path / "features", catalog)
        except PermissionError as error:
            # Windows: somebody has it open. It is a convenience, not the truth: the next run writes it again.
            _LOG.warning("features.h5 is in use and stays as it was: %s", error)


def sweep(features: Path, catalog: Catalog) -> None:
    """Remove what a crash or a compact left: half a shard, or one that the catalog does not name."""
    real = {shard_path(features, number) for number, _, _ in catalog.shards()}
    removed = False
    for path in sorted(features.iterdir()):
        orphan = path.suffix == ".h5" and path.stem.isdigit() and path not in real
        if orphan or path.name.endswith(PARTIAL):
            _LOG.info("removing %s, which is no part of the store (any more)", path)
            with contextlib.suppress(PermissionError):  # Windows: a search has it open still
                path.unlink()
                removed = True
    if removed:
        fsync_folder(features)


def _prepare(path: Path, spec: FeatureSpec) -> None:
    """Make the folders and an empty catalog where there is none yet."""
    catalog, features = path / "catalog.sqlite", path / "features"
    if not catalog.is_file():
        if features.is_dir() and any(features.glob("*.h5")):
            raise StoreCorruptError(
                f"{path}: there are shards but no catalog.sqlite; make it anew from them with "
                f"'streamer check {path} --repair', or restore it from a backup"
            )
        strangers = [each.name for each in path.iterdir() if each.name not in _STORE_NAMES] if path.is_dir() else []
        if strangers:
            raise StoreCorruptError(
                f"{path}: not a store: the folder holds {strangers[0]!r}; name a new or empty folder in 'store:'"
            )
    for folder in (path, features, path / "index", path / "reports"):
        folder.mkdir(parents=True, exist_ok=True)
    for stale in beside(catalog.with_name(catalog.name + PARTIAL)):
        stale.unlink(missing_ok=True)
    if not catalog.is_file():
        with published(catalog) as partial:
            CatalogWriter.create(partial, spec)


def beside(database: Path) -> list[Path]:
    """A database and the files that SQLite keeps beside it."""
    return [database.with_name(database.name + suffix) for suffix in ("", "-journal", "-wal", "-shm")]


_STORE_NAMES = {"features", "heads", "index", "reports", "logs", "lock"}
_STORE_NAMES |= {path.name for path in beside(Path(f"catalog.sqlite{PARTIAL}"))}
