"""A thread that answers questions: those that wait at the same time are answered together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["BatchThread", "OverloadedError"]

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class OverloadedError(Exception):
    """More questions wait than may."""


class BatchThread(Generic[Question, Answer]):
    """Ask it from any thread; one of its own answers.

    Parameters
    ----------
    name : str
        Of the thread.
    answer : callable
        Questions in, as many answers out; an answer that is an exception is raised to who asked. What it raises itself
        is raised to all who asked.
    most_together : int
        Questions that are answered at one time.
    most_waiting : int
        Questions that may wait.
    window_seconds : float
        How long the first of a batch waits for others, when none is there.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[Sequence[Question]], Sequence[Answer | Exception]],
        *,
        most_together: int,
        most_waiting: int,
        window_seconds: float = 0.0,
    ) -> None:
        self._answer = answer
        self._most_together = most_together
        self._window_seconds = window_seconds
        self._queue: queue.Queue[tuple[Question, Future[Answer]] | None] = queue.Queue(most_waiting)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, question: Question) -> Future[Answer]:
        """Put a question.

        Raises
        ------
        OverloadedError
            If too many wait.
        """
        future: Future[Answer] = Future()
        try:
            self._queue.put_nowait((question, future))
        except queue.Full:
            raise OverloadedError from None
        return future

    def close(self) -> None:
        """Answer what was asked, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            first = self._queue.get()
            if first is None:
                return
            batch = [first]
            until = time.monotonic() + self._window_seconds
            while len(batch) < self._most_together:
                try:
                    further = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if further is None:
                    open_ = False
                    break
                batch.append(further)
            self._settle([(question, future) for question, future in batch if future.set_running_or_notify_cancel()])

    def _settle(self, batch: list[tuple[Question, Future[Answer]]]) -> None:
        if not batch:
            return
        try:
            answers = self._answer([question for question, _ in batch])
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
