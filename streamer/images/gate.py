"""A semaphore that counts bytes: how much memory all decoding threads together may hold."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator

__all__ = ["ByteGate", "GateClosedError", "hand_back_freed_buffers"]

_M_MMAP_THRESHOLD = -3  # from glibc's malloc.h
_HANDED_BACK_FROM_BYTES = 1024 * 1024


class GateClosedError(Exception):
    """The gate was closed while this thread was waiting, or before."""


class ByteGate:
    """Let threads in while what they hold together stays within a number of bytes.

    First come, first served: a large image waits for room, and those behind it wait with it, so it is never passed
    over for ever. No deadlock as long as each thread enters once at a time.

    Parameters
    ----------
    capacity_bytes : int
        What all holders together may hold.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._held_bytes = 0
        self._queue: deque[object] = deque()
        self._closed = False
        self._changed = threading.Condition()

    @property
    def held_bytes(self) -> int:
        """What is held at this moment, in bytes."""
        return self._held_bytes

    @contextlib.contextmanager
    def holding(self, n_bytes: int) -> Iterator[None]:
        """Wait until `n_bytes` are free, hold them in the body, give them back after it.

        Raises
        ------
        ValueError
            `n_bytes` is more than the capacity: it would wait for ever.
        GateClosedError
            The gate was closed.
        """
        if n_bytes > self.capacity_bytes:
            raise ValueError(f"{n_bytes} bytes will never fit through a gate of {self.capacity_bytes}")
        self._enter(n_bytes)
        try:
            yield
        finally:
            with self._changed:
                self._held_bytes -= n_bytes
                self._changed.notify_all()

    def close(self) -> None:
        """Turn away those who wait and those who come later; those inside are left to finish."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _enter(self, n_bytes: int) -> None:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: (
                        self._closed or (self._queue[0] is ticket and self._held_bytes + n_bytes <= self.capacity_bytes)
                    )
                )
                if self._closed:
                    raise GateClosedError
                self._held_bytes += n_bytes
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()


@functools.cache
def hand_back_freed_buffers() -> None:
    """Make a freed buffer of a megabyte or more go back to the system at once, for the rest of the process.

    Without it a gate counts in vain: glibc moves the size from which it does so up to 32 MB as large buffers are
    freed, and then each thread keeps its own hoard. Eight threads with a gate of 45 MB grew the process by 175 MB, and
    by 48 MB with this; a VGG16 forward pass beside it took as long as before. Other allocators need no telling. Who
    has set glibc's own variable has decided.
    """
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl has none
            mallopt(_M_MMAP_THRESHOLD, _HANDED_BACK_FROM_BYTES)
