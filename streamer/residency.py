"""What the mapped files of this process may hold of memory, all together.

Pages that are read through a map belong to the system's cache, but count as the process's own as long as they are
mapped, and reading one row may bring megabytes along: the system maps in pieces as large as it has cached, whatever it
is told of how the file is read (Linux 6.18 on ext4: a quarter of a megabyte for each byte touched). It tells how much
the maps of a process hold together, not how much each does. So there is one bound for all of them: when it is passed,
all let go.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["MAPS", "Residency", "mapped_bytes"]

LetGo = Callable[[], bool]
"""Hands the pages back; says whether it could."""

# Of the memory budget, while there is a search: network, rows and answers need the rest.
_SHARE = 3 / 8
_UNBOUND_BYTES = 32 * 2**20
# After so much has been read through maps, it is looked how much of them is held.
_LOOK_BYTES = 4 * 2**20


class Residency:
    """The one bound.

    Attributes
    ----------
    limit_bytes : int
        What may be held, beside the program itself: its libraries are mapped files, too.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._maps: dict[int, LetGo] = {}
        self._number = 0
        self._floor_bytes = 0
        self._touched_bytes = 0
        self._unseen_bytes = 0

    def bound(self, budget_bytes: int) -> None:
        """Give the maps their share of a memory budget."""
        self.limit_bytes = int(_SHARE * budget_bytes)

    def join(self, let_go: LetGo) -> Callable[[], None]:
        """Take a map in; returns what takes it out again."""
        with self._lock:
            self._number += 1
            number = self._number
            self._maps[number] = let_go

        def leave() -> None:
            with self._lock:
                self._maps.pop(number, None)

        return leave

    def touched(self, n_bytes: int) -> None:
        """Note that so much was read through a map; now and then, look how much is held."""
        with self._lock:
            self._touched_bytes += n_bytes
            self._unseen_bytes += n_bytes
            if self._unseen_bytes < min(_LOOK_BYTES, self.limit_bytes):
                return
            self._unseen_bytes = 0
            held = mapped_bytes()
            mine = self._touched_bytes if held is None else held - self._floor_bytes
            if mine <= self.limit_bytes:
                return
            handed_back = [let_go() for let_go in self._maps.values()]
            self._touched_bytes = 0
            if held is not None and all(handed_back):
                self._floor_bytes = mapped_bytes() or 0


MAPS = Residency(_UNBOUND_BYTES)
"""Of this process. Whoever searches sets the bound by the memory budget."""


def mapped_bytes() -> int | None:
    """Bytes of mapped files that count as this process's own memory now; None where the system does not say."""
    try:
        shared_pages = int(Path("/proc/self/statm").read_bytes().split()[2])
    except (OSError, ValueError, IndexError):
        return None
    return shared_pages * mmap.PAGESIZE
