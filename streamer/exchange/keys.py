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

__all__ = ["KeysFile", "KeysWriter", "Names", "checked_names", "count_names"]

# Here or on Windows; pathlib takes twenty times as long to say so.
_ABSOLUTE = re.compile(r"/|[A-Za-z]:[/\\]|\\\\")


class Names(Protocol):
    """Where the names of rows stand."""

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        """Line, key and label of each row, in order; as often as asked for."""

    def place(self, line: int) -> str:
        """A line in words: ``keys.csv:7``."""


class KeysFile:
    """A CSV file (UTF-8, with a header) with the columns ``key`` and perhaps ``label``; others are ignored.

    Parameters
    ----------
    path : Path

    Raises
    ------
    StreamerError
        While it is read: it is no such file, or a line has more or fewer fields than the header.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def place(self, line: int) -> str:
        return f"{self._path}:{line}"

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                header = next(reader, [])
                if "key" not in header:
                    raise StreamerError(
                        f"{self._path}:1: no column 'key' in the header {','.join(header)!r}; the first line names the "
                        "columns, such as key,label"
                    )
                key, label = header.index("key"), header.index("label") if "label" in header else None
                for fields in reader:
                    if not fields:  # a line without anything, as the last often is
                        continue
                    if len(fields) != len(header):
                        raise StreamerError(
                            f"{self._path}:{reader.line_num}: {len(fields)} fields, but the header has {len(header)}; "
                            "put a key that holds a comma in double quotes"
                        )
                    yield reader.line_num, fields[key], "" if label is None else fields[label]
            except UnicodeDecodeError as error:
                raise StreamerError(
                    f"{self._path}: is not UTF-8 ({error.reason} after line {reader.line_num}); save it as UTF-8"
                ) from error
            except csv.Error as error:
                raise StreamerError(f"{self._path}:{reader.line_num}: is not CSV ({error})") from error


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


def checked_names(names: Names) -> Iterator[tuple[int, str, str]]:
    """Line, key and label of each row; keys in Unicode NFC, as those of photos are.

    Raises
    ------
    StreamerError
        If a key is empty, or no relative POSIX path.
    """
    for line, text, label in names:
        key = unicodedata.normalize("NFC", text)
        why = _fault(key)
        if why:
            raise StreamerError(
                f"{names.place(line)}: the key {text!r} {why}; a key is a relative path such as holiday/beach.jpg"
            )
        yield line, key, label


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
    hashes = array("Q")
    for _, key, _ in checked_names(names):
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
    return len(hashes)
