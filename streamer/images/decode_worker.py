"""A worker process of `streamer.images.decode_pool`: takes requests, decodes, answers. It imports what that takes only.

Requests and answers are pickled, one after the other, over standard input and output; pixels go through shared memory.
The end of the input is the end of the worker. The system ends it, too, when the parent was killed: no orphans.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.images.gate import ByteGate, hand_back_freed_buffers
from streamer.images.pixels import DecodeLimits, decode_file
from streamer.images.previews import jpeg_preview
from streamer.records import Decoded, ImageRef, Rejected

__all__ = ["Answer", "NeedsMore", "Preview", "Request", "Setup", "main", "map_pixels"]

Setup = tuple[tuple[int, int], DecodeLimits]
"""The first message: (height, width) of the pixels, and the limits."""


class Request(NamedTuple):
    """What to decode, how many bytes it may take, and the longest side where a JPEG is wanted and not pixels."""

    ref: ImageRef
    share_bytes: int
    jpeg_side: int | None = None


class Preview(NamedTuple):
    """A JPEG of a file, and the digest of the file's content."""

    jpeg: bytes
    content: bytes


class NeedsMore(int):
    """The answer where a picture takes more than it may: how many bytes it takes. Nothing was decoded."""


Answer = bytes | Preview | Rejected | NeedsMore | BaseException
"""The content's digest (the pixels are in shared memory), a JPEG, or why there are none."""


def map_pixels(memory: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Map the memory that a worker shares with its parent.

    Parameters
    ----------
    memory : str
        Number of an open file, or on Windows the name of a mapping, which is made where it does not exist.
    size : tuple of int
        (height, width) of the pixels.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
    """
    n_bytes = size[0] * size[1] * 3
    if sys.platform == "win32":
        shared = mmap.mmap(-1, n_bytes, tagname=memory)
    else:
        shared = mmap.mmap(int(memory), n_bytes)
    return np.frombuffer(shared, np.uint8).reshape(*size, 3)


class _Share(ByteGate):
    """Stands in for the gate: the parent holds the bytes at the real one, here it is only seen to that they suffice."""

    @contextlib.contextmanager
    def holding(self, n_bytes: int) -> Iterator[None]:
        if n_bytes > self.capacity_bytes:
            raise _ShareTooSmallError(n_bytes)
        yield


class _ShareTooSmallError(Exception):
    def __init__(self, needed_bytes: int) -> None:
        super().__init__(needed_bytes)
        self.needed_bytes = needed_bytes


def main(memory: str) -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    hand_back_freed_buffers()
    with contextlib.suppress(EOFError, OSError), _standard_streams() as (requests, answers):
        size, limits = pickle.load(requests)  # noqa: S301 - from the parent
        pixels = map_pixels(memory, size)
        while True:
            request: Request = pickle.load(requests)  # noqa: S301
            answer = _answer(request, limits, pixels)
            answers.write(_pickled(answer))
            answers.flush()


def _answer(request: Request, limits: DecodeLimits, pixels: NDArray[np.uint8]) -> Answer:
    height, width, _ = pixels.shape
    share = _Share(request.share_bytes)
    try:
        if request.jpeg_side is not None:
            return Preview(*jpeg_preview(request.ref.path, request.jpeg_side, limits, share))
        result = decode_file(request.ref, (height, width), limits, share)
    except _ShareTooSmallError as error:
        return NeedsMore(error.needed_bytes)
    except Exception as error:  # noqa: BLE001 - why there is no preview, or a fault here: the parent raises it
        return error
    if isinstance(result, Rejected):
        return result
    assert isinstance(result, Decoded)  # it was not told what is known
    pixels[...] = result.pixels
    return result.content


def _pickled(answer: Answer) -> bytes:
    try:
        return pickle.dumps(answer)
    except Exception:  # noqa: BLE001 - an exception that holds what cannot be pickled
        return pickle.dumps(RuntimeError(repr(answer)))


@contextlib.contextmanager
def _standard_streams() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Take standard output for the answers alone: what a library prints goes to standard error from here on."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        yield sys.stdin.buffer, answers
