"""Writing files so that a crash at any instruction leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from streamer.errors import StoreWriteError

__all__ = [
    "PARTIAL",
    "PatientFile",
    "digest_of",
    "fsync_file",
    "fsync_folder",
    "published",
    "published_folder",
    "remove_tree",
    "rename",
    "replace_text",
    "require_space",
    "require_writable",
]

PARTIAL = ".partial"
"""Suffix of a file or folder that is still being written; whatever carries it is worthless after a crash."""

_READ_BYTES = 2**20
_RESERVE_BYTES = 64 * 2**20
# A virus scanner or a search indexer may hold a fresh file open for a moment on Windows.
_RENAME_TRIES = 10 if sys.platform == "win32" else 1
_RENAME_PAUSE_SECONDS = 0.1


class PatientFile(io.RawIOBase):
    """A new file for a library that cannot take a full disk: errors are kept, and raised when they are asked for.

    HDF5 ends the process with a segmentation fault when it is told, as it closes a file, that the disk is full. So it
    is told that all went well, and the file, which is of no use any more, is thrown away.

    Parameters
    ----------
    path : Path
        Replaced if it exists.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error there was."""
        if self._error is not None:
            raise self._error

    def close(self, *, sync: bool = False) -> None:
        """Close the file, after forcing it to the disk if so asked.

        Raises
        ------
        OSError
            With `sync` only: the first error there was, or that of forcing.
        """
        try:
            if sync:
                self.check()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
            super().close()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while self._error is None and done < len(view):
            try:
                done += self._file.write(view[done:]) or 0
            except OSError as error:
                self._error = error
        return len(view)

    def readinto(self, buffer: Any, /) -> int:
        # What is missing from the file would be taken for whatever lies in the buffer: another segmentation fault.
        self.check()
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        try:
            if self._error is None:
                return self._file.truncate(size)
        except OSError as error:
            self._error = error
        return size or 0


def digest_of(path: Path) -> tuple[int, bytes]:
    """Size in bytes and BLAKE2b-128 digest of a file."""
    digest = blake2b(digest_size=16)
    size = 0
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.digest()


def require_space(folder: Path, n_bytes: int, purpose: str) -> None:
    """Refuse work that would fill the disk.

    Parameters
    ----------
    folder : Path
        On the disk in question.
    n_bytes : int
        What the work will write.
    purpose : str
        Names the work: ``"extracting 12 images"``.

    Raises
    ------
    StoreWriteError
        If that much is not free, with a reserve for others.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes + _RESERVE_BYTES > free:
        raise StoreWriteError(
            f"{folder}: {purpose} takes about {n_bytes / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free on that disk, "
            f"of which {_RESERVE_BYTES / 1e6:.0f} MB are to stay free: it was not begun; what was committed before is "
            "safe. Free some space, or write to another disk"
        )


def require_writable(folder: Path, remedy: str) -> None:
    """Refuse work whose outcome could not be written.

    Parameters
    ----------
    folder : Path
        Where to; it may have to be made first.
    remedy : str
        What to do about it: ``"name another place with --head OUT.npz"``.

    Raises
    ------
    StoreWriteError
        If no file can be made there.
    """
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise StoreWriteError(
            f"{folder}: nothing can be written there ({error.strerror}), so it was not begun; {remedy}"
        ) from error


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
        Where to write. Removed when the body raises, or the file cannot get its name.

    Raises
    ------
    IsADirectoryError
        If a folder has that name; before anything is written.
    """
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; give the file another name", str(target))
    partial = target.with_name(target.name + PARTIAL)
    try:
        yield partial
        fsync_file(partial)
        rename(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def published_folder(target: Path) -> Iterator[Path]:
    """Give a ``.partial`` folder to write to; on a clean exit it becomes `target`, durably.

    No system replaces a folder that holds something at once: the one in the way is renamed first. A crash between the
    two renames leaves nothing at `target`; the next call brings the old one back before it begins.

    Parameters
    ----------
    target : Path
        The folder to make. A folder already there is removed with all in it.

    Yields
    ------
    Path
        Where to write; empty. Removed when the body raises.
    """
    partial = target.with_name(target.name + PARTIAL)
    old = target.with_name(f"{target.name}.old{PARTIAL}")
    if old.is_dir() and not target.exists():
        rename(old, target)
    remove_tree(old)
    remove_tree(partial)
    partial.mkdir()
    try:
        yield partial
        for each in sorted(partial.rglob("*")):
            if each.is_dir():
                fsync_folder(each)
            else:
                fsync_file(each)
        fsync_folder(partial)
        if target.exists():
            rename(target, old)
        try:
            rename(partial, target)
        except OSError:
            if old.exists():
                rename(old, target)
            raise
    except BaseException:
        remove_tree(partial)
        raise
    remove_tree(old)


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
