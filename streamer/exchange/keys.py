"""``keys.csv``: which image each row of features belongs to."""

from __future__ import annotations

import csv
import re
import unicodedata
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from streamer.errors import StreamerError
from streamer.records import ExportBlock, key_hash
from streamer.tables import LabelStripper

__all__ = ["KeysWriter", "Names", "checked_names", "count_names"]

# Here or on Windows; pathlib takes twenty times as long to say so.
_ABSOLUTE = re.compile(r"/|[A-Za-z]:[/\\]|\\\\")


class Names(Protocol):
    """Where the names of rows stand: in a `KeyTable`, or in an HDF5 file."""

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        """Line, key and label of each row, in order; as often as asked for."""

    def place(self, line: int) -> str:
        """A line in words: ``keys.csv:7``."""


class KeysWriter:
    """Writes the file: ``id,key,label,path``, a line an image.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["id", "key", "label", "path"])

    def append(self, block: ExportBlock) -> None:
        """Write the next images."""
        self._writer.writerows(zip(block.ids.tolist(), block.keys, block.labels, block.paths, strict=True))

    def close(self) -> None:
        self._file.close()


def checked_names(names: Names, stripped: LabelStripper | None = None) -> Iterator[tuple[int, str, str]]:
    """Line, key and label of each row; keys in Unicode NFC, as those of photos are, labels without spaces at the ends.

    Parameters
    ----------
    names : Names
    stripped : LabelStripper, optional
        Takes them off; it can tell, afterwards.

    Raises
    ------
    StreamerError
        If a key is empty, or no relative POSIX path.
    """
    stripped = stripped or LabelStripper()
    for line, text, label in names:
        key = unicodedata.normalize("NFC", text)
        why = _fault(key)
        if why:
            raise StreamerError(
                f"{names.place(line)}: the key {text!r} {why}; a key is a relative path such as holiday/beach.jpg"
            )
        yield line, key, stripped(line, label)


def _fault(key: str) -> str:
    if not key:
        return "is empty"
    if _ABSOLUTE.match(key):
        return "is an absolute path"
    parts = key.split("/")
    for part in ("..", ".", ""):
        if part in parts:
            return f"has {part!r} between its slashes"
    return "holds a character NUL" if "\0" in key else ""


def count_names(names: Names) -> int:
    """How many rows are named; every name is looked at. Memory: 8 bytes for each, and sorting those.

    Raises
    ------
    StreamerError
        As `checked_names`, and if a key stands twice.
    """
    hashes, stripped = array("Q"), LabelStripper()
    for _, key, _ in checked_names(names, stripped):
        hashes.append(key_hash(key))
    numbers = np.sort(np.frombuffer(hashes, dtype=np.uint64)) if hashes else np.empty(0, np.uint64)
    suspects = set(numbers[1:][numbers[1:] == numbers[:-1]].tolist())
    if suspects:
        first: dict[str, int] = {}
        for line, key, _ in checked_names(names):
            if key_hash(key) in suspects and first.setdefault(key, line) != line:
                raise StreamerError(
                    f"{names.place(line)}: the key {key!r} stands at {names.place(first[key])} already; every image "
                    "has a key of its own"
                )
    stripped.tell(names.place)
    return len(hashes)
