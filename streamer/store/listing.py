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
        Of images with the same key, the first is taken, and the others are `Rejected`: they cannot be told apart.
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
        taken: str | None = None
        for *values, reason, lasting in db.execute("SELECT * FROM listing ORDER BY key, rowid"):
            ref = ImageRef(*values)
            if reason is not None:
                yield Rejected(ref, reason, bool(lasting))
            elif ref.key == taken:
                yield Rejected(
                    ref, "another image of the source has the same key, and the first one is taken: rename it"
                )
            else:
                taken = ref.key
                yield ref


def _row(item: ImageRef | Rejected) -> tuple[object, ...]:
    if isinstance(item, Rejected):
        return (*astuple(item.ref), item.reason, item.lasting)
    return (*astuple(item), None, None)
