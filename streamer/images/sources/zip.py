"""Images in a zip archive, read where they lie."""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from streamer.images.opened import ImageGoneError, OpenedImage, UnreadableImageError, Window, file_errors, open_regular
from streamer.images.sources.folder import SourceUnavailableError
from streamer.images.sources.members import key_of_member, label_of, name_fault
from streamer.images.sources.zip_directory import BadZipError, ZipEntry, entries, entry_at, start_of_data
from streamer.records import ImageRef, Rejected

__all__ = ["ZipSource", "open_zip_member"]

# The others inflate as much as they like at a time, and photos are hardly ever packed by them.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZipSource:
    """The images of a zip archive.

    Parameters
    ----------
    path : Path

    Yields
    ------
    ImageRef or Rejected
        In the order of the archive's directory, not of the keys. The key is the member's name; the path is that of the
        archive, ``#``, the name, ``#`` and where the directory's entry stands; the label is the member's folder. Links,
        encrypted members, and names that lead out of the archive, are `Rejected`.

    Raises
    ------
    SourceUnavailableError
        When iterating: the archive cannot be read, is no zip archive, is cut short, damaged, or another at the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[ImageRef | Rejected]:
        path = os.path.abspath(self.path)  # noqa: PTH100 - Path.absolute keeps ".."
        try:
            with open_regular(path) as (file, _, is_unchanged):
                for entry in entries(file):
                    if (image := _image(path, entry)) is not None:
                        yield image
                if not is_unchanged():
                    raise SourceUnavailableError(
                        f"{path}: changed while it was being listed; run again when it is complete"
                    )
        except (UnreadableImageError, BadZipError, OSError) as error:
            raise SourceUnavailableError(
                f"{path}: the archive cannot be listed ({error}). Nothing was changed. Is the disk mounted, and the "
                "archive complete? Check source.zip in the config"
            ) from error


def _image(path: str, entry: ZipEntry) -> ImageRef | Rejected | None:
    """The image that a member is, or why it is none of those that are taken; None where it is something else."""
    key = key_of_member(entry.name)
    if key is None or entry.name.endswith("/"):
        return None
    fault = name_fault(entry.name)
    kind = stat.S_IFMT(entry.unix_mode)
    if fault is None and kind not in (0, stat.S_IFREG):
        fault = "a link inside an archive" if kind == stat.S_IFLNK else "not a regular file"
    elif fault is None and entry.encrypted:
        fault = "it is encrypted: pack it without a password"
    elif fault is None and entry.method not in _METHODS:
        fault = f"it is compressed by method {entry.method}, which is not read here: pack it with 'deflate'"
    mark = entry.time_ns + entry.crc % 10**9  # times are to two seconds, and often the same for all
    ref = ImageRef(key, f"{path}#{_named(entry)}#{entry.at}", entry.n_bytes, mark, label_of(key))
    return ref if fault is None else Rejected(ref, fault)


def _named(entry: ZipEntry) -> str:
    return entry.name.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def open_zip_member(path: str, member: str) -> Iterator[OpenedImage]:
    """Open an image inside an archive.

    Parameters
    ----------
    path : str
        Of the archive.
    member : str
        ``NAME#OFFSET``, as `ZipSource` lists it.
    """
    name, _, offset = member.rpartition("#")
    with open_regular(path) as (file, state, is_unchanged):
        try:
            with file_errors():
                entry = entry_at(file, int(offset))
                if _named(entry) != name or entry.encrypted or entry.method not in _METHODS:
                    raise BadZipError("another member stands there")
                start = start_of_data(file, entry)
        except BadZipError as error:
            raise ImageGoneError(
                f"the archive is damaged or has changed ({error}): {name!r} is no longer there"
            ) from error
        info = zipfile.ZipInfo(name)
        info.compress_type, info.CRC = entry.method, entry.crc
        info.compress_size, info.file_size = entry.compressed_bytes, entry.n_bytes
        packed = Window(file, start, entry.compressed_bytes)
        # Inflates a block at a time, stops at the size that the directory claims, and checks the sum.
        with zipfile.ZipExtFile(packed, "r", info) as inflated:
            yield OpenedImage(cast(BinaryIO, inflated), entry.n_bytes, is_unchanged, state=state)
