"""Images that a file lists: one path a line, or a table with a column ``path``."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from streamer.images.sources.folder import SourceUnavailableError, describe_file
from streamer.images.sources.members import label_of
from streamer.images.sources.remote import describe_object
from streamer.objects import RemoteLimits, is_remote
from streamer.records import ImageRef, Rejected

__all__ = ["ListSource"]

_HELP = (
    "A list is a text file with one path a line (.txt), or a table (.csv, .jsonl, .parquet) whose column 'path' says "
    "where the images are; columns 'label' and 'key' are taken where they are there"
)
_ROWS_AT_A_TIME = 4096


class ListSource:
    """The images that a file lists.

    Parameters
    ----------
    path : Path
        ``.txt``: one path a line, empty lines left out. ``.csv``: the first line names the columns. ``.jsonl``: one
        object a line. ``.parquet``: with the extra ``parquet``. All in UTF-8. The column ``path`` is needed; ``label``
        and ``key`` are optional.

    Yields
    ------
    ImageRef or Rejected
        In the order of the list, not of the keys. A path that is not absolute counts from the folder of the list, and
        is the key where the list gives no other; of an absolute one, the key is the path without its root. The label is
        the list's, else the name of the folder. What is not there is a `Rejected`.

    Raises
    ------
    SourceUnavailableError
        When iterating: the list is missing, cannot be read, is no such list, or is another at the end.
    """

    def __init__(self, path: Path, limits: RemoteLimits | None = None) -> None:
        self.path = path
        self.limits = limits or RemoteLimits()

    def __iter__(self) -> Iterator[ImageRef | Rejected]:
        path = Path(os.path.abspath(self.path))  # noqa: PTH100 - Path.absolute keeps ".."
        rows = _READERS.get(path.suffix.lower())
        if rows is None:
            raise SourceUnavailableError(f"{path}: a list of the kind {path.suffix!r} is not read here. {_HELP}")
        try:
            before = path.stat()
            with ThreadPoolExecutor(self.limits.concurrency, thread_name_prefix="describe") as pool:
                wanted = (self._wanted(path, where, row) for where, row in rows(path))
                while some := list(islice(wanted, 4 * self.limits.concurrency)):
                    there = any(is_remote(place) for _, place, _ in some)
                    yield from (pool.map if there else map)(self._described, some)
            after = path.stat()
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            why = getattr(error, "strerror", None) or error
            raise SourceUnavailableError(
                f"{path}: the list cannot be read ({why}). Check source.list in the config. {_HELP}"
            ) from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise SourceUnavailableError(f"{path}: changed while it was being read; run again when it is complete")

    def _wanted(self, path: Path, where: str, row: dict[str, Any]) -> tuple[str, str, str]:
        """Key, path and label of a row."""
        given = row.get("path")
        if not isinstance(given, str) or not given:
            raise SourceUnavailableError(f"{path}, {where}: has no path ({given!r}). {_HELP}")
        key = row.get("key")
        key = unicodedata.normalize("NFC", str(key)) if key not in (None, "") else _key_of(given)
        label = row.get("label")
        place = given if is_remote(given) else os.path.normpath(path.parent / given)
        return key, place, label_of(key) if label is None else str(label).strip()

    def _described(self, wanted: tuple[str, str, str]) -> ImageRef | Rejected:
        key, place, label = wanted
        if is_remote(place):
            return describe_object(key, place, label, self.limits)
        try:
            found = describe_file(key, place)
        except ValueError as error:  # a NUL, or half a character
            key, place = (text.encode("utf-8", "backslashreplace").decode() for text in (key, place))
            return Rejected(ImageRef(key, place.replace("\0", "\\0"), 0, 0, ""), f"no file has such a path ({error})")
        if isinstance(found, Rejected):
            return replace(found, ref=replace(found.ref, label=label))
        return replace(found, label=label)


def _key_of(given: str) -> str:
    if is_remote(given):
        given = given.partition("://")[2]
    posix = given.replace("\\", "/") if os.name == "nt" else given
    pure = PurePosixPath(os.path.normpath(posix).replace(os.sep, "/"))
    parts = [part for part in pure.parts if part != "/" and not part.endswith(":")]
    return unicodedata.normalize("NFC", "/".join(parts))


def _text(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", {"path": line.rstrip("\r\n")}


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        _require_path(path, reader.fieldnames or [])
        for row in reader:
            yield f"line {reader.line_num}", row


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SourceUnavailableError(f"{path}, line {number}: is not JSON ({error}). {_HELP}") from error
            if not isinstance(row, dict):
                raise SourceUnavailableError(f"{path}, line {number}: is not a JSON object. {_HELP}")
            yield f"line {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise SourceUnavailableError(
            f"{path}: a list in parquet needs pyarrow: pip install 'streamer[parquet]'"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _require_path(path, file.schema_arrow.names)
            wanted = [name for name in ("path", "key", "label") if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except pyarrow.ArrowException as error:
        raise SourceUnavailableError(f"{path}: is not a parquet file, or damaged ({error}). {_HELP}") from error


def _require_path(path: Path, columns: list[str] | Any) -> None:
    if "path" not in columns:
        raise SourceUnavailableError(
            f"{path}: has the columns {', '.join(columns) or '(none)'}, but no 'path'. {_HELP}"
        )


_Reader = Callable[[Path], Iterator[tuple[str, dict[str, Any]]]]
_READERS: dict[str, _Reader] = {
    ".txt": _text,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
}
