"""The catalog as its one writer sees it: everything changes in transactions."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamer.records import ImageRef, Rejected
from streamer.store.catalog import Catalog
from streamer.store.shard import SealedShard
from streamer.store.spec import FORMAT, FeatureSpec
from streamer.store.sqlite import connect

__all__ = ["CatalogWriter"]

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE shards (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- the number in the file's name; never reused once committed
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    digest BLOB NOT NULL,                   -- BLAKE2b-128 of the file
    engine TEXT NOT NULL,
    compression TEXT NOT NULL DEFAULT 'none'
);
CREATE TABLE features (
    content BLOB PRIMARY KEY,               -- BLAKE2b-128 of the image file's bytes: the same bytes, the same features
    shard INTEGER NOT NULL REFERENCES shards (id),
    row INTEGER NOT NULL                    -- dead while no image has this content, until compact
) WITHOUT ROWID;
CREATE UNIQUE INDEX features_by_place ON features (shard, row);
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- never reused for other content: an edited image gets a new id
    key TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    label TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    content BLOB NOT NULL REFERENCES features (content)
);
CREATE INDEX images_by_content ON images (content);
CREATE TABLE failures (
    path TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    label TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    reason TEXT NOT NULL,
    limits TEXT NOT NULL                    -- the limits it failed under: other limits are a reason to try again
) WITHOUT ROWID;
CREATE INDEX failures_by_key ON failures (key);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    command TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started REAL NOT NULL,
    finished REAL,
    exit_code INTEGER,
    message TEXT
);
"""

_AUGMENTED = """
CREATE TABLE augmented (
    content BLOB NOT NULL,                  -- of the source image; its features may be still to come
    copy INTEGER NOT NULL,                  -- from 1 on
    shard INTEGER NOT NULL REFERENCES shards (id),
    row INTEGER NOT NULL,                   -- dead while no image has this content, until compact
    PRIMARY KEY (content, copy)
) WITHOUT ROWID;
CREATE UNIQUE INDEX augmented_by_place ON augmented (shard, row);
"""


