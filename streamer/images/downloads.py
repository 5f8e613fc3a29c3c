"""Images that are not on this machine, fetched ahead: so many at a time, and no more bytes than were planned."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from streamer.images.opened import UnreadableImageError
from streamer.images.sources.remote import fetch
from streamer.objects import RemoteLimits, is_remote
from streamer.records import Fetched, ImageRef, Rejected

__all__ = ["fetched_ahead"]

_Item = ImageRef | Rejected


class _Room:
    """How many bytes are fetched or being fetched, and not given up again."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._held_bytes = 0
        self._freed = threading.Condition()

    def take(self, n_bytes: int, *, wait: bool) -> bool:
        """Take room, or say that there is none. An empty room has room for anything."""
        with self._freed:
            while self._held_bytes and self._held_bytes + n_bytes > self._capacity_bytes:
                if not wait:
                    return False
                self._freed.wait()
            self._held_bytes += n_bytes
            return True

    def give_back(self, n_bytes: int) -> None:
        with self._freed:
            self._held_bytes -= n_bytes
            self._freed.notify_all()


def fetched_ahead(
    refs: Iterable[ImageRef | Rejected], limits: RemoteLimits, max_bytes: int
) -> Generator[ImageRef | Rejected, None, None]:
    """Fetch images ahead of who decodes them; what is on this machine goes through as it is.

    Parameters
    ----------
    refs : iterable of ImageRef or Rejected
    limits : RemoteLimits
    max_bytes : int
        A larger image is `Rejected`.

    Yields
    ------
    Fetched, ImageRef or Rejected
        In the order of `refs`. The bytes of a `Fetched` count until nobody holds it any more.
    """
    room = _Room(limits.lookahead_bytes)
    waiting: deque[tuple[_Item, Future[_Item] | None]] = deque()
    source = iter(refs)
    held_back: list[ImageRef] = []
    pool = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="fetch")
    try:
        while True:
            for item in itertools.chain(held_back, source):
                held_back = []
                if not isinstance(item, ImageRef) or not is_remote(item.path):
                    waiting.append((item, None))
                elif room.take(min(item.size, max_bytes), wait=not waiting):
                    waiting.append((item, pool.submit(_fetched, item, limits, max_bytes, room)))
                else:
                    held_back = [item]
                    break
                if len(waiting) >= 2 * limits.concurrency:
                    break
            if not waiting:
                return
            item, future = waiting.popleft()
            yield item if future is None else future.result()
            del item, future  # or its bytes would be held until the next one
    finally:
        # Not waited for: a request may take minutes to fail, and what it gives is of no use any more.
        pool.shutdown(wait=False, cancel_futures=True)


def _fetched(ref: ImageRef, limits: RemoteLimits, max_bytes: int, room: _Room) -> ImageRef | Rejected:
    held = min(ref.size, max_bytes)
    try:
        found = Fetched(ref.key, ref.path, ref.size, ref.mtime_ns, ref.label, fetch(ref, limits, max_bytes))
    except UnreadableImageError as error:
        room.give_back(held)
        return Rejected(ref, str(error), error.lasting)
    except BaseException:
        room.give_back(held)
        raise
    weakref.finalize(found, room.give_back, held)
    return found
