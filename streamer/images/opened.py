"""The bytes of one image, opened: what the rest of this room needs to know of them, wherever they lie."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = [
    "ImageGoneError",
    "ImageTooLargeError",
    "OpenedImage",
    "UnreadableImageError",
    "Window",
    "as_ppm",
    "file_errors",
    "open_bytes",
    "open_file",
    "open_regular",
]


class UnreadableImageError(Exception):
    """An image yields no pixels; the message is the reason, in one line.

    Parameters
    ----------
    reason : str
    lasting : bool
        See `Rejected`.
    """

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


class ImageGoneError(UnreadableImageError):
    """There is no such file, or no such image in it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, lasting=False)


class ImageTooLargeError(UnreadableImageError):
    """It exceeds a limit: of bytes, of pixels, or of the memory that the plan leaves."""


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """The bytes of one image.

    Attributes
    ----------
    file : BinaryIO
        Seekable, at its first byte; ends with its last.
    n_bytes : int
        How many there should be.
    is_unchanged : callable
        Whether what holds them is still what it was when it was opened.
    side_pixels : tuple of int, (height, width), or None
        Of an image that is bare pixels, RGB, with no header of its own.
    to_rows : callable or None
        Turns such bytes into rows from the top, each pixel's three bytes together, where they are in another order.
    state : os.stat_result or None
        Of the file that was opened, its own or the one that holds it with others; None where it came from elsewhere.
    """

    file: BinaryIO
    n_bytes: int
    is_unchanged: Callable[[], bool]
    side_pixels: tuple[int, int] | None = None
    to_rows: Callable[[bytes], bytes] | None = None
    state: os.stat_result | None = None


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
    """Turn what a file system says into a reason: the way to the image failed, not the image."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ImageGoneError(f"the file cannot be read: {reason}") from error
        raise UnreadableImageError(f"the file cannot be read: {reason}", lasting=False) from error


@contextlib.contextmanager
def open_regular(path: str) -> Iterator[tuple[BinaryIO, os.stat_result, Callable[[], bool]]]:
    """Open a file; with its state, and a question whether that has changed since.

    Raises
    ------
    UnreadableImageError
        It cannot be opened, or is no regular file.
    """
    # Opening a named pipe waits for a writer, perhaps for ever, unless told not to; Windows needs O_BINARY.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with file_errors():
        opened = os.fdopen(os.open(path, flags), "rb")
    with opened as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise UnreadableImageError("not a regular file")

        def is_unchanged() -> bool:
            after = os.fstat(file.fileno())
            return (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

        yield file, before, is_unchanged


@contextlib.contextmanager
def open_file(path: str) -> Iterator[OpenedImage]:
    """Open the image that is a file of its own."""
    with open_regular(path) as (file, state, is_unchanged):
        yield OpenedImage(file, state.st_size, is_unchanged, state=state)


@contextlib.contextmanager
def open_bytes(data: bytes) -> Iterator[OpenedImage]:
    """Open an image whose bytes are here already."""
    yield OpenedImage(io.BytesIO(data), len(data), lambda: True)


class Window(io.RawIOBase):
    """Part of a file, as if it were all of it.

    Parameters
    ----------
    file : BinaryIO
        Seekable; for nobody else to move in.
    start, n_bytes : int
    """

    def __init__(self, file: BinaryIO, start: int, n_bytes: int) -> None:
        self._file = file
        self._start = start
        self._n_bytes = n_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._n_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot go to byte {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        length = max(0, min(len(view), self._n_bytes - self._at))
        self._file.seek(self._start + self._at)
        found = self._file.read(length)
        view[: len(found)] = found
        self._at += len(found)
        return len(found)


def as_ppm(rows: bytes, height: int, width: int) -> bytes:
    """The picture file of bare pixels: it takes the way of all others, and comes out as if it had been one."""
    return b"P6 %d %d 255\n" % (width, height) + rows
