"""Which images of a store a head is trained on, and what each of them is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streamer.errors import ConfigError, StreamerError
from streamer.images import read_labels
from streamer.store import Examples, Split, Store, examples_by_side
from streamer.tables import first_few

__all__ = ["ChosenLabels"]

_LOG = logging.getLogger(__name__)

_NAMED = 3


class ChosenLabels:
    """The label of each image that counts, looked up once, in a pass over the catalog.

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
        If the file cannot be read, or is no such file.
    """

    def __init__(self, store: Store, table: Path | None = None, exclude: Sequence[str] = ()) -> None:
        self.notes: list[str] = []
        self._store = store
        self._exclude = tuple(dict.fromkeys(exclude))
        self._table = read_labels(table) if table is not None else None
        self._met = np.zeros(len(self._table) if self._table is not None else 0, dtype=bool)
        self._counts: dict[str, int] = {}
        self._unnamed: list[str] = []

    def by_side(self, split: Split) -> dict[str, Examples]:
        """The images that are left, by side.

        Parameters
        ----------
        split : Split

        Returns
        -------
        dict of str to Examples
            See `streamer.store.examples_by_side`.

        Raises
        ------
        ConfigError
            If the file names none of the images.
        StreamerError
            If no image has a label that is excluded, or fewer than two labels are left.
        """
        sides = examples_by_side(self._store.catalog, self._label_of, split)
        self._require_known()
        classes = sides["train"].classes
        self.notes += self._left_out(some=bool(classes))
        for note in self.notes:
            _LOG.warning("%s", note)
        self._require_two(classes)
        return sides

    def _label_of(self, key: str, stored: str) -> str:
        label = stored
        if self._table is not None:
            place = self._table.place(key)
            label = "" if place is None else self._table.label_at(place)
            if place is not None:
                self._met[place] = True
        self._counts[label] = self._counts.get(label, 0) + 1
        if not label and len(self._unnamed) < _NAMED:
            self._unnamed.append(key)
        return "" if label in self._exclude else label

    def _require_known(self) -> None:
        """Refuse a file of other images, and to leave out what is not there."""
        if self._table is not None and self._counts and not self._met.any():
            (stranger,) = self._table.keys_at([0])
            raise ConfigError(
                f"{self._table.path}: none of its {len(self._table)} keys is an image of {self._store.path}: it names "
                f"{stranger!r}, and no such image is there. Write each key as the image's path relative to the source"
            )
        for label in self._exclude:
            if label not in self._counts:
                there = ", ".join(sorted(filter(None, self._counts))[:10])
                raise StreamerError(
                    f"{self._store.path}: no image has the label {label!r}, which was to be left out: {there}"
                )

    def _left_out(self, *, some: bool) -> list[str]:
        """What does not count, where `some` images do."""
        notes = []
        if self._table is not None and not self._met.all():
            strangers = self._table.keys_at(np.flatnonzero(~self._met)[:_NAMED].tolist())
            count = int((~self._met).sum())
            notes.append(
                f"{self._table.path}: {count} of its {len(self._met)} keys are not in the store: "
                f"{first_few(strangers, count)}"
            )
        without = self._counts.get("", 0)
        if without and some:
            images = sum(self._counts.values())
            notes.append(
                f"{without} of {images} images have no label and are left out: {first_few(self._unnamed, without)}"
            )
        return notes + [f"{self._counts[label]} images labelled {label!r} are left out" for label in self._exclude]

    def _require_two(self, classes: Sequence[str]) -> None:
        where, remedy = self._store.path, "put the images in folders by class, or give --labels FILE.csv"
        if self._exclude and not classes:
            raise StreamerError(f"{where}: all labels it has are left out: {', '.join(self._exclude)}; leave out fewer")
        if not classes:
            raise StreamerError(f"{where}: none of its {sum(self._counts.values())} images has a label; {remedy}")
        if len(classes) == 1:
            raise StreamerError(
                f"{where}: all {self._counts[classes[0]]} labelled images are {classes[0]!r}; a head tells classes "
                f"apart, so two are the least: {remedy}"
            )
