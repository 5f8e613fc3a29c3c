"""The library as the catalog has it now: photos by id and key, labels, random photos. One thread asks the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from streamer.store import CatalogPhotos, Photo, Store

__all__ = ["MOST_LABELS", "Library", "Overview"]

MOST_LABELS = 1000
"""Labels that are listed; photos with others are shown as without one on the map."""

T = TypeVar("T")


@dataclass(frozen=True)
class Overview:
    """What the library holds, as of one commit.

    Attributes
    ----------
    changes : int
        Of the catalog; another number, another library.
    images : int
    labels : list of (str, int)
        The most frequent first, and how many photos have each.
    """

    changes: int
    images: int
    labels: list[tuple[str, int]]


class Library:
    """Questions that need neither network nor index.

    Parameters
    ----------
    path : Path
        The store's folder.
    """

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self._photos = CatalogPhotos(self.store.catalog)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="library")
        self._overview: Overview | None = None
        self._ids: tuple[int, str | None, NDArray[np.int64]] | None = None

    def close(self) -> None:
        """Close the store when what was asked is answered."""
        self._thread.shutdown(wait=True)
        self.store.close()

    async def photo(self, number: int) -> Photo | None:
        """The photo with this id, if it is live."""
        return await self._ask(lambda: self._photos.by_id(number))

    async def photo_of_key(self, key: str) -> Photo | None:
        """The photo with this key, if it is live."""
        return await self._ask(lambda: self._photos.by_key(key))

    async def overview(self) -> Overview:
        """Numbers and labels."""
        return await self._ask(self._current_overview)

    async def random(self, count: int, seed: int | None, label: str | None) -> list[Photo]:
        """Photos by chance: the same seed, the same photos, as long as the library is the same."""
        return await self._ask(lambda: self._drawn(count, seed, label))

    async def _ask(self, question: Callable[[], T]) -> T:
        def answered() -> T:
            with self.store.catalog.snapshot():
                return question()

        return await asyncio.get_running_loop().run_in_executor(self._thread, answered)

    def _current_overview(self) -> Overview:
        changes = self.store.catalog.changes
        if self._overview is None or self._overview.changes != changes:
            self._overview = Overview(changes, len(self.store), self._photos.label_counts(MOST_LABELS))
        return self._overview

    def _drawn(self, count: int, seed: int | None, label: str | None) -> list[Photo]:
        changes = self.store.catalog.changes
        if self._ids is None or self._ids[:2] != (changes, label):
            ids = self.store.ids() if label is None else self._photos.ids_of_label(label)
            self._ids = (changes, label, ids)
        ids = self._ids[2]
        chance = np.random.default_rng(seed)
        drawn = ids[chance.choice(len(ids), min(count, len(ids)), replace=False)].tolist() if len(ids) else []
        found = (self._photos.by_id(number) for number in drawn)
        return [photo for photo in found if photo is not None]
