"""What has changed in the source since the last run: the listing merged with the catalog, both sorted by key.

Neither side is ever held in memory as a whole. What is to be looked at, and what is gone, goes to temporary tables on
disk, so that the numbers are known before work starts and the source is walked once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

from streamer.errors import StreamerError
from streamer.records import ImageRef, Rejected
from streamer.store.catalog import Catalog

__all__ = ["Changes", "find_changes"]


class Changes:
    """The outcome of a comparison.

    Attributes
    ----------
    seen, unchanged : int
        Images listed; those that are in the store as they are.
    pending_count : int
        Images to read: new ones and changed ones. Some may turn out to be unreadable, or to be known by their content.
    known_bad : int
        Images that failed before and have not changed since: not tried again.
    """

    def __init__(self) -> None:
        self.seen = self.unchanged = self.pending_count = self.known_bad = 0
        # A nameless database is SQLite's own temporary file: it spills to disk and vanishes when closed, or killed.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE pending (key TEXT, path TEXT, size INTEGER, mtime_ns INTEGER, label TEXT)")
        self._db.execute("CREATE TABLE relocated (path TEXT, key TEXT)")
        self._db.execute("CREATE TABLE relabelled (label TEXT, key TEXT)")
        self._db.execute("CREATE TABLE gone (id INTEGER PRIMARY KEY, content BLOB, size INTEGER)")
        self._db.execute("CREATE INDEX gone_by_content ON gone (content)")
        self._db.execute("CREATE INDEX pending_by_size ON pending (size)")
        self._db.execute("CREATE TABLE fixed (path TEXT)")
        self._db.execute("CREATE TABLE rejected (key, path, size, mtime_ns, label, reason, lasting)")
        self._db.execute("BEGIN")

    def add_pending(self, ref: ImageRef) -> None:
        """Note an image to extract."""
        self.pending_count += 1
        row = (ref.key, ref.path, ref.size, ref.mtime_ns, ref.label)
        self._db.execute("INSERT INTO pending VALUES (?, ?, ?, ?, ?)", row)

    def pending(self) -> Iterator[ImageRef]:
        """The images to extract, sorted by key."""
        query = "SELECT key, path, size, mtime_ns, label FROM pending ORDER BY rowid"
        return (ImageRef(*row) for row in self._db.execute(query))

    def add_relocated(self, ref: ImageRef) -> None:
        """Note an image that is as it was, at another path."""
        self._db.execute("INSERT INTO relocated VALUES (?, ?)", (ref.path, ref.key))

    def relocated(self) -> Iterator[tuple[str, str]]:
        """``(path, key)`` of images that are as they were, at another path."""
        return iter(self._db.execute("SELECT path, key FROM relocated"))

    def add_relabelled(self, ref: ImageRef) -> None:
        """Note an image that is as it was, under another label."""
        self._db.execute("INSERT INTO relabelled VALUES (?, ?)", (ref.label, ref.key))

    def relabelled(self) -> Iterator[tuple[str, str]]:
        """``(label, key)`` of images that are as they were, under another label."""
        return iter(self._db.execute("SELECT label, key FROM relabelled"))

    def add_removed(self, number: int, content: bytes, size: int) -> None:
        """Note an image that is in the store and no longer in the source."""
        self._db.execute("INSERT INTO gone VALUES (?, ?, ?)", (number, content, size))

    def add_fixed(self, path: str) -> None:
        """Note a failure that no longer stands in the source, by its path."""
        self._db.execute("INSERT INTO fixed VALUES (?)", (path,))

    def fixed(self) -> Iterator[str]:
        """Paths of failures that no longer stand in the source."""
        return (row[0] for row in self._db.cursor().execute("SELECT path FROM fixed ORDER BY rowid"))

    def add_rejected(self, item: Rejected) -> None:
        """Note an image that the listing itself could not take."""
        ref = item.ref
        row = (ref.key, ref.path, ref.size, ref.mtime_ns, ref.label, item.reason, item.lasting)
        self._db.execute("INSERT INTO rejected VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def rejected(self) -> Iterator[Rejected]:
        """Images that the listing itself could not take."""
        rows = self._db.cursor().execute("SELECT * FROM rejected ORDER BY rowid")
        return (Rejected(ImageRef(*row[:5]), row[5], bool(row[6])) for row in rows)

    def removed(self) -> Iterator[int]:
        """Ids of the images that are in the store and no longer in the source, and cannot have moved."""
        query = "SELECT id FROM gone WHERE size NOT IN (SELECT size FROM pending) ORDER BY id"
        return (row[0] for row in self._db.cursor().execute(query))

    def missing(self) -> Iterator[int]:
        """Ids of the images that are in the store and no longer in the source, but for those that were claimed."""
        return (row[0] for row in self._db.cursor().execute("SELECT id FROM gone ORDER BY id"))

    def missing_count(self) -> int:
        """How many `missing` there are."""
        return int(self._db.execute("SELECT count(*) FROM gone").fetchone()[0])

    def claim(self, content: bytes) -> int | None:
        """The id of an image that is gone and had this content, once: it has moved."""
        found: int | None = self._db.execute("SELECT min(id) FROM gone WHERE content = ?", (content,)).fetchone()[0]
        if found is not None:
            self._db.execute("DELETE FROM gone WHERE id = ?", (found,))
        return found

    def likely_moved(self) -> int:
        """How many of the images that are gone may have moved, told before any is read: by the sizes of new ones."""
        query = (
            "SELECT coalesce(sum(min(a.n, b.n)), 0) FROM (SELECT size, count(*) AS n FROM gone GROUP BY size) AS a "
            "JOIN (SELECT size, count(*) AS n FROM pending GROUP BY size) AS b USING (size)"
        )
        return int(self._db.execute(query).fetchone()[0])

    def close(self) -> None:
        self._db.close()


def find_changes(listing: Iterable[ImageRef | Rejected], catalog: Catalog, limits: str) -> Changes:
    """Compare a listing with the catalog.

    Parameters
    ----------
    listing : iterable of ImageRef or Rejected
        The source, sorted by key.
    catalog : Catalog
    limits : str
        The limits that images are decoded under; a failure under other limits is tried again.

    Returns
    -------
    Changes
    """
    changes = Changes()
    try:
        _compare(listing, catalog, limits, changes)
    except BaseException:
        changes.close()
        raise
    return changes


def _compare(listing: Iterable[ImageRef | Rejected], catalog: Catalog, limits: str, changes: Changes) -> None:
    known = _Cursor(catalog.known())
    failed = _Cursor(catalog.known_failures())
    unlisted_folder = ""  # the last one: what is below it comes next in the order of keys
    previous = ""
    for key, group in groupby(listing, key=lambda item: item.key if isinstance(item, ImageRef) else item.ref.key):
        if key < previous:
            raise StreamerError(f"the source lists {key!r} after {previous!r}: it must list images sorted by key")
        previous = key
        _note_removed(changes, known.before(key), unlisted_folder)
        _note_fixed(changes, failed.before(key), unlisted_folder)
        image = next(iter(known.at(key)), None)
        failures = {row[1]: row for row in failed.at(key)}
        for item in group:
            changes.seen += 1
            if isinstance(item, Rejected):
                failures.pop(item.ref.path, None)
                changes.add_rejected(item)
                if not item.lasting and image is not None:
                    image = None  # out of sight, not gone: what is stored stays
                if key.endswith("/"):
                    unlisted_folder = key
                continue
            state = (item.size, item.mtime_ns)
            failure = failures.pop(item.path, None)
            if failure is not None and failure[2:4] == state and failure[4] == limits:
                changes.known_bad += 1
            elif image is not None and image[2:4] == state:
                changes.unchanged += 1
                if image[4] != item.path:
                    changes.add_relocated(item)
                if image[5] != item.label:
                    changes.add_relabelled(item)
                if failure is not None:
                    changes.add_fixed(item.path)
            else:
                changes.add_pending(item)
            image = None
        _note_removed(changes, [image] if image is not None else [], unlisted_folder)
        for path in failures:
            changes.add_fixed(path)
    _note_removed(changes, known.rest(), unlisted_folder)
    _note_fixed(changes, failed.rest(), unlisted_folder)


def _note_removed(changes: Changes, rows: Iterable[tuple], unlisted_folder: str) -> None:  # type: ignore[type-arg]
    """A photo below a folder that could not be listed is not gone: it is out of sight."""
    for key, number, size, _mtime_ns, _path, _label, content in rows:
        if unlisted_folder and key.startswith(unlisted_folder):
            changes.unchanged += 1
            changes.seen += 1
        else:
            changes.add_removed(number, content, size)


def _note_fixed(changes: Changes, rows: Iterable[tuple], unlisted_folder: str) -> None:  # type: ignore[type-arg]
    for key, path, *_ in rows:
        if not (unlisted_folder and key.startswith(unlisted_folder)):
            changes.add_fixed(path)


class _Cursor:
    """Rows sorted by their first column, taken in step with another sorted stream."""

    def __init__(self, rows: Iterator[tuple]) -> None:  # type: ignore[type-arg]
        self._groups = groupby(rows, key=itemgetter(0))
        self._next = next(self._groups, None)

    def _take(self) -> list[tuple]:  # type: ignore[type-arg]
        assert self._next is not None
        rows = list(self._next[1])
        self._next = next(self._groups, None)
        return rows

    def before(self, key: str) -> Iterator[tuple]:  # type: ignore[type-arg]
        while self._next is not None and self._next[0] < key:
            yield from self._take()

    def at(self, key: str) -> list[tuple]:  # type: ignore[type-arg]
        return self._take() if self._next is not None and self._next[0] == key else []

    def rest(self) -> Iterator[tuple]:  # type: ignore[type-arg]
        while self._next is not None:
            yield from self._take()
