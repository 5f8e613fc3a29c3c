"""One file into pixels: read once, examined before it is decoded, decoded within limits."""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from streamer.images.cost import decoding_bytes
from streamer.images.formats import HEAD_BYTES, Header, examine, make_way, open_image, sniff
from streamer.images.gate import ByteGate
from streamer.images.opened import (
    ImageTooLargeError,
    OpenedImage,
    UnreadableImageError,
    as_ppm,
    file_errors,
    open_bytes,
)
from streamer.images.places import open_image_at
from streamer.images.rgb import DECODE_RECIPE, SizeFor, rgb_pixels
from streamer.records import Decoded, Fetched, ImageRef, Known, Rejected, bare

__all__ = ["DECODE_RECIPE", "DecodeLimits", "KnowsContent", "decode_file", "read_pixels"]

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
    data = ref.data if isinstance(ref, Fetched) else None
    try:
        pixels, content = read_pixels(ref.path, lambda _width, _height: size, limits, gate, known, data)
    except _ContentKnownError as found:
        return Known(bare(ref), found.content)
    except UnreadableImageError as error:
        return Rejected(bare(ref), str(error), error.lasting)
    return Decoded(bare(ref), pixels, content)


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
    data: bytes | None = None,
    further_bytes: Callable[[tuple[int, int]], int] | None = None,
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
    data : bytes, optional
        The file's bytes, where they have been fetched.
    further_bytes : callable, optional
        What the caller will take for pixels of a (height, width); `gate` is asked for no less.

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
    with open_image_at(path) if data is None else open_bytes(data) as image:
        _check_size(image.n_bytes, limits)
        header = _examine(image)
        n_pixels = header.width * header.height
        if n_pixels > limits.max_pixels:
            raise ImageTooLargeError(
                f"{header.width} x {header.height} = {n_pixels} pixels is more than the limit of {limits.max_pixels}"
            )
        upright = (header.width, header.height) if header.orientation < 5 else (header.height, header.width)
        size = size_for(*upright)
        needed_bytes = decoding_bytes(header, image.n_bytes, size)
        if further_bytes is not None:
            needed_bytes = max(needed_bytes, further_bytes(size))
        if needed_bytes > limits.memory_bytes:
            raise ImageTooLargeError(
                f"decoding {header.width} x {header.height} pixels takes {needed_bytes} bytes, and the plan leaves "
                f"{limits.memory_bytes}: raise memory.budget"
            )
        with gate.holding(needed_bytes) if gate else contextlib.nullcontext():
            return _read_and_decode(image, header.format, size_for, known)


def _check_size(n_bytes: int, limits: DecodeLimits) -> None:
    if n_bytes == 0:
        raise UnreadableImageError("empty file")
    if n_bytes > limits.max_file_bytes:
        raise ImageTooLargeError(f"a file of {n_bytes} bytes is larger than the limit of {limits.max_file_bytes}")


def _examine(image: OpenedImage) -> Header:
    if image.side_pixels is not None:
        height, width = image.side_pixels
        return Header("PPM", "RGB", width, height)
    with file_errors(), _archive_errors():
        head = image.file.read(HEAD_BYTES)
    format_name = sniff(head)
    if format_name is None:
        raise UnreadableImageError("not a picture in any format that is read here")
    with _picture_errors(format_name):
        return examine(image.file, head, format_name)


def _read_and_decode(
    image: OpenedImage, format_name: str, size_for: SizeFor, known: KnowsContent | None
) -> tuple[NDArray[np.uint8], bytes]:
    """Do what the gate is held for: all large buffers are this function's own, and gone when it returns."""
    with file_errors(), _archive_errors():
        data = _read_unchanged(image)
    content = blake2b(data, digest_size=16).digest()
    if known is not None and known(content):
        raise _ContentKnownError(content)
    if image.side_pixels is not None:
        data = as_ppm(data if image.to_rows is None else image.to_rows(data), *image.side_pixels)
    with _picture_errors(format_name):
        pixels = rgb_pixels(open_image(BytesIO(data), format_name), size_for)
    return pixels, content


def _read_unchanged(image: OpenedImage) -> bytes:
    image.file.seek(0)
    data = image.file.read(image.n_bytes + 1)
    if len(data) != image.n_bytes or not image.is_unchanged():
        raise UnreadableImageError("the file changed while it was read", lasting=False)
    return data


@contextlib.contextmanager
def _archive_errors() -> Iterator[None]:
    """Turn what a decompressor raises over damaged bytes into a reason."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UnreadableImageError(f"damaged in the archive: {_one_line(error)}") from error


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
