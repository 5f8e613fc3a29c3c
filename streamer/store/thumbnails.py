"""Thumbnails on the store's disk: found by the bytes of the photo, no more of them than a bound."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from streamer.files import PARTIAL, published

__all__ = ["ThumbnailCache", "remove_damaged_thumbnails", "thumbnail_faults"]

_LOG = logging.getLogger(__name__)

_SUFFIX = ".jpg"
_START, _END = b"\xff\xd8", b"\xff\xd9"
# What is left when the bound is met: many go together, not one for each that comes.
_KEPT_SHARE = 0.9
# A file's time of modification says when it was last asked for, give or take this.
_USE_SECONDS = 3600
# What is held where the disk takes none.
_IN_MEMORY_BYTES = 16 * 2**20


class ThumbnailCache:
    """Thumbnails by the content of their photos: a photo that changes gets another one.

    Those that were not asked for the longest go first. What the disk does not take is kept in memory, up to 16 MiB.
    Threads may share it.

    Parameters
    ----------
    folder : Path
        ``thumbnails/`` of a store; made when it is first written to.
    bound_bytes : int
        What all files together may hold.
    """

    def __init__(self, folder: Path, bound_bytes: int) -> None:
        self._folder = folder
        self._bound = bound_bytes
        self._lock = threading.Lock()
        self._on_disk_bytes: int | None = None  # None: not counted yet
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()
        self._memory_bytes = 0
        self._warned = False

    def get(self, content: bytes) -> bytes | None:
        """The thumbnail of the photo whose bytes have this digest; None where there is none, or a damaged one."""
        with self._lock:
            if content in self._memory:
                self._memory.move_to_end(content)
                return self._memory[content]
        path = self._path(content)
        try:
            jpeg = path.read_bytes()
            last_use = path.stat().st_mtime
        except OSError:
            return None
        if time.time() - last_use > _USE_SECONDS:
            with contextlib.suppress(OSError):  # a store that may only be read
                os.utime(path)
        return jpeg if _is_whole(jpeg) else None

    def put(self, content: bytes, jpeg: bytes) -> None:
        """Keep a thumbnail; on a disk that is full or cannot be written, in memory."""
        try:
            with self._lock:
                self._write(self._path(content), jpeg)
        except OSError as error:
            if not self._warned:
                self._warned = True
                _LOG.warning("%s: thumbnails are kept in memory: %s", self._folder, error.strerror or error)
            with self._lock:
                self._remember(content, jpeg)

    def _path(self, content: bytes) -> Path:
        name = content.hex()
        return self._folder / name[:2] / (name + _SUFFIX)

    def _write(self, path: Path, jpeg: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._on_disk_bytes is None:
            self._on_disk_bytes = sum(size for _, size, _ in self._files())
        with published(path) as partial:
            partial.write_bytes(jpeg)
        self._on_disk_bytes += len(jpeg)
        if self._on_disk_bytes > self._bound:
            self._on_disk_bytes = self._evict()

    def _remember(self, content: bytes, jpeg: bytes) -> None:
        self._memory_bytes += len(jpeg) - len(self._memory.pop(content, b""))
        self._memory[content] = jpeg
        while self._memory_bytes > min(self._bound, _IN_MEMORY_BYTES):
            _, dropped = self._memory.popitem(last=False)
            self._memory_bytes -= len(dropped)

    def _evict(self) -> int:
        """Remove the files that were not asked for the longest; gives the bytes that are left."""
        files = sorted(self._files())
        left = sum(size for _, size, _ in files)
        for _, size, path in files:
            if left <= _KEPT_SHARE * self._bound:
                break
            with contextlib.suppress(OSError):  # being read, on Windows
                Path(path).unlink()
                left -= size
        return left

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Time of last use, size and path of each file; what a crash left half written is removed."""
        for path in _each_file(self._folder):
            with contextlib.suppress(OSError):  # another server has just removed it
                if path.suffix == PARTIAL:
                    path.unlink()
                    continue
                found = path.stat()
                yield found.st_mtime, found.st_size, str(path)


def thumbnail_faults(folder: Path) -> Iterator[tuple[Path, str]]:
    """Thumbnails that are not whole: each file, and its fault.

    Parameters
    ----------
    folder : Path
        ``thumbnails/`` of a store; there may be none.
    """
    for path in _each_file(folder):
        if path.suffix == PARTIAL:  # being written, or left by a crash and swept by the next server
            continue
        try:
            with path.open("rb") as file:
                start = file.read(len(_START))
                file.seek(-min(len(_END), path.stat().st_size), os.SEEK_END)
                whole = (start, file.read()) == (_START, _END)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield path, f"cannot be read ({error.strerror or error})"
            continue
        if not whole:
            yield path, "is no whole JPEG"


def remove_damaged_thumbnails(folder: Path) -> None:
    """Drop the thumbnails that are not whole: a server makes them anew."""
    for path, _ in list(thumbnail_faults(folder)):
        path.unlink(missing_ok=True)


def _each_file(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for group in sorted(folder.iterdir()):
            if group.is_dir():
                yield from group.iterdir()


def _is_whole(jpeg: bytes) -> bool:
    return jpeg.startswith(_START) and jpeg.endswith(_END)
