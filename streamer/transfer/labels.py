"""Which images of a store a head is trained on, and what each of them is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigError, StreamerError
from streamer.images import read_labels
from streamer.records import key_hash
from streamer.store import Store

__all__ = ["ChosenLabels"]

_LOG = logging.getLogger(__name__)

_BLOCK_ROWS = 10_000
_NAMED = 3


class ChosenLabels:
    """The label of each image that counts, by key: 12 bytes an image.

    Parameters
    ----------
    store : Store
    table : Path, optional
        A CSV file, ``key,label``, in the place of the labels in the store.
    exclude : sequence of str
        Labels that are left out.

    Attributes
    ----------
    notes : list of str
        What was left out, and what in the file is not in the store.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no such file, or names none of the images.
    StreamerError
        If no image has a label that is excluded, or fewer than two labels are left.
    """

    def __init__(self, store: Store, table: Path | None = None, exclude: Sequence[str] = ()) -> None:
        exclude = tuple(dict.fromkeys(exclude))
        labels = read_labels(table) if table is not None else None
        met = np.zeros(len(labels) if labels is not None else 0, dtype=bool)
        hashes: list[NDArray[np.uint64]] = []
        numbers: list[NDArray[np.int32]] = []
        known: dict[str, int] = {}
        counts: dict[str, int] = {}
        images = 0
        unnamed: list[str] = []
        for block in store.catalog.rows.examples(_BLOCK_ROWS):
            kept, kept_numbers = [], []
            for _, copy, _, _, key, stored, _ in block:
                if copy:
                    continue
                images += 1
                label = stored if labels is None else labels.get(key)
                place = None if labels is None else labels.place(key)
                if place is not None:
                    met[place] = True
                counts[label] = counts.get(label, 0) + 1
                if not label and len(unnamed) < _NAMED:
                    unnamed.append(key)
                if label and label not in exclude:
                    kept.append(key_hash(key))
                    kept_numbers.append(known.setdefault(label, len(known)))
            hashes.append(np.array(kept, np.uint64))
            numbers.append(np.array(kept_numbers, np.int32))
        if labels is not None and images and not met.any():
            (stranger,) = labels.keys_at([0])
            raise ConfigError(
                f"{table}: none of its {len(labels)} keys is an image of {store.path}: it names {stranger!r}, and no "
                "such image is there. Write each key as the image's path relative to the source"
            )
        for label in exclude:
            if label not in counts:
                there = ", ".join(sorted(filter(None, counts))[:10])
                raise StreamerError(
                    f"{store.path}: no image has the label {label!r}, which was to be left out: {there}"
                )
        self.notes = []
        if labels is not None and not met.all():
            strangers = labels.keys_at(np.flatnonzero(~met)[:_NAMED].tolist())
            count = int((~met).sum())
            self.notes.append(
                f"{table}: {count} of its {len(met)} keys are not in the store: {_some(strangers, count)}"
            )
        if counts.get("", 0) and known:
            without = f"{counts['']} of {images} images have no label and are left out"
            self.notes.append(f"{without}: {_some(unnamed, counts[''])}")
        for label in exclude:
            self.notes.append(f"{counts[label]} images labelled {label!r} are left out")
        for note in self.notes:
            _LOG.warning("%s", note)
        if exclude and not known:
            raise StreamerError(f"{store.path}: all labels it has are left out: {', '.join(exclude)}; leave out fewer")
        if len(known) == 1:
            raise StreamerError(
                f"{store.path}: all {sum(map(len, hashes))} labelled images are {next(iter(known))!r}; a head tells "
                "classes apart, so two are the least: put the images in folders by class, or give --labels FILE.csv"
            )
        order = np.argsort(np.concatenate([np.empty(0, np.uint64), *hashes]), kind="stable")
        self._hashes = np.concatenate([np.empty(0, np.uint64), *hashes])[order]
        self._numbers = np.concatenate([np.empty(0, np.int32), *numbers])[order]
        self._names: list[str] = list(known)

    def get(self, key: str, default: str = "", /) -> str:
        """The label of a key; `default` where the image does not count."""
        wanted = np.uint64(key_hash(key))
        place = int(np.searchsorted(self._hashes, wanted))
        if place == len(self._hashes) or self._hashes[place] != wanted:
            return default
        return self._names[int(self._numbers[place])]


def _some(keys: Sequence[str], count: int) -> str:
    return ", ".join(map(repr, keys)) + (", ..." if count > len(keys) else "")
