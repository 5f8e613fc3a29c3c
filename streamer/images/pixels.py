"""One file into pixels: read once, examined before it is decoded, decoded within limits."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamer.images.cost import decoding_bytes
from streamer.images.formats import HEAD_BYTES, UnreadableImageError, examine, make_way, open_image, sniff
from streamer.images.gate import ByteGate
from streamer.images.rgb import DECODE_RECIPE, SizeFor, rgb_pixels
from streamer.images.stl10 import SIDE, member_bytes, member_of, member_pixels
from streamer.records import Decoded, ImageRef, Known, Rejected

__all__ = ["DECODE_RECIPE", "DecodeLimits", "KnowsContent", "decode_file", "open_file", "read_pixels"]

_REASON_CHARACTERS = 200

KnowsContent = Callable[[bytes], bool]
"""Whether a store has features of the bytes with this digest."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What no image may exceed.

    Attributes
    ----------
    max_pixels : int
        Width times height, as the header claims them.
    max_file_bytes : int
    memory_bytes : int
        What all threads together may hold at one time for file bytes and decoding buffers.
    """

    max_pixels: int
    max_file_bytes: int
    memory_bytes: int


def decode_file(
    ref: ImageRef,
    size: tuple[int, int],
    limits: DecodeLimits,
    gate: ByteGate | None = None,
    known: KnowsContent | None = None,
) -> Decoded | Known | Rejected:
    """Turn one file into pixels.

    Parameters
    ----------
    ref : ImageRef
    size : tuple of int
        (height, width) of the pixels. The aspect is not kept.
    limits : DecodeLimits
    gate : ByteGate, optional
        Held while file and buffers are in memory. Its capacity is at least ``limits.memory_bytes``.
    known : callable, optional
        Asked with the digest of the file's bytes; True leaves it undecoded.

    Returns
    -------
    Decoded, Known or Rejected
        Whatever is wrong with the file, nothing is raised.

    Raises
    ------
    GateClosedError
        `gate` was closed.
    """
    try:
        pixels, content = read_pixels(ref.path, lambda _width, _height: size, limits, gate, known)
    except _ContentKnownError as found:
        return Known(ref, found.content)
    except UnreadableImageError as error:
        return Rejected(ref, str(error), error.lasting)
    return Decoded(ref, pixels, content)


class _ContentKnownError(Exception):
    """Nothing is wrong: there is just nothing to decode."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content


def read_pixels(
    path: str,
    size_for: SizeFor,
    limits: DecodeLimits,
    gate: ByteGate | None = None,
    known: KnowsContent | None = None,
) -> tuple[NDArray[np.uint8], bytes]:
    """Read one file, once, into pixels and the digest of the very bytes that the pixels came from.

    Parameters
    ----------
    path : str
    size_for : callable
        See `streamer.images.rgb.SizeFor`.
    limits : DecodeLimits
    gate : ByteGate, optional
    known : callable, optional
        See `decode_file`, which alone asks so.

    Returns
    -------
    pixels : ndarray of shape (height, width, 3), uint8
        RGB, 0-255.
    content : bytes
        BLAKE2b-128 digest of the file.

    Raises
    ------
    UnreadableImageError
        The file cannot be read, is no picture, is damaged, or exceeds a limit.
    """
    make_way(limits.max_pixels)
    member = member_of(path)
    if member is not None:
        return _read_member(*member, size_for, known)
    with open_file(path) as file:
        with _file_errors():
            before = os.fstat(file.fileno())
            _check_file(before, limits)
            head = file.read(HEAD_BYTES)
        format_name = sniff(head)
        if format_name is None:
            raise UnreadableImageError("not a picture in any format that is read here")
        with _picture_errors(format_name):
            header = examine(file, head, format_name)
        n_pixels = header.width * header.height
        if n_pixels > limits.max_pixels:
            raise UnreadableImageError(
                f"{header.width} x {header.height} = {n_pixels} pixels is more than the limit of {limits.max_pixels}"
            )
        upright = (header.width, header.height) if header.orientation < 5 else (header.height, header.width)
        needed_bytes = decoding_bytes(header, before.st_size, size_for(*upright))
        if needed_bytes > limits.memory_bytes:
            raise UnreadableImageError(
                f"decoding {header.width} x {header.height} pixels takes {needed_bytes} bytes, and the plan leaves "
                f"{limits.memory_bytes}: raise memory.budget"
            )
        with gate.holding(needed_bytes) if gate else contextlib.nullcontext():
            return _read_and_decode(file, before, format_name, size_for, known)


