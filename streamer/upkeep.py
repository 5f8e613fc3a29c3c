"""Looking after a store: find damage, drop it, give space back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from streamer.errors import ExitCode, Interrupted, StoreMissingError, StreamerError
from streamer.index import fall_back, index_faults
from streamer.records import Progress
from streamer.store import (
    Catalog,
    CatalogWriter,
    Compaction,
    Fault,
    StoreLock,
    catalog_faults,
    compact_shards,
    drop_shards,
    publish_view,
    recorded,
    remake_catalog,
    remove_damaged_thumbnails,
    shard_faults,
    sweep,
    thumbnail_faults,
    view_fault,
    writing,
)

__all__ = ["CheckReport", "check", "compact"]

_LOG = logging.getLogger(__name__)


@dataclass
class CheckReport:
    """What a check found.

    Attributes
    ----------
    store : str
    faults : list of Fault
        Empty when all is as it was written.
    repaired : bool
        Whether the faults were dropped from the store.
    images_to_extract : int
        Images that a repair dropped: the next run extracts them again.
    """

    store: str
    faults: list[Fault] = field(default_factory=list)
    repaired: bool = False
    images_to_extract: int = 0

    @property
    def exit_code(self) -> int:
        """0 when the store is sound, now; otherwise 1."""
        return ExitCode.DONE if self.repaired or not self.faults else ExitCode.FAILED

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as ``streamer check --json`` prints them."""
        faults = [{"place": fault.place, "what": fault.what} for fault in self.faults]
        return {**asdict(self), "clean": not self.faults, "faults": faults}


def check(path: Path, *, repair: bool = False, progress: Progress = lambda stage, done, total: None) -> CheckReport:
    """Read all of a store and compare it with what was noted when it was written.

    Parameters
    ----------
    path : Path
        The store's folder.
    repair : bool
        Drop what is damaged, so that the next run makes it anew; nothing else is touched. A catalog that cannot be read
        is made anew from the shards.
    progress : callable, optional
        Called with ``("check", shards done, shards)``.

    Returns
    -------
    CheckReport

    Raises
    ------
    StoreMissingError
        If there is no store.
    StoreFormatError
        If it was made by a newer release.
    StoreLockedError
        If it is to be repaired while another run is writing.
    """
    if not (path / "catalog.sqlite").is_file() and not any((path / "features").glob("*.h5")):
        raise StoreMissingError(f"{path}: no store here; make one with 'streamer run CONFIG'")
    report = CheckReport(str(path))
    if not repair:
        _find(path, report, progress)
        return report
    with StoreLock(path):
        _find(path, report, progress)
        if report.faults:
            _repair(path, report)
            again = CheckReport(str(path))
            _find(path, again, progress)
            if again.faults:
                left = "; ".join(f"{fault.place}: {fault.what}" for fault in again.faults)
                raise StreamerError(f"{path}: could not be repaired: {left}. Restore it from a backup")
            report.repaired = True
    return report


def _find(path: Path, report: CheckReport, progress: Progress) -> None:
    report.faults += catalog_faults(path)
    if report.faults:
        return
    with contextlib.closing(Catalog(path / "catalog.sqlite")) as catalog:
        fingerprint = catalog.spec.fingerprint
        report.faults += shard_faults(path, catalog, lambda done, total: progress("check", done, total))
        view = view_fault(path, catalog)
    for place, what in (*index_faults(path / "index", fingerprint), *thumbnail_faults(path / "thumbnails")):
        report.faults.append(Fault(place.relative_to(path).as_posix(), what))
    if view is not None:
        report.faults.append(view)


def _repair(path: Path, report: CheckReport) -> None:
    features, index = path / "features", path / "index"
    if any(fault.place == "catalog.sqlite" for fault in report.faults):
        with writing(path):
            rows = remake_catalog(path)
        _LOG.warning("the catalog was made anew; the next run finds the features of %d images by their bytes", rows)
    with _open(path, "check --repair") as catalog:
        # The index first: it is made anew from the shards, not they from it.
        faults = list(shard_faults(path, catalog))
        for fault in faults:
            if not fault.certain:
                raise StreamerError(
                    f"{path / fault.place}: {fault.what}: that may pass, so nothing was dropped. See that it can be "
                    "read, and repair again"
                )
        damaged = [fault.shard for fault in faults if fault.shard is not None]
        with writing(path):
            if index.is_dir() and index_faults(index, catalog.spec.fingerprint):
                fall_back(index, catalog.spec.fingerprint)
            report.images_to_extract = drop_shards(path, catalog, damaged)
            if view_fault(path, catalog) is not None:
                (path / "features.h5").unlink()
            publish_view(path, catalog)
            sweep(features, catalog)
            remove_damaged_thumbnails(path / "thumbnails")


def compact(
    path: Path,
    *,
    progress: Progress = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Compaction:
    """Merge small shards and drop the rows of images that are gone.

    Parameters
    ----------
    path : Path
        The store's folder.
    progress, should_stop : callable, optional
        Called with ``("compact", shards done, shards)``; asked after each shard.

    Raises
    ------
    StoreMissingError, StoreLockedError, StoreCorruptError, StoreWriteError
        There is no store; another run is writing; a shard is damaged; the disk is full.
    Interrupted
        `should_stop` said so. What was done is committed.
    """
    if not (path / "catalog.sqlite").is_file():
        raise StoreMissingError(f"{path}: no store here; make one with 'streamer run CONFIG'")
    with StoreLock(path), _open(path, "compact") as catalog:
        with writing(path):
            sweep(path / "features", catalog)
        done = compact_shards(
            path, catalog, progress=lambda done, total: progress("compact", done, total), should_stop=should_stop
        )
        if should_stop():
            raise Interrupted("stopped; what was compacted is committed")
        return done


@contextlib.contextmanager
def _open(path: Path, command: str) -> Iterator[CatalogWriter]:
    """Open the catalog for writing and keep a record of the work."""
    with recorded(path, command), contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog:
        yield catalog