class CatalogWriter(Catalog):
    """An open catalog, and the right to change it: hold the `StoreLock`.

    Parameters
    ----------
    path : Path
        ``catalog.sqlite`` of a store.
    log : bool
        Whether changes go to a write-ahead log first, so that readers and the writer never wait for each other. A
        catalog that is to be renamed must be whole in its one file: SQLite says nothing when the log cannot be emptied.

    Raises
    ------
    StoreWriteError
        By every method that writes: the disk is full or fails, or the file is locked. Nothing was changed.
    """

    _MODE = "rw"

    def __init__(self, path: Path, *, log: bool = True) -> None:
        super().__init__(path)
        try:
            self._db.execute(f"PRAGMA journal_mode={'WAL' if log else 'DELETE'}")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._complete()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def create(cls, path: Path, spec: FeatureSpec) -> None:
        """Write an empty catalog at `path`."""
        with contextlib.closing(connect(path, "rwc")) as db:
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(f"BEGIN; {_SCHEMA} {_AUGMENTED}")
            meta = [("format", str(FORMAT)), ("spec", spec.to_json()), ("changes", "0")]
            db.executemany("INSERT INTO meta VALUES (?, ?)", meta)
            db.execute("COMMIT")
            # Now, not when it is first written to: a reader could not undo a switch that was cut short.
            db.execute("PRAGMA journal_mode=WAL")

    def _complete(self) -> None:
        """Add what a catalog lacks that was made before there was augmentation, or compression."""
        if not self.has_column("augmented", "content"):
            self._db.executescript(f"BEGIN; {_AUGMENTED} COMMIT")
        if not self.has_column("shards", "compression"):
            self._db.execute("ALTER TABLE shards ADD COLUMN compression TEXT NOT NULL DEFAULT 'none'")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Change images or shards: all or nothing.

        Raises
        ------
        StoreWriteError
            If the disk is full or fails. Nothing was changed.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("UPDATE meta SET value = value + 1 WHERE name = 'changes'")
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # some errors roll back by themselves
                self._db.execute("ROLLBACK")
            raise

    def add_shard(
        self, shard: int, sealed: SealedShard, engine: str, contents: Sequence[bytes], copies: Sequence[int]
    ) -> None:
        """Make a sealed shard's rows real. Call inside a transaction.

        ``contents[i]`` is the content of row i, and ``copies[i]`` which augmented copy of it that is; 0 is the image
        itself. What has a row elsewhere moves here.
        """
        values = (shard, sealed.rows, sealed.n_bytes, sealed.digest, engine, sealed.compression)
        self._db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?)", values)
        rows = list(zip(contents, copies, range(sealed.rows), strict=True))
        self._db.executemany(
            "INSERT INTO features VALUES (?, ?, ?) "
            "ON CONFLICT (content) DO UPDATE SET shard = excluded.shard, row = excluded.row",
            ((content, shard, row) for content, copy, row in rows if copy == 0),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO augmented VALUES (?, ?, ?, ?)",
            ((content, copy, shard, row) for content, copy, row in rows if copy),
        )

    def forget_incomplete(self, copies: int) -> None:
        """Forget the features of images that have not all augmented copies. Call before there are images."""
        query = "DELETE FROM features WHERE (SELECT count(*) FROM augmented WHERE content = features.content) < ?"
        self._db.execute(query, (copies,))

    def begin_ids_at(self, number: int) -> None:
        """Give images of a new catalog ids from here on: those of the old one must not come again."""
        self._db.execute("INSERT INTO sqlite_sequence VALUES ('images', ?)", (number,))

    def begin_log(self) -> None:
        """Let changes go to a write-ahead log from now on."""
        self._db.execute("PRAGMA journal_mode=WAL")

    def drop_shard(self, shard: int) -> int:
        """Forget a shard, the rows that are still its own and their images. Call inside a transaction.

        An image of which only an augmented copy was there is forgotten with the rest of its rows, so that it gets all
        of them again.

        Returns
        -------
        int
            How many images that were.
        """
        held = "(SELECT content FROM features WHERE shard = ? UNION SELECT content FROM augmented WHERE shard = ?)"
        images = self._db.execute(f"DELETE FROM images WHERE content IN {held}", (shard, shard)).rowcount  # noqa: S608
        self._db.execute(f"DELETE FROM features WHERE content IN {held}", (shard, shard))  # noqa: S608
        self._db.execute("DELETE FROM augmented WHERE shard = ?", (shard,))
        self._db.execute("DELETE FROM shards WHERE id = ?", (shard,))
        return images

    def place(self, ref: ImageRef, content: bytes, claim: Callable[[bytes], int | None]) -> str:
        """Make an image one with this content, whose features are there. Call inside a transaction.

        Parameters
        ----------
        ref : ImageRef
        content : bytes
        claim : callable
            Gives the id of an image with this content that has just been found gone, once, or None.

        Returns
        -------
        {"unchanged", "updated", "moved", "added"}
            What became of the image.
        """
        state = (ref.path, ref.label, ref.size, ref.mtime_ns)
        before = self._db.execute("SELECT id, content FROM images WHERE key = ?", (ref.key,)).fetchone()
        if before is not None and before[1] == content:
            query = "UPDATE images SET path = ?, label = ?, size = ?, mtime_ns = ? WHERE id = ?"
            self._db.execute(query, (*state, before[0]))
            return "unchanged"
        if before is not None:
            self._db.execute("DELETE FROM images WHERE id = ?", (before[0],))
        # An image that moved keeps its id, and with it its place in the index.
        number = claim(content) if before is None else None
        query = (
            "INSERT OR REPLACE INTO images (id, key, path, label, size, mtime_ns, content) VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        self._db.execute(query, (number, ref.key, *state, content))
        return "updated" if before is not None else "added" if number is None else "moved"

    def add_failures(self, rejected: Iterable[Rejected], limits: str) -> None:
        """Remember images that could not be read. Call inside a transaction.

        One whose content is not at fault is kept without limits: no limits equal those, so it is tried again.
        """
        self._db.executemany(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    each.ref.path,
                    each.ref.key,
                    each.ref.label,
                    each.ref.size,
                    each.ref.mtime_ns,
                    each.reason,
                    limits * each.lasting,
                )
                for each in rejected
            ),
        )

    def forget_unreadable(self, rejected: Iterable[Rejected]) -> None:
        """Forget images whose content can no longer be read. Call inside a transaction."""
        self._db.executemany("DELETE FROM images WHERE key = ?", ((each.ref.key,) for each in rejected if each.lasting))

    def relocate(self, paths: Iterable[tuple[str, str]]) -> None:
        """Note new paths: ``(path, key)``, for a library that was moved as a whole. Call inside a transaction."""
        self._db.executemany("UPDATE images SET path = ? WHERE key = ?", paths)

    def relabel(self, labels: Iterable[tuple[str, str]]) -> None:
        """Note new labels: ``(label, key)``, of images that are as they were. Call inside a transaction."""
        self._db.executemany("UPDATE images SET label = ? WHERE key = ?", labels)

    def forget_ids(self, ids: Iterable[int]) -> None:
        """Forget these images; their features stay, until compact, for the day they come back. In a transaction."""
        self._db.executemany("DELETE FROM images WHERE id = ?", ((number,) for number in ids))

    def forget_failures(self, paths: Iterable[tuple[str]]) -> None:
        """Drop failures that no longer hold. Call inside a transaction."""
        self._db.executemany("DELETE FROM failures WHERE path = ?", paths)

    def begin_run(self, command: str, pid: int) -> int:
        """Note that a run has begun; returns its number."""
        cursor = self._db.execute(
            "INSERT INTO runs (command, pid, started) VALUES (?, ?, ?)", (command, pid, time.time())
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end_run(self, run: int, exit_code: int, message: str) -> None:
        """Note how a run ended."""
        self._db.execute(
            "UPDATE runs SET finished = ?, exit_code = ?, message = ? WHERE id = ?",
            (time.time(), exit_code, message, run),
        )

    def set_spec(self, spec: FeatureSpec) -> None:
        """Note where the weights are now; what the features are must not change."""
        assert spec.fingerprint == self.spec.fingerprint
        self._db.execute("UPDATE meta SET value = ? WHERE name = 'spec'", (spec.to_json(),))
        self.spec = spec

    def set_settings(self, settings: Mapping[str, Any]) -> None:
        """Remember how queries are to be answered."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('settings', ?)", (json.dumps(settings),))