def _read_and_decode(
    file: BinaryIO, before: os.stat_result, format_name: str, size_for: SizeFor, known: KnowsContent | None
) -> tuple[NDArray[np.uint8], bytes]:
    """Do what the gate is held for: all large buffers are this function's own, and gone when it returns."""
    with _file_errors():
        data = _read_unchanged(file, before)
    content = blake2b(data, digest_size=16).digest()
    if known is not None and known(content):
        raise _ContentKnownError(content)
    with _picture_errors(format_name):
        pixels = rgb_pixels(open_image(BytesIO(data), format_name), size_for)
    return pixels, content


def _read_member(
    file: str, number: int, size_for: SizeFor, known: KnowsContent | None
) -> tuple[NDArray[np.uint8], bytes]:
    """One image of a file in STL-10's format; 27 kB are no matter for the gate."""
    with _file_errors():
        data = member_bytes(file, number)
    content = blake2b(data, digest_size=16).digest()
    if known is not None and known(content):
        raise _ContentKnownError(content)
    # As a picture file it takes the way of all others, and comes out the same as if it had been one.
    picture = b"P6 %d %d 255\n" % (SIDE, SIDE) + member_pixels(data).tobytes()
    return rgb_pixels(open_image(BytesIO(picture), "PPM"), size_for), content


def open_file(path: str) -> BinaryIO:
    """Open a file of whatever kind, without waiting for anybody.

    Raises
    ------
    UnreadableImageError
        It cannot be opened.
    """
    # Opening a named pipe waits for a writer, perhaps for ever, unless told not to; Windows needs O_BINARY.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with _file_errors():
        return os.fdopen(os.open(path, flags), "rb")


def _check_file(status: os.stat_result, limits: DecodeLimits) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("not a regular file")
    if status.st_size == 0:
        raise UnreadableImageError("empty file")
    if status.st_size > limits.max_file_bytes:
        raise UnreadableImageError(
            f"a file of {status.st_size} bytes is larger than the limit of {limits.max_file_bytes}"
        )


def _read_unchanged(file: BinaryIO, before: os.stat_result) -> bytes:
    file.seek(0)
    data = file.read(before.st_size + 1)
    after = os.fstat(file.fileno())
    if (len(data), after.st_size, after.st_mtime_ns) != (before.st_size, before.st_size, before.st_mtime_ns):
        raise UnreadableImageError("the file changed while it was read", lasting=False)
    return data


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableImageError(f"the file cannot be read: {reason}", lasting=False) from error


@contextlib.contextmanager
def _picture_errors(format_name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a reason.

    Decoders meet bytes that nobody foresaw, and Pillow answers with a dozen classes of exceptions (OSError,
    SyntaxError, struct.error, KeyError, OverflowError): a night's work must not end at one that a list here forgot.
    """
    try:
        yield
    except UnreadableImageError:
        raise
    except MemoryError as error:
        raise UnreadableImageError("the memory did not suffice to decode it", lasting=False) from error
    except Exception as error:
        raise UnreadableImageError(f"damaged {format_name}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """Put an exception in words that are the same on each run, so that reasons can be compared and counted."""
    text = re.sub(r"<[^<>]* at 0x[0-9A-Fa-f]+>", "the file", str(error))
    return " ".join(text.split())[:_REASON_CHARACTERS] or type(error).__name__
