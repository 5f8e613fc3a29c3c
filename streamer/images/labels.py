"""Labels from a CSV file, in the place of those that a source gives by itself."""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from streamer.errors import ConfigError
from streamer.records import ImageRef, Rejected, key_hash
from streamer.tables import KeyTable, LabelStripper, first_few

__all__ = ["Labels", "labelled", "read_labels"]

_LOG = logging.getLogger(__name__)

_NAMED = 3


class Labels:
    """Labels by key, as a CSV file gives them.

    Of each key 16 bytes are kept: a 64-bit hash, the number of its label and its line. Among a million keys, the odds
    that two share a hash are one in 37 million; a dict of as many short strings holds 100 MB.

    Parameters
    ----------
    table : KeyTable
        The file, to be read again where a key is to be named.
    hashes : array of uint64
        Hashes of the keys, ascending.
    numbers : array of uint32
        ``names[numbers[i]]`` is the label of the key with ``hashes[i]``.
    lines : array of uint32
        Its line, from 1.
    names : list of str
        Every label there is, in the order of the file.
    """

    def __init__(
        self, table: KeyTable, hashes: array[int], numbers: array[int], lines: array[int], names: list[str]
    ) -> None:
        self.path = table.path
        self._table = table
        self.names = names
        self._hashes = hashes
        self._numbers = numbers
        self._lines = lines

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._hashes)

    def place(self, key: str) -> int | None:
        """Where the key stands among all, 0 to n - 1; None where the file does not have it."""
        wanted = key_hash(key)
        place = bisect_left(self._hashes, wanted)
        return place if place < len(self._hashes) and self._hashes[place] == wanted else None

    def get(self, key: str, default: str = "") -> str:
        """The label of a key; `default` where the file does not have it."""
        place = self.place(key)
        return default if place is None else self.label_at(place)

    def label_at(self, place: int) -> str:
        """The label of the key that stands there."""
        return self.names[self._numbers[place]]

    def keys_at(self, places: Iterable[int]) -> list[str]:
        """The keys at these places, in the order of their lines. Reads the file again."""
        lines = {self._lines[place] for place in places}
        return [key for line, key, _ in self._table if line in lines] if lines else []


def read_labels(path: Path) -> Labels:
    """Read a CSV file of labels.

    Parameters
    ----------
    path : Path
        As `KeyTable` takes it. An empty label is none; spaces at the ends of a label are taken off, and warned of.

    Returns
    -------
    Labels

    Raises
    ------
    ConfigError
        If the file cannot be read, is not UTF-8, is not such a CSV file, has no line below the first, or gives one key
        two labels.
    """
    hashes, numbers, lines = array("Q"), array("I"), array("I")
    known: dict[str, int] = {}
    table, stripped = KeyTable(path), LabelStripper()
    for line, key, text in table:
        label = stripped(line, text)
        hashes.append(key_hash(key))
        numbers.append(known.setdefault(label, len(known)))
        lines.append(line)
    if not hashes:
        raise ConfigError(f"{path}: there is no image in it; write a line key,label for each")
    stripped.tell(table.place)
    order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
    sorted_hashes, sorted_numbers, sorted_lines = (
        np.frombuffer(each, each.typecode)[order] for each in (hashes, numbers, lines)
    )
    again = np.concatenate([[False], sorted_hashes[1:] == sorted_hashes[:-1]])
    firsts = np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))
    conflicts = np.flatnonzero(sorted_numbers != sorted_numbers[firsts])
    names = list(known)
    if len(conflicts):
        second = conflicts[np.argmin(sorted_lines[conflicts])]
        first = firsts[second]
        key = next(key for line, key, _ in table if line == sorted_lines[second])
        raise ConfigError(
            f"{path}:{sorted_lines[second]}: {key!r} is labelled {names[sorted_numbers[second]]!r}, but "
            f"{names[sorted_numbers[first]]!r} in line {sorted_lines[first]}; an image has one label: delete one line"
        )
    kept = [each[~again].tobytes() for each in (sorted_hashes, sorted_numbers, sorted_lines)]
    return Labels(table, array("Q", kept[0]), array("I", kept[1]), array("I", kept[2]), names)


def labelled(listing: Iterable[ImageRef | Rejected], labels: Labels) -> Iterator[ImageRef | Rejected]:
    """Give the images of a listing the labels of a file; what the file does not name gets the label ``""``.

    What the file names and the listing lacks, and the other way round, is counted, and at the end warned of.

    Parameters
    ----------
    listing : iterable of ImageRef or Rejected
    labels : Labels

    Yields
    ------
    ImageRef or Rejected
        As listed, in the same order, but for the label.

    Raises
    ------
    ConfigError
        At the end, if the file names none of the images there are.
    """
    met = np.zeros(len(labels), dtype=bool)
    images = 0
    unnamed: list[str] = []
    unnamed_count = 0
    for item in listing:
        ref = item.ref if isinstance(item, Rejected) else item
        place = labels.place(ref.key)
        label = ""
        if place is not None:
            met[place] = True
            label = labels.label_at(place)
        if isinstance(item, Rejected):
            yield replace(item, ref=replace(ref, label=label))
            continue
        images += 1
        if place is None:
            unnamed_count += 1
            unnamed += [ref.key] * (len(unnamed) < _NAMED)
        yield replace(item, label=label)
    _tell(labels, met, images, unnamed, unnamed_count)


def _tell(labels: Labels, met: np.ndarray, images: int, unnamed: list[str], unnamed_count: int) -> None:
    strangers = labels.keys_at(np.flatnonzero(~met)[:_NAMED].tolist())
    if images and not met.any():
        raise ConfigError(
            f"{labels.path}: none of its {len(labels)} keys is an image of the source: it names {strangers[0]!r}, the "
            f"source has {unnamed[0]!r}. Write each key as the image's path relative to the source; nothing was changed"
        )
    if strangers:
        _LOG.warning(
            "%s: %d of its %d keys are not in the source: %s",
            *(labels.path, len(met) - met.sum(), len(met), first_few(strangers, len(met) - int(met.sum()))),
        )
    if unnamed_count:
        _LOG.warning(
            "%s: %d of the %d images are not in it and have no label: %s",
            *(labels.path, unnamed_count, images, first_few(unnamed, unnamed_count)),
        )
