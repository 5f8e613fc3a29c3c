"""A connection to SQLite whose errors are this package's own."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamer.errors import StoreCorruptError, StoreWriteError

__all__ = ["Connection", "connect", "damaged"]

_BUSY_TIMEOUT_SECONDS = 30.0
_REMEDIES = {
    ("full", "i/o"): "Free some space or mend the disk, and run again",
    ("locked",): "Another program has it open: close it, and run again",
    ("readonly", "unable to open"): "See who may write to that file and its folder, and run again",
}


def connect(path: Path, mode: str) -> Connection:
    """Open a database; no transaction begins by itself.

    Parameters
    ----------
    path : Path
    mode : {"ro", "rw", "rwc"}
        To read; to write; to write, and to make it where there is none.

    Raises
    ------
    StoreCorruptError, StoreWriteError
        The file is damaged, or cannot be opened; so do the connection and its cursors, whenever that turns out.
    """
    db = _open(path, f"mode={mode}")
    if mode != "ro":
        return db
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except StoreCorruptError:
        db.close()
        raise
    except StoreWriteError:
        db.close()
        if os.access(path.parent, os.W_OK):  # a change that was cut short is to be undone first
            db = _open(path, "mode=rw")
            db.execute("PRAGMA query_only=ON")
        else:  # to read a write-ahead log takes a file beside it; where none can be made, nobody is writing either
            db = _open(path, "mode=ro&immutable=1")
            db.immutable = True
    return db


def damaged(path: Path, error: Exception) -> StoreCorruptError:
    """Say that a catalog cannot be read, and what to do."""
    return StoreCorruptError(
        f"{path}: the catalog is damaged ({error}); have 'streamer check {path.parent} --repair' make it anew from the "
        "shards, or restore it from a backup"
    )


def _open(path: Path, options: str) -> Connection:
    with _translated(path):
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?{options}",
            uri=True,
            timeout=_BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            factory=Connection,
        )
    db.path = path
    return db


class Connection(sqlite3.Connection):
    """A connection that names its file in errors.

    Attributes
    ----------
    path : Path
    immutable : bool
        Whether it was opened in the belief that nobody writes: then it does not notice when somebody does.
    """

    path: Path
    immutable = False

    def cursor(self, factory: Any = None) -> Any:
        cursor = super().cursor(factory or _Cursor)
        cursor.path = self.path
        return cursor

    def execute(self, *arguments: Any) -> _Cursor:
        cursor: _Cursor = self.cursor()
        return cursor.execute(*arguments)

    def executemany(self, *arguments: Any) -> _Cursor:
        cursor: _Cursor = self.cursor()
        return cursor.executemany(*arguments)

    def executescript(self, script: str, /) -> sqlite3.Cursor:
        with _translated(self.path):
            return super().executescript(script)


class _Cursor(sqlite3.Cursor):
    path: Path

    def execute(self, *arguments: Any) -> _Cursor:
        with _translated(self.path):
            super().execute(*arguments)
        return self

    def executemany(self, *arguments: Any) -> _Cursor:
        with _translated(self.path):
            super().executemany(*arguments)
        return self

    def fetchone(self) -> Any:
        with _translated(self.path):
            return super().fetchone()

    def fetchall(self) -> list[Any]:
        with _translated(self.path):
            return super().fetchall()

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except sqlite3.Error as error:
            raise _translation(self.path, error) from error


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translation(path, error) from error


def _translation(path: Path, error: sqlite3.Error) -> Exception:
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.InterfaceError)):
        return error  # a fault in this program
    if isinstance(error, sqlite3.OperationalError):
        for words, remedy in _REMEDIES.items():
            if any(word in str(error).lower() for word in words):
                return StoreWriteError(f"{path}: {error}; what was committed before is safe. {remedy}")
    return damaged(path, error)
