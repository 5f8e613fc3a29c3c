"""CSV files with a line an image, its key and its label; and what is said of what stands in them."""

from __future__ import annotations

import csv
import logging
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from streamer.errors import ConfigError

__all__ = ["KeyTable", "LabelStripper", "first_few"]

_LOG = logging.getLogger(__name__)

_FORM = "Wanted is a CSV file in UTF-8 whose first line is 'key,label', and then one line an image"


class KeyTable:
    """A CSV file (UTF-8, with or without a byte order mark) whose first line names the columns.

    They are ``key`` and ``label``, in any order; others are ignored. A key is the image's path relative to the source,
    with ``/`` between folders.

    Parameters
    ----------
    path : Path
    label_optional : bool
        Whether the column ``label`` may be missing: then all labels are ``""``.
    """

    def __init__(self, path: Path, *, label_optional: bool = False) -> None:
        self.path = path
        self._label_optional = label_optional

    def place(self, line: int) -> str:
        """A line in words: ``keys.csv:7``."""
        return f"{self.path}:{line}"

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        """Line (from 1), key in Unicode NFC and label of each line below the first; as often as asked for.

        Raises
        ------
        ConfigError
            While it is read: there is no such file, it is not UTF-8 or no such CSV file, or a line has more or fewer
            fields than the first.
        """
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                yield from self._rows(file)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read ({error.strerror}); name another file") from None
        except UnicodeDecodeError:
            where = self.place(_undecodable_line(self.path))
            raise ConfigError(f"{where}: not UTF-8 text; save it as 'CSV UTF-8'") from None

    def _rows(self, file: TextIO) -> Iterator[tuple[int, str, str]]:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            header = [name.strip() for name in next(reader, [])]
            key, label = self._columns(header)
            line = reader.line_num + 1
            for fields in reader:
                if fields and len(fields) != len(header):
                    raise ConfigError(
                        f"{self.place(line)}: {len(fields)} fields where the first line names {len(header)}: "
                        f"{fields!r}; put double quotes around a field that holds a comma"
                    )
                if fields:  # the last line is often without anything
                    text = "" if label is None else fields[label]
                    yield line, unicodedata.normalize("NFC", fields[key]), text
                line = reader.line_num + 1
        except csv.Error as error:
            raise ConfigError(f"{self.place(line)}: not CSV: {error}. {_FORM}") from None

    def _columns(self, header: list[str]) -> tuple[int, int | None]:
        fewest = 0 if self._label_optional else 1
        if header.count("key") != 1 or not fewest <= header.count("label") <= 1:
            wanted = "'key,label' or 'key'" if self._label_optional else "'key,label'"
            raise ConfigError(f"{self.place(1)}: the first line is {','.join(header)!r}, not {wanted}. {_FORM}")
        return header.index("key"), header.index("label") if "label" in header else None


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


class LabelStripper:
    """Takes spaces off both ends of labels, as ``"cat "`` and ``"cat"`` are one class; and says where it did."""

    def __init__(self) -> None:
        self._count = 0
        self._first: tuple[int, str] = (0, "")

    def __call__(self, line: int, label: str) -> str:
        """The label of a line, without them."""
        stripped = label.strip()
        if stripped != label:
            self._first = self._first if self._count else (line, label)
            self._count += 1
        return stripped

    def tell(self, place: Callable[[int], str]) -> None:
        """Warn, if there were any; `place` says a line in words."""
        if self._count:
            line, label = self._first
            _LOG.warning("%s: spaces were taken off the label %r, and off %d in all", place(line), label, self._count)


def first_few(keys: Sequence[str], count: int) -> str:
    """Name the first keys of `count`: ``'a.jpg', 'b.jpg', ...``."""
    return ", ".join(map(repr, keys)) + (", ..." if count > len(keys) else "")
