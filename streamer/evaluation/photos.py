"""The photos of a store and which of their labels count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StreamerError
from streamer.store import Store

__all__ = ["PART", "Photos"]

PART = 4096
"""Photos looked up in the catalog at a time."""


@dataclass(frozen=True)
class Photos:
    """The live photos, in the order of the store."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    """Number of each one's label; -1 without one, or with one that is excluded."""
    names: dict[str, int]
    """Of the labels that count, and their numbers."""
    unlabelled: int
    excluded: int

    @classmethod
    def of(cls, store: Store, exclude: Sequence[str]) -> Photos:
        ids: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        labels: list[int] = []
        numbers: dict[str, int] = {}
        found: set[str] = set()
        unlabelled = excluded = 0
        for part, _, _ in store.catalog.places(repeat(PART)):
            ids.append(part)
            entries = store.entries(part.tolist())
            for number in part.tolist():
                label = entries[number].label
                found.add(label)
                unlabelled += not label
                excluded += label in exclude and bool(label)
                left_out = not label or label in exclude
                labels.append(-1 if left_out else numbers.setdefault(label, len(numbers)))
        for label in exclude:
            if label not in found:
                raise StreamerError(f"{store.path}: no photo has the label {label!r}; labels are names of folders")
        return cls(np.concatenate(ids), np.array(labels, dtype=np.int64), numbers, unlabelled, excluded)

    def same(self) -> NDArray[np.int64]:
        """How many other photos carry each one's label; 0 without one."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=1)
        return np.where(self.labels >= 0, counts[self.labels] - 1, 0)

    def key(self, store: Store, place: int) -> str:
        """Key of one photo."""
        return store.entries([int(self.ids[place])])[int(self.ids[place])].key

    def notes(self, by_label: bool, same: NDArray[np.int64]) -> list[str]:
        """What does not count, and why."""
        alone = int(((self.labels >= 0) & (same == 0)).sum())
        notes = {
            f"{self.excluded} photos with an excluded label count neither as queries nor as answers": self.excluded,
            f"{self.unlabelled} photos without a label count neither as queries nor as answers": self.unlabelled,
            f"{alone} photos are the only one of their label, and no queries": alone,
        }
        if not by_label:
            return ["no two photos of one label beside another label: nothing to measure but recall"]
        return [note for note, number in notes.items() if number]
