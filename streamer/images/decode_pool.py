"""Decoding in worker processes, for a device that takes more images than one interpreter can decode.

Each thread that calls `DecodeProcesses.decode` hands its file to a worker of its own and sleeps until the pixels are
there. Order, look-ahead and cancelling stay with the threads' pool (see `streamer.images.decode.decode_stream`), the
bytes stay with the one gate, and a worker is known by the one file it has in work. A file costs the parent 0.1 ms, with
pixels of 224 x 224, where decoding a small JPEG takes 1.6 ms.

Workers are started as programs of their own and not by ``multiprocessing``: that one imports the caller's main script
again in each of them, and its queues lock up when a worker is killed at the wrong moment. Memory is shared without a
name (Windows: under one that ends with its last user), so that nothing is left of it whoever is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from streamer.images.decode_worker import Answer, NeedsMore, Preview, Request, Setup, map_pixels
from streamer.images.gate import ByteGate, GateClosedError
from streamer.images.opened import UnreadableImageError
from streamer.images.pixels import DecodeLimits, decode_file
from streamer.records import Decoded, ImageRef, Known, Rejected, bare

__all__ = ["WORKER_BYTES", "DecodeProcesses", "DecodeTimeoutError"]

_LOG = logging.getLogger(__name__)

WORKER_BYTES = 40 * 2**20
"""Resident size of an idle worker: interpreter, numpy, Pillow. 37 MiB were measured, 18 of them its own alone."""

_SPARE_STARTS = 3
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from streamer.images.decode_worker import main"
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")
_WINDOWS_CRASH = 0xC0000000  # NTSTATUS of an unhandled exception; who ends a process gives smaller numbers
_numbers = itertools.count()


class DecodeTimeoutError(Exception):
    """A file took longer to decode than it may. Its worker was ended."""


class DecodeProcesses:
    """Worker processes that decode files; each is started when it is first wanted.

    Parameters
    ----------
    processes : int
        The most workers, and the most threads that may be in `decode` at one time.
    size : tuple of int
        (height, width) of the pixels.
    limits : DecodeLimits
    gate : ByteGate
        Held while a worker has file and buffers in memory. Its capacity is ``limits.memory_bytes``.
    timeout_seconds : float, optional
        What a file may take. Files that are given one come from strangers: none is ever decoded in this process, and
        workers that they end are replaced however many there were.
    share_bytes : int, optional
        What is held for a file until it is known to take more; by default an even share of the limit.
    """

    def __init__(
        self,
        processes: int,
        size: tuple[int, int],
        limits: DecodeLimits,
        gate: ByteGate,
        timeout_seconds: float | None = None,
        share_bytes: int | None = None,
    ) -> None:
        self._size = size
        self._timeout_seconds = timeout_seconds
        self._limits = limits
        self._gate = gate
        # Most pictures need less than an even share: then a worker is asked once and all can work at the same time.
        self._share_bytes = share_bytes or limits.memory_bytes // processes
        self._starts_left = processes + _SPARE_STARTS
        self._closed = False
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        # Last in, first out: no more workers are started than there is work for. None is one that was not started yet.
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)

    def start(self) -> None:
        """Start all workers now, so that no file has to wait for one; before the first file."""
        workers = [self._idle.get() or self._started() for _ in range(self._idle.qsize())]
        for worker in workers:
            self._idle.put(worker)

    def decode(self, ref: ImageRef) -> Decoded | Known | Rejected:
        """Turn one file into pixels, as `decode_file` does.

        A worker that was killed from outside (as the system does when memory runs out) has its file decoded here, on
        the calling thread. One that crashed over a file has the file refused.

        Raises
        ------
        DecodeTimeoutError
            It took longer than it may.
        GateClosedError
            The pool or its gate was closed.
        """
        found = self._handed_over(ref, None)
        assert not isinstance(found, Preview)
        return found

    def preview(self, ref: ImageRef, longest_side: int) -> Preview:
        """Make a JPEG of one file, as `streamer.images.previews.jpeg_preview` does; for a pool with a time limit.

        Raises
        ------
        UnreadableImageError
            The file cannot be read, is no picture, is damaged, exceeds a limit, or crashed the process.
        DecodeTimeoutError
            It took longer than it may.
        GateClosedError
            The pool or its gate was closed.
        """
        assert self._timeout_seconds is not None, "without one, files are decoded in this process, and into pixels"
        found = self._handed_over(ref, longest_side)
        if isinstance(found, Rejected):
            raise UnreadableImageError(found.reason, lasting=found.lasting)
        assert isinstance(found, Preview)
        return found

    def _handed_over(self, ref: ImageRef, jpeg_side: int | None) -> Decoded | Known | Rejected | Preview:
        worker = self._idle.get()
        try:
            if worker is not None and worker.has_ended():  # while nobody was waiting for it
                self._forget(worker)
                worker = None
            worker = worker or self._started()
            if worker is None:
                if self._timeout_seconds is not None:
                    return Rejected(bare(ref), "no process could be started to decode it", lasting=False)
                return decode_file(ref, self._size, self._limits, self._gate)
            try:
                return self._ask(worker, ref, jpeg_side)
            except _WorkerDiedError:
                dead, worker = worker, None
                return self._after_death(dead, ref)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the workers, whatever they are at; who waits for one gets a `GateClosedError`."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
            self._workers.clear()
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.exit_code()

    def _ask(self, worker: _Worker, ref: ImageRef, jpeg_side: int | None) -> Decoded | Known | Rejected | Preview:
        """Have a file decoded while its bytes are held: an even share first, then what it turns out to take."""
        left_seconds = self._timeout_seconds
        with self._gate.holding(self._share_bytes):
            began = time.monotonic()
            answer = worker.ask(Request(ref, self._share_bytes, jpeg_side), left_seconds)
            if not isinstance(answer, NeedsMore):
                return self._result(worker, ref, answer)
        if left_seconds is not None:  # to wait at the gate is no fault of the file
            left_seconds = max(0.0, left_seconds - (time.monotonic() - began))
        with self._gate.holding(answer):
            # The file may have been replaced by a larger one in between.
            again = worker.ask(Request(ref, int(answer), jpeg_side), left_seconds)
            if not isinstance(again, NeedsMore):
                return self._result(worker, ref, again)
        return Rejected(bare(ref), "the file changed while it was read", lasting=False)

    def _result(
        self, worker: _Worker, ref: ImageRef, answer: bytes | Preview | Rejected | BaseException
    ) -> Decoded | Known | Rejected | Preview:
        if isinstance(answer, Preview):
            return answer
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, Rejected):
            return Rejected(bare(ref), answer.reason, answer.lasting)
        return Decoded(bare(ref), worker.pixels.copy(), answer)

    def _started(self) -> _Worker | None:
        with self._lock:
            if self._closed:
                raise GateClosedError
            if self._timeout_seconds is None:
                if not self._starts_left:
                    return None
                self._starts_left -= 1
            try:
                worker = _Worker((self._size, self._limits))
            except OSError as error:
                self._starts_left = 0
                _LOG.warning("no process can be started to decode in (%s): decoding goes on on threads", error)
                return None
            self._workers.add(worker)
            return worker

    def _forget(self, worker: _Worker) -> int:
        """Let go of a worker that has ended; its exit code."""
        with self._lock:
            if self._closed:
                raise GateClosedError
            self._workers.discard(worker)
        return worker.exit_code()

    def _after_death(self, worker: _Worker, ref: ImageRef) -> Decoded | Known | Rejected:
        code = self._forget(worker)
        if worker.timed_out:
            raise DecodeTimeoutError
        crash = _crash(code)
        if crash:
            _LOG.warning("%s: decoding it crashed a process (%s)", ref.path, crash)
            return Rejected(bare(ref), f"decoding it crashed the process ({crash})")
        if self._timeout_seconds is not None:
            _LOG.warning("a decoding process ended (exit code %d), out of memory perhaps", code)
            return Rejected(bare(ref), "the process that decoded it ended, out of memory perhaps", lasting=False)
        _LOG.warning("a decoding process ended (exit code %d), out of memory perhaps; %s is read again", code, ref.path)
        return decode_file(ref, self._size, self._limits, self._gate)


class _WorkerDiedError(Exception):
    """The worker ended before it answered."""


class _Deadline:
    """Ends a worker unless its answer comes first: it was met or it passed, and never both.

    A timer may go off while the answer is being read. Were the worker ended after its answer was taken, it would be
    handed on, and the next file refused for the slowness of this one.

    Parameters
    ----------
    seconds : float or None
        None: there is none.
    end : callable
        Called when it passes.
    """

    def __init__(self, seconds: float | None, end: Callable[[], None]) -> None:
        self.passed = False
        self._end = end
        self._met = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._pass) if seconds is not None else None
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def meet(self) -> bool:
        """Say that there is nothing to wait for any more; whether that was in time."""
        with self._lock:
            self._met = True
        if self._timer is not None:
            self._timer.cancel()
        return not self.passed

    def _pass(self) -> None:
        with self._lock:
            if not self._met:
                self.passed = True
                self._end()


class _Worker:
    """One worker process and the pixels it shares with us. One thread at a time."""

    def __init__(self, setup: Setup) -> None:
        self.timed_out = False
        with _shared_memory(setup[0][0] * setup[0][1] * 3) as memory:
            self.pixels: NDArray[np.uint8] = map_pixels(memory, setup[0])
            arguments = [sys.executable, "-c", f"{_START}; main(sys.argv[1])", memory, json.dumps(sys.path)]
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # else a thread and its stack for each core
            if sys.platform == "win32":
                # A group of its own: Ctrl-C in the terminal reaches the parent only.
                self._process = subprocess.Popen(  # noqa: S603 - ourselves
                    arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
                )
            else:
                self._process = subprocess.Popen(  # noqa: S603 - ourselves
                    arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    start_new_session=True,
                    pass_fds=[int(memory)],
                )
        self._unsent = pickle.dumps(setup)

    def ask(self, request: Request, timeout_seconds: float | None = None) -> Answer:
        """Send a request and wait for its answer; when it takes longer than it may, the process is ended.

        Raises
        ------
        _WorkerDiedError
            The process ended.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        deadline = _Deadline(timeout_seconds, self.kill)
        try:
            requests.write(self._unsent + pickle.dumps(request))
            requests.flush()
            self._unsent = b""
            answer: Answer = pickle.load(answers)  # noqa: S301 - from our own worker
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise _WorkerDiedError from error
        finally:
            self.timed_out = not deadline.meet()
        if self.timed_out:  # it answered, and was ended before the answer was read
            raise _WorkerDiedError
        return answer

    def has_ended(self) -> bool:
        """Whether the process is there no more."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the process at once: it holds nothing that could be lost."""
        self._process.kill()

    def exit_code(self) -> int:
        """Wait for the end of a process that is ending, and return its code."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:  # it closed its output, and lives
            self._process.kill()
            code = self._process.wait()
        with contextlib.suppress(OSError):  # a request that was never read
            requests.close()
        answers.close()
        return code


@contextlib.contextmanager
def _shared_memory(n_bytes: int) -> Iterator[str]:
    """Make memory to be mapped by `map_pixels`, here and in the process started in the body."""
    if sys.platform == "win32":
        yield f"streamer-decode-{os.getpid()}-{next(_numbers)}"
    elif sys.platform == "linux" and hasattr(os, "memfd_create"):  # a Python built against an old glibc has it not
        # Counted as memory, where /dev/shm has a limit of its own (64 MB in a container), met with a SIGBUS.
        descriptor = os.memfd_create("streamer-decode")
        try:
            os.ftruncate(descriptor, n_bytes)
            yield str(descriptor)
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryFile() as file:
            file.truncate(n_bytes)
            yield str(file.fileno())


def _crash(exit_code: int) -> str:
    """Name the fault that a process died of by itself; an empty string where something else ended it."""
    if exit_code >= _WINDOWS_CRASH:
        return f"0x{exit_code:X}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        return ""
    return name if name in _CRASHES else ""
