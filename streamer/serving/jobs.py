"""Work that takes seconds or minutes: one at a time, its newest results remembered."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Jobs"]

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")


class Jobs(Generic[Result]):
    """Results by key, each worked out once, on a thread of its own.

    Parameters
    ----------
    name : str
        Of the thread.
    most_kept : int
        Results that are remembered.
    most_waiting : int
        Results that may wait to be worked out while another is.
    """

    def __init__(self, name: str, most_kept: int, most_waiting: int = 0) -> None:
        self._most_kept = most_kept
        self._most_waiting = most_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._jobs: OrderedDict[Hashable, Future[Result]] = OrderedDict()
        self._stopping = threading.Event()

    def result(self, key: Hashable, work: Callable[[Callable[[], bool]], Result]) -> Future[Result] | None:
        """The result of a key: there, or under way, or begun now.

        Parameters
        ----------
        key : hashable
        work : callable
            Makes the result; is given what says whether it is to stop.

        Returns
        -------
        Future or None
            None while too many others are to be worked out. One that failed is forgotten as it is handed out.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                if sum(not other.done() for other in self._jobs.values()) > self._most_waiting:
                    return None
                job = self._jobs[key] = self._thread.submit(work, self._stopping.is_set)
                while len(self._jobs) > self._most_kept:
                    self._jobs.popitem(last=False)
            elif job.done() and job.exception() is not None:
                del self._jobs[key]
            else:
                self._jobs.move_to_end(key)
            return job

    def close(self) -> None:
        """Stop what is under way."""
        self._stopping.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
