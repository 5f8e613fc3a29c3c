"""Writing files so that a crash at any instruction leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "PARTIAL",
    "fsync_file",
    "fsync_folder",
    "published",
    "remove_tree",
    "rename",
    "replace_text",
]

PARTIAL = ".partial"
"""Suffix of a file or folder that is still being written; whatever carries it is worthless after a crash."""

# A virus scanner or a search indexer may hold a fresh file open for a moment on Windows.
_RENAME_TRIES = 10 if sys.platform == "win32" else 1
_RENAME_PAUSE_SECONDS = 0.1


def fsync_file(path: Path) -> None:
    """Force the contents of `path` to the disk.

    Windows flushes only through a handle that may write, hence ``r+b``.
    """
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Force the entries of `folder` (creations, renames, removals) to the disk.

    Windows has no such call: NTFS journals renames by itself.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename `source` to `target` atomically, replacing a file of that name, and make it durable."""
    for attempt in range(_RENAME_TRIES):
        try:
            source.replace(target)
            break
        except PermissionError:
            if attempt == _RENAME_TRIES - 1:
                raise
            time.sleep(_RENAME_PAUSE_SECONDS)
    fsync_folder(target.parent)


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """Give a ``.partial`` path to write to; on a clean exit it becomes `target`, durably and at once.

    Parameters
    ----------
    target : Path
        The file to make. A file already there is replaced.

    Yields
    ------
    Path
        Where to write. Removed when the body raises.
    """
    partial = target.with_name(target.name + PARTIAL)
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    fsync_file(partial)
    rename(partial, target)


def replace_text(target: Path, text: str) -> None:
    """Write `text` (UTF-8) to `target`, replacing it atomically."""
    with published(target) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def remove_tree(folder: Path) -> bool:
    """Remove `folder` and all in it; say whether it is gone.

    On Windows a file that a reader has mapped cannot be removed: it is left for a later run.
    """
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
