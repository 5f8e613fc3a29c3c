"""The stage that turns files into pixels, on threads or in processes, in order, within a number of bytes."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TYPE_CHECKING

from streamer.images.feeding import Feeding
from streamer.images.gate import ByteGate, hand_back_freed_buffers
from streamer.images.pixels import DecodeLimits, KnowsContent, decode_file
from streamer.records import Decoded, ImageRef, Known, Rejected

if TYPE_CHECKING:
    from streamer.images.decode_pool import DecodeProcesses

__all__ = ["decode_stream"]

logger = logging.getLogger(__name__)

_Outcome = Decoded | Known | Rejected


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
                del ref  # whoever fetches ahead counts the bytes of an image until nobody holds it
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
