"""The catalog as it is at one moment, in a file of its own, and such a file in the place of a catalog."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from streamer.errors import StoreMissingError
from streamer.files import fsync_folder, rename
from streamer.store.sqlite import connect
from streamer.store.writer import beside

__all__ = ["catalog_snapshot", "replace_catalog"]


def catalog_snapshot(store: Path, target: Path) -> None:
    """Copy the catalog of a store, by a transaction of its own: a run may go on beside it.

    Parameters
    ----------
    store : Path
        The store's folder.
    target : Path
        The file to make: whole without a log beside it.

    Raises
    ------
    StoreMissingError, StoreCorruptError
        There is no catalog, or it is damaged.
    """
    catalog = store / "catalog.sqlite"
    if not catalog.is_file():
        raise StoreMissingError(f"{store}: no store here; make one with 'streamer run CONFIG'")
    with contextlib.closing(connect(catalog, "ro")) as source, contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")


def replace_catalog(store: Path, arrived: Path) -> None:
    """Put a file in the place of the catalog, at once for whoever reads it; nobody may be writing.

    Parameters
    ----------
    store : Path
        The store's folder.
    arrived : Path
        Made by `catalog_snapshot`, durable.
    """
    catalog = store / "catalog.sqlite"
    for log in beside(catalog)[1:]:  # or it would be taken for the new one's
        log.unlink(missing_ok=True)
    fsync_folder(store)
    rename(arrived, catalog)
