"""The catalog: one SQLite file that says what is real; here it is read.

A shard exists when the catalog names it; an image is searchable when the catalog holds its row. Everything changes in
transactions, so a reader sees the store before a commit or after it, never between.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StoreCorruptError, StoreFormatError
from streamer.store.catalog_rows import CatalogRows
from streamer.store.shard import SealedShard
from streamer.store.spec import FORMAT, FeatureSpec
from streamer.store.sqlite import connect, damaged

__all__ = ["Catalog", "Entry", "Failure", "LastRun"]


class Entry(NamedTuple):
    """An image and the place of its features.

    A tuple, as a search makes hundreds of thousands: a frozen dataclass takes four times as long to make.
    """

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

    Readers never block the writer, nor the writer them.

    Parameters
    ----------
    path : Path
        ``catalog.sqlite`` of a store.

    Raises
    ------
    StoreCorruptError
        If it is not a catalog, or damaged; so does every method that meets the damage.
    StoreFormatError
        If it was made by a newer release.
    """

    _MODE = "ro"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = _state(path)
        self._db = connect(path, self._MODE)
        try:
            self.spec = self._read_spec()
        except (KeyError, TypeError, ValueError) as error:
            self._db.close()
            raise damaged(path, error) from error
        except BaseException:
            self._db.close()
            raise

    def _follow(self) -> None:
        """Open the file anew when another has taken its place, or when it has changed though nobody could write."""
        state = _state(self.path)
        if state[:2] != self._opened[:2] or (self._db.immutable and state != self._opened):
            self._db.close()
            self._db = connect(self.path, self._MODE)
            self._opened = state

    def _read_spec(self) -> FeatureSpec:
        meta = dict(self._db.execute("SELECT name, value FROM meta"))
        found = int(meta["format"])
        if found > FORMAT:
            raise StoreFormatError(
                f"{self.path}: format {found}, made by a newer release; this one reads up to {FORMAT}: upgrade streamer"
            )
        return FeatureSpec.from_json(meta["spec"])

    def close(self) -> None:
        self._db.close()

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

    def sealed(self) -> dict[int, SealedShard]:
        """What was noted of each shard when it was sealed, by its number, oldest first."""
        compression = "compression" if self.has_column("shards", "compression") else "'none'"
        query = f"SELECT id, rows, bytes, digest, {compression} FROM shards ORDER BY id"  # noqa: S608 - one of two
        return {number: SealedShard(*rest) for number, *rest in self._db.execute(query).fetchall()}

    def engines(self, shards: Iterable[int]) -> str:
        """Names of the engines that made these shards, joined by ``+``."""
        wanted = set(shards)
        made_by = self._db.execute("SELECT id, engine FROM shards").fetchall()
        return "+".join(sorted({part for number, engine in made_by if number in wanted for part in engine.split("+")}))

    def has_column(self, table: str, column: str) -> bool:
        """Whether the catalog is of a release that had this column."""
        return any(row[1] == column for row in self._db.execute(f"PRAGMA table_info({table})"))

    def inconsistencies(self) -> list[str]:
        """What SQLite finds damaged, and rows that contradict each other; empty when all is well."""
        try:
            found = [row[0] for row in self._db.execute("PRAGMA integrity_check(10)") if row[0] != "ok"]
            if not found:
                broken = self._db.execute("PRAGMA foreign_key_check").fetchall()
                found = [f"{table}: a row names one of {parent} that is not there" for table, _, parent, _ in broken]
                for table in self.rows.tables():
                    join = f"{table} JOIN shards ON shards.id = shard"
                    query = f"SELECT count(*) FROM {join} WHERE row NOT BETWEEN 0 AND rows - 1"  # noqa: S608
                    if beyond := self._db.execute(query).fetchone()[0]:
                        found.append(f"{table}: {beyond} rows lie beyond the end of their shard")
        except StoreCorruptError as error:
            found = [str(error)]
        return found

    def next_shard(self) -> int:
        """The number of the next shard: above every number that was ever committed."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'shards'").fetchone()
        return (row[0] if row else 0) + 1

    def known(self) -> Iterator[tuple[str, int, int, int, str, str, bytes]]:
        """``(key, id, size, mtime_ns, path, label, content)`` of every image, sorted by key."""
        query = "SELECT key, id, size, mtime_ns, path, label, content FROM images ORDER BY key"
        return iter(self._db.cursor().execute(query))

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
        self._follow()
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

    def names(self, ids: Sequence[int]) -> dict[int, tuple[str, str, str]]:
        """Key, path and label of the images with these ids. An id that is not live is left out."""
        found: dict[int, tuple[str, str, str]] = {}
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT id, key, path, label FROM images WHERE id IN ({marks})"  # noqa: S608
            found.update((row[0], row[1:]) for row in self._db.execute(query, part).fetchall())
        return found

    def locate(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Id, shard and row of the images with these ids, by id: shape (n, 3), int64. One not live is left out."""
        found: list[tuple[int, int, int]] = []
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500].tolist()
            marks = ",".join("?" * len(part))
            query = f"SELECT id, shard, row FROM images JOIN features USING (content) WHERE id IN ({marks})"  # noqa: S608
            found += self._db.execute(query, part).fetchall()
        located = np.array(found, dtype=np.int64).reshape(-1, 3)
        return located[np.argsort(located[:, 0])]

    def settings(self) -> dict[str, Any]:
        """How the last run asked for queries to be answered; empty before the first."""
        row = self._db.execute("SELECT value FROM meta WHERE name = 'settings'").fetchone()
        return dict(json.loads(row[0])) if row else {}

    def last_run(self, *, upkeep: bool = True) -> LastRun | None:
        """The newest run, or None before the first; without `upkeep`, one that brought the store up to date."""
        query = (
            "SELECT command, pid, started, finished, exit_code, message FROM runs "
            "WHERE :upkeep OR command IN ('run', 'extract', 'reduce', 'index', 'import') ORDER BY id DESC LIMIT 1"
        )
        row = self._db.execute(query, {"upkeep": upkeep}).fetchone()
        return LastRun(*row) if row else None

    @property
    def rows(self) -> CatalogRows:
        """What it says of rows, rather than of images."""
        return CatalogRows(self)

    def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Run one statement and fetch all rows."""
        return self._db.execute(statement, parameters).fetchall()

    def iterate(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Iterator[Any]:
        """Run one statement and fetch row by row: until the last one, a reader is open."""
        return iter(self._db.cursor().execute(statement, parameters))


def _state(path: Path) -> tuple[int, ...]:
    """What tells a file from another, and from what it was before; whether there is a log beside it."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0, 0, 0)
    log = path.with_name(path.name + "-wal").exists()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, int(log))
