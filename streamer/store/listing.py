"""A listing in any order into one that is sorted by key, as a comparison with the catalog needs it, on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import astuple

from streamer.records import ImageRef, Rejected

__all__ = ["sorted_by_key"]

_ROWS_AT_A_TIME = 1000


def sorted_by_key(listing: Iterable[ImageRef | Rejected]) -> Iterator[ImageRef | Rejected]:
    """Sort a listing by key; it goes to a temporary file, and no more than a thousand images are in memory.

    Parameters
    ----------
    listing : iterable of ImageRef or Rejected

    Yields
    ------
    ImageRef or Rejected
        Of images with the same key, the first is taken, and the others are `Rejected`: they cannot be told apart. What
        is listed twice, key and path, is listed once.
    """
    # A nameless database is SQLite's own temporary file: it spills to disk and vanishes when closed, or killed.
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        db.execute(
            "CREATE TABLE listing (key TEXT, path TEXT, size INTEGER, mtime_ns INTEGER, label TEXT, reason, lasting)"
        )
        db.execute("BEGIN")
        rows: list[tuple[object, ...]] = []
        for item in listing:
            rows.append(_row(item))
            if len(rows) == _ROWS_AT_A_TIME:
                db.executemany("INSERT INTO listing VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                rows.clear()
        db.executemany("INSERT INTO listing VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        taken: ImageRef | None = None
        for *values, reason, lasting in db.execute("SELECT * FROM listing ORDER BY key, reason IS NOT NULL, rowid"):
            ref = ImageRef(*values)
            if taken is None or ref.key != taken.key:
                taken = ref if reason is None else None
                yield ref if reason is None else Rejected(ref, reason, bool(lasting))
            elif ref.path != taken.path:
                # Not for good, whatever is wrong with it: that would take away the features of the one that is taken.
                twin = "another image of the source has the same key, and the first is taken: rename it"
                yield Rejected(ref, reason or twin, lasting=False)


def _row(item: ImageRef | Rejected) -> tuple[object, ...]:
    if isinstance(item, Rejected):
        return (*astuple(item.ref), item.reason, item.lasting)
    return (*astuple(item), None, None)
