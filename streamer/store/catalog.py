"""The catalog: one SQLite file that says what is real.

A shard exists when the catalog names it; an image is searchable when the catalog holds its row. Everything changes in
transactions, so a reader sees the store before a commit or after it, never between.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StoreCorruptError, StoreWriteError
from streamer.records import ImageRef, Rejected
from streamer.store.shard import SealedShard
from streamer.store.spec import FORMAT, FeatureSpec

__all__ = ["Catalog", "Entry", "Failure", "LastRun"]

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE shards (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- the number in the file's name; never reused once committed
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    digest BLOB NOT NULL,                   -- BLAKE2b-128 of the file
    engine TEXT NOT NULL
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

_BUSY_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An image and the place of its features."""

    id: int
    key: str
    path: str
    label: str
    shard: int
    row: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be read, as the catalog remembers it."""

    key: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run over the store; `exit_code` is None while it works, and for good when it was killed."""

    command: str
    pid: int
    started: float
    finished: float | None
    exit_code: int | None
    message: str | None


class Catalog:
    """An open catalog.

    Parameters
    ----------
    path : Path
        ``catalog.sqlite`` of a store.
    writable : bool
        Readers never block the writer, nor the writer them.

    Raises
    ------
    StoreCorruptError
        If it is not a catalog, or one of a newer format.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        try:
            self._db = _connect(path, "rw" if writable else "ro")
        except sqlite3.Error as error:
            raise _damaged(path, error) from error
        try:
            if writable:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute("PRAGMA foreign_keys=ON")
            self.spec = self._read_spec()
        except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
            self._db.close()
            raise _damaged(path, error) from error
        except BaseException:
            self._db.close()
            raise

    def _read_spec(self) -> FeatureSpec:
        meta = dict(self._db.execute("SELECT name, value FROM meta"))
        found = int(meta["format"])
        if found > FORMAT:
            raise StoreCorruptError(
                f"{self.path}: format {found}, made by a newer release; this one reads up to {FORMAT}: upgrade streamer"
            )
        return FeatureSpec.from_json(meta["spec"])

    @classmethod
    def create(cls, path: Path, spec: FeatureSpec) -> None:
        """Write an empty catalog at `path`."""
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
            meta = [("format", str(FORMAT)), ("spec", spec.to_json()), ("changes", "0")]
            db.executemany("INSERT INTO meta VALUES (?, ?)", meta)

    def close(self) -> None:
        self._db.close()

    # -- reading ------------------------------------------------------------------------------------------------------

    def count(self, table: str) -> int:
        """Number of rows in ``images``, ``failures`` or ``shards``."""
        assert table in ("images", "failures", "shards")
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - one of three names

    def newest_id(self) -> int:
        """Highest id of a live image; 0 when there is none."""
        return int(self._db.execute("SELECT coalesce(max(id), 0) FROM images").fetchone()[0])

    def shards(self) -> list[tuple[int, int, int]]:
        """``(id, rows, bytes)`` of every shard, oldest first."""
        return self._db.execute("SELECT id, rows, bytes FROM shards ORDER BY id").fetchall()

    def next_shard(self) -> int:
        """The number of the next shard: above every number that was ever committed."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'shards'").fetchone()
        return (row[0] if row else 0) + 1

    def known(self) -> Iterator[tuple[str, int, int, int, str, bytes]]:
        """``(key, id, size, mtime_ns, path, content)`` of every image, sorted by key."""
        return iter(self._db.cursor().execute("SELECT key, id, size, mtime_ns, path, content FROM images ORDER BY key"))

    def knows(self, content: bytes) -> bool:
        """Whether there are features of the bytes with this digest, of a live image or not."""
        return self._db.execute("SELECT 1 FROM features WHERE content = ?", (content,)).fetchone() is not None

    def known_failures(self) -> Iterator[tuple[str, str, int, int, str]]:
        """``(key, path, size, mtime_ns, limits)`` of every failure, sorted by key."""
        query = "SELECT key, path, size, mtime_ns, limits FROM failures ORDER BY key, path"
        return iter(self._db.cursor().execute(query))

    def failures(self) -> Iterator[Failure]:
        """Every failure, sorted by key."""
        query = "SELECT key, path, reason FROM failures ORDER BY key, path"
        return (Failure(*row) for row in self._db.cursor().execute(query))

    def places(self, block_sizes: Iterable[int], newer_than: int = 0) -> Iterator[tuple[NDArray[np.int64], ...]]:
        """Ids, shards and rows of the live images, in the order of their ids, which is nearly that of the shards.

        Each block is a question of its own: nothing is held between two of them, and no reader keeps the
        write-ahead log from being emptied.

        Parameters
        ----------
        block_sizes : iterable of int
            How many images each block holds. The last may come out smaller.
        newer_than : int
            Only images with a higher id.

        Yields
        ------
        ids, shards, rows : ndarray of shape (block,), int64
        """
        query = (
            "SELECT images.id, shard, row FROM images JOIN features USING (content) "
            "WHERE images.id > ? ORDER BY images.id LIMIT ?"
        )
        last = newer_than
        for size in block_sizes:
            found = self._db.execute(query, (last, size)).fetchall()
            if not found:
                return
            block = np.array(found, dtype=np.int64)
            last = int(block[-1, 0])
            yield block[:, 0], block[:, 1], block[:, 2]

    def images_of(self, shard: int) -> Iterator[tuple[int, str, str]]:
        """``(row, key, label)`` of the live images of one shard, by row, copies of the same bytes by id."""
        query = (
            "SELECT row, key, label FROM features JOIN images USING (content) WHERE shard = ? ORDER BY row, images.id"
        )
        return iter(self._db.cursor().execute(query, (shard,)))

    def count_since(self, newest_id: int) -> tuple[int, int]:
        """How many live images have an id up to this one, and how many a higher one."""
        older, newer = self._db.execute(
            "SELECT count(*) FILTER (WHERE id <= :id), count(*) FILTER (WHERE id > :id) FROM images", {"id": newest_id}
        ).fetchone()
        return int(older), int(newer)

    @property
    def changes(self) -> int:
        """A number that grows with each transaction that changed images or shards."""
        return int(self._db.execute("SELECT value FROM meta WHERE name = 'changes'").fetchone()[0])

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside comes from the same moment, whatever is written meanwhile."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def entries(self, ids: Sequence[int]) -> dict[int, Entry]:
        """The images with these ids. An id that is not live is left out."""
        found: dict[int, Entry] = {}
        for start in range(0, len(ids), 500):
            part = [int(number) for number in ids[start : start + 500]]
            marks = ",".join("?" * len(part))
            columns = "id, key, path, label, shard, row"
            query = f"SELECT {columns} FROM images JOIN features USING (content) WHERE id IN ({marks})"  # noqa: S608
            found.update((row[0], Entry(*row)) for row in self._db.execute(query, part))
        return found

    def settings(self) -> dict[str, Any]:
        """How the last run asked for queries to be answered; empty before the first."""
        row = self._db.execute("SELECT value FROM meta WHERE name = 'settings'").fetchone()
        return dict(json.loads(row[0])) if row else {}

    def last_run(self) -> LastRun | None:
        """The newest run, or None before the first."""
        query = "SELECT command, pid, started, finished, exit_code, message FROM runs ORDER BY id DESC LIMIT 1"
        row = self._db.execute(query).fetchone()
        return LastRun(*row) if row else None

    # -- writing ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Change images or shards: all or nothing.

        Raises
        ------
        StoreWriteError
            If the disk is full or fails. Nothing was changed.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("UPDATE meta SET value = value + 1 WHERE name = 'changes'")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # some errors roll back by themselves
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _unwritten(self.path, error) from error

    def add_shard(self, shard: int, sealed: SealedShard, engine: str, contents: Iterable[bytes]) -> None:
        """Make a sealed shard's rows real: ``contents[i]`` is the content of row i. Call inside a transaction.

        A content that has features elsewhere moves here.
        """
        values = (shard, sealed.rows, sealed.n_bytes, sealed.digest, engine)
        self._db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?)", values)
        self._db.executemany(
            "INSERT INTO features VALUES (?, ?, ?) "
            "ON CONFLICT (content) DO UPDATE SET shard = excluded.shard, row = excluded.row",
            ((content, shard, row) for row, content in enumerate(contents)),
        )

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
        query = "INSERT INTO images (id, key, path, label, size, mtime_ns, content) VALUES (?, ?, ?, ?, ?, ?, ?)"
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
        places = ((each.ref.key, each.ref.path) for each in rejected if each.lasting)
        self._db.executemany("DELETE FROM images WHERE key = ? AND path = ?", places)

    def relocate(self, paths: Iterable[tuple[str, str]]) -> None:
        """Note new paths: ``(path, key)``, for a library that was moved as a whole. Call inside a transaction."""
        self._db.executemany("UPDATE images SET path = ? WHERE key = ?", paths)

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
        """Note how a run ended, if the disk takes it: a run that met a full one must end by that error."""
        with contextlib.suppress(sqlite3.Error):
            self._end_run(run, exit_code, message)

    def _end_run(self, run: int, exit_code: int, message: str) -> None:
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

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement and fetch all rows; for checks and tests."""
        return self._db.execute(statement, parameters).fetchall()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_TIMEOUT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _unwritten(path: Path, error: sqlite3.Error) -> StoreWriteError:
    return StoreWriteError(f"{path}: cannot be written ({error}); what was committed before is safe")


def _damaged(path: Path, error: Exception) -> StoreCorruptError:
    return StoreCorruptError(f"{path}: not a readable catalog ({error}); restore it, or extract anew")
