"""The stage that turns files into pixels, on threads or in processes, in order, within a number of bytes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamer.images.cost import decoding_bytes
from streamer.images.feeding import Feeding
from streamer.images.formats import HEAD_BYTES, UnreadableImageError, examine, make_way, open_image, sniff
from streamer.images.gate import ByteGate, hand_back_freed_buffers
from streamer.images.rgb import DECODE_RECIPE, SizeFor, rgb_pixels
from streamer.records import Decoded, ImageRef, Known, Rejected

if TYPE_CHECKING:
    from streamer.images.decode_pool import DecodeProcesses

__all__ = ["DECODE_RECIPE", "DecodeLimits", "KnowsContent", "decode_file", "decode_stream", "read_pixels"]

logger = logging.getLogger(__name__)

_REASON_CHARACTERS = 200

KnowsContent = Callable[[bytes], bool]
"""Whether a store has features of the bytes with this digest."""

_Outcome = Decoded | Known | Rejected


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


def decode_stream(
    refs: Iterable[ImageRef | Rejected],
    *,
    size: tuple[int, int],
    threads: int,
    lookahead_images: int | Callable[[], int],
    limits: DecodeLimits,
    processes: int = 0,
    known: KnowsContent | None = None,
) -> Generator[Decoded | Known | Rejected, None, None]:
    """Turn files into pixels; what comes out is in the order of what went in.

    Decoding starts on threads, and stays there unless `processes` are allowed and the threads turn out not to feed the
    consumer (see `streamer.images.feeding.Feeding`): then it moves to processes, once, in the middle of the stream.

    Parameters
    ----------
    refs : iterable of ImageRef or Rejected
        Advanced only by the thread that consumes this stream. What is already refused is passed on in its place.
    size : tuple of int
        (height, width) of the pixels.
    threads : int
        Files decoded at one time by threads. 0: by processes from the first image on.
    lookahead_images : int or callable without arguments that returns int
        Files that are being decoded, or wait decoded for the consumer, at one time; at least 1. A callable is asked
        before each image, so the number can change while the stream runs. Fewer than `threads` or `processes` keep
        some of them idle.
    limits : DecodeLimits
    processes : int
        Files decoded at one time by processes, each of which takes `decode_pool.WORKER_BYTES` by itself. 0: threads
        only, which is right where the network needs the cores.
    known : callable, optional
        Asked with the digest of a file's bytes, from any thread; True leaves the file undecoded. Processes cannot ask:
        they decode it all the same.

    Yields
    ------
    Decoded, Known or Rejected
        One for each of `refs`. Closing the stream early, or an error in `refs`, stops the threads: it waits for the
        images that they have in work, and starts no other. Processes are ended at once.

    Raises
    ------
    ValueError
        Neither threads nor processes are allowed.
    """
    if threads < 1 and processes < 1:
        raise ValueError(f"no image can be decoded by {threads} threads and {processes} processes")
    hand_back_freed_buffers()
    pending: deque[Future[_Outcome]] = deque()
    source = iter(refs)
    exhausted = False
    with _Decoders(size, limits, threads, processes, known) as decoders:
        while True:
            lookahead = lookahead_images() if callable(lookahead_images) else lookahead_images
            while not exhausted and len(pending) < max(1, lookahead):
                ref = next(source, None)
                if ref is None:
                    exhausted = True
                elif isinstance(ref, Rejected):
                    pending.append(_settled(ref))
                else:
                    pending.append(decoders.submit(ref))
            if not pending:
                return
            decoders.note_wait(pending)
            yield pending.popleft().result()


class _Decoders:
    """The threads that decode, or that wait for the processes that do; one gate for all of them."""

    def __init__(
        self,
        size: tuple[int, int],
        limits: DecodeLimits,
        threads: int,
        processes: int,
        known: KnowsContent | None,
    ) -> None:
        self._size = size
        self._known = known
        self._limits = limits
        self._threads = threads
        self._processes = processes
        self._gate = ByteGate(limits.memory_bytes)
        self._closing = contextlib.ExitStack()
        self._feeding = Feeding() if threads and processes else None
        self._workers: DecodeProcesses | None = None
        if threads:
            self._pool = self._opened_pool(threads)
        else:
            self._move()

    def __enter__(self) -> _Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.close()
        self._closing.close()

    def submit(self, ref: ImageRef) -> Future[_Outcome]:
        if self._workers is not None:
            return self._pool.submit(self._workers.decode, ref)
        return self._pool.submit(decode_file, ref, self._size, self._limits, self._gate, self._known)

    def note_wait(self, pending: deque[Future[_Outcome]]) -> None:
        """Wait for the first of the images under way, and move to processes when such waits have become too many."""
        if self._feeding is None:
            return
        undone = (1 for future in pending if not future.done())
        if not pending[0].done() and sum(itertools.islice(undone, self._threads)) == self._threads:
            with self._feeding.waiting():
                wait((pending[0],))
        reason = self._feeding.verdict()
        if reason:
            self._feeding = None
            logger.info("decoding moves from %d threads to %d processes: %s", self._threads, self._processes, reason)
            self._move()

    def _move(self) -> None:
        """Have processes decode from now on. What the threads have been given stays with them."""
        from streamer.images.decode_pool import DecodeProcesses

        self._workers = DecodeProcesses(self._processes, self._size, self._limits, self._gate)
        self._pool = self._opened_pool(self._processes)
        self._closing.callback(self._workers.close)  # before the pool: its threads are waiting for them

    def _opened_pool(self, threads: int) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._closing.callback(pool.shutdown, wait=True, cancel_futures=True)
        return pool


def _settled(rejected: Rejected) -> Future[_Outcome]:
    future: Future[_Outcome] = Future()
    future.set_result(rejected)
    return future


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
    with _opened(path) as file:
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


def _opened(path: str) -> BinaryIO:
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
