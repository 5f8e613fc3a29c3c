"""Threads that so much may wait for, and no longer than so: work that hangs must not hold every request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from streamer.serving.refusal import Refusal

__all__ = ["BoundedThreads"]

T = TypeVar("T")


class BoundedThreads:
    """A few threads, and a queue that ends.

    Parameters
    ----------
    name : str
        Of the threads.
    threads : int
    most : int
        Pieces of work at one time, those that wait included.
    seconds : float
        For a piece of work, with its wait.
    """

    def __init__(self, name: str, threads: int, most: int, seconds: float) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._places = threading.Semaphore(most)
        self._seconds = seconds

    def close(self) -> None:
        """Forget what waits, and end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def run(self, work: Callable[[], T]) -> T:
        """Have work done by a thread.

        Raises
        ------
        Refusal
            503: too much waits, or it took too long; what has begun by then is still brought to its end.
        """
        if not self._places.acquire(blocking=False):
            raise Refusal(503, "too many photos are asked for; try again in a moment", retry_seconds=1)
        try:
            future: Future[T] = self._threads.submit(work)
        except RuntimeError:  # they were closed
            self._places.release()
            raise Refusal(503, "the server is ending", retry_seconds=5) from None
        future.add_done_callback(self._leave)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._seconds)
        except asyncio.TimeoutError:
            raise Refusal(503, "the photo took too long; try again in a moment", retry_seconds=5) from None

    def _leave(self, _: Future[Any]) -> None:
        self._places.release()
