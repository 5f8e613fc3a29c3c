"""Whether decoding threads feed their consumer, and whether processes could do better."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Feeding", "usable_cores"]

WINDOW_SECONDS = 2.0
STARVED_SHARE = 0.25
BUSY_CORES = 0.9
IDLE_SHARE = 0.25


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Feeding:
    """Measure, window by window, how long the consumer waits and what this process makes of its cores meanwhile.

    Threads are at their end when, in a window of `WINDOW_SECONDS`,

    - the consumer waited for more than `STARVED_SHARE` of the time while all threads had work (so that neither the
      consumer, nor the listing, nor a look-ahead that is short of memory is what holds it up);
    - this process kept at least `BUSY_CORES` busy: the interpreter's lock is taken all the time, as opposed to a slow
      disk, which processes would have to wait for as well;
    - and at least `IDLE_SHARE` of the cores were left to others.

    Parameters
    ----------
    cores : int, optional
        Cores that this process may run on.
    clock, cpu_clock : callable
        Seconds that have passed, and seconds of work that all threads of this process have done.
    """

    def __init__(
        self,
        cores: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.cores = usable_cores() if cores is None else cores
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._began = clock()
        self._cpu_began = cpu_clock()
        self._waited = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the body as time that the consumer waited while all threads had work."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - began

    def verdict(self) -> str:
        """Say, at the end of a window, why processes are wanted; an empty string where they are not, or in between."""
        seconds = self._clock() - self._began
        if seconds < WINDOW_SECONDS:
            return ""
        waited, busy = self._waited / seconds, (self._cpu_clock() - self._cpu_began) / seconds
        self._began, self._cpu_began, self._waited = self._clock(), self._cpu_clock(), 0.0
        if waited > STARVED_SHARE and BUSY_CORES <= busy <= (1 - IDLE_SHARE) * self.cores:
            return (
                f"{waited:.0%} of {seconds:.1f} s were waits for pictures, with {busy:.1f} of {self.cores} cores busy"
            )
        return ""
