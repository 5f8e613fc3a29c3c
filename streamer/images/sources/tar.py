"""Images in tar archives, read where they lie. In WebDataset's layout, a ``.cls`` member beside an image is its label.

Formats: POSIX.1-2024 ``pax``, ustar and GNU, uncompressed. WebDataset: the members of a sample stand one after the
other and share their name up to its first dot.
"""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from streamer.images.opened import ImageGoneError, OpenedImage, UnreadableImageError, Window, file_errors, open_regular
from streamer.images.sources.folder import SourceUnavailableError
from streamer.images.sources.members import key_of_member, label_of, name_fault
from streamer.records import ImageRef, Rejected

__all__ = ["TarSource", "open_tar_member"]

_BLOCK = 512
_SAMPLE = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_MOST_LABEL_BYTES = 1024
_MOST_IN_SAMPLE = 64
_LAST_SECOND = 2**33
_COMPRESSED = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"(\xb5/\xfd": "zstd -d"}


class TarSource:
    """The images of tar archives.

    Parameters
    ----------
    paths : sequence of Path
        With more than one, the keys of each begin with its name without the suffix: ``train-000003/cat.0012.jpg``.

    Yields
    ------
    ImageRef or Rejected
        In the order of the archive, not of the keys. The path is that of the archive, ``#``, the member's name, ``#``
        and where its header begins. The label is what a ``.cls`` member of the same sample says, else the member's
        folder. Links, and names that lead out of the archive, are `Rejected`. Of several archives, one that cannot be
        listed to its end is a `Rejected` whose key ends in ``"/"``: nothing is known of the images in it.

    Raises
    ------
    SourceUnavailableError
        When iterating: there is one archive, and it cannot be read, is compressed, no tar archive, cut short, damaged,
        or another at the end.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __iter__(self) -> Iterator[ImageRef | Rejected]:
        for path in self.paths:
            prefix = f"{path.name.removesuffix('.tar')}/" if len(self.paths) > 1 else ""
            try:
                yield from _images(os.path.abspath(path), prefix)  # noqa: PTH100 - Path.absolute keeps ".."
            except SourceUnavailableError as error:
                if not prefix:
                    raise
                yield Rejected(ImageRef(prefix, str(path), 0, 0, ""), str(error), lasting=False)


def _images(path: str, prefix: str) -> Iterator[ImageRef | Rejected]:
    with _readable(path) as file:
        sample, label, waiting = "", "", list[ImageRef | Rejected]()
        for member in _members(path, file):
            found = _SAMPLE.fullmatch(member.name)
            of = found[1] if found else member.name
            if of != sample:
                yield from _with_label(waiting, label)
                sample, label, waiting = of, "", []
            if len(waiting) == _MOST_IN_SAMPLE:  # no sample, but names that share what is before their first dot
                yield from _with_label(waiting, label)
                waiting = []
            if found and found[2].lower() == "cls" and member.isreg() and member.size <= _MOST_LABEL_BYTES:
                file.seek(member.offset_data)
                label = file.read(member.size).decode("utf-8", "replace").strip()
            else:
                waiting += _image(path, prefix, member)
        yield from _with_label(waiting, label)


def _with_label(waiting: Iterable[ImageRef | Rejected], label: str) -> Iterator[ImageRef | Rejected]:
    for each in waiting:
        yield replace(each, label=label) if label and isinstance(each, ImageRef) else each


def _image(path: str, prefix: str, member: tarfile.TarInfo) -> list[ImageRef | Rejected]:
    """The image that a member is, or why it is none of those that are taken; nothing where it is something else."""
    key = key_of_member(member.name)
    if key is None or member.isdir():
        return []
    fault = name_fault(member.name)
    if fault is None and not member.isreg():
        fault = "a link inside an archive" if member.islnk() or member.issym() else "not a regular file"
    elif fault is None and member.issparse():
        fault = "stored as a sparse file: pack it as a whole"
    named = member.name.encode("utf-8", "backslashreplace").decode()
    place = f"{path}#{named}#{member.offset}"
    ref = ImageRef(prefix + key, place, member.size, _mark(member), label_of(key))
    return [ref if fault is None else Rejected(ref, fault)]


def _mark(member: tarfile.TarInfo) -> int:
    """The time of the last change, to the second, and where the member stands.

    Archives are often made with one time for all: members that have changed places are read again.
    """
    seconds = int(member.mtime) if 0 <= member.mtime < _LAST_SECOND else 0  # it may be infinite, or no number
    return seconds * 10**9 + member.offset // _BLOCK % 10**9


def _members(path: str, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, none of which is kept.

    Raises
    ------
    SourceUnavailableError
        If it does not end as archives end: with a block of zeros.
    """
    count, end = 0, -1
    try:
        with _opened(file) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # the library would keep them all
                if member.size < 0 or archive.offset <= end:
                    raise tarfile.ReadError(f"member {count + 1} leads backwards")
                count, end = count + 1, archive.offset
                yield member
            end = archive.offset
        file.seek(end)
        if file.read(_BLOCK) == bytes(_BLOCK):
            return
        what = f"it is damaged or cut short at byte {end}"
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, EOFError) as error:
        what = str(error) or type(error).__name__
    raise SourceUnavailableError(
        f"{path}: the archive cannot be listed after {count} members ({what}). Nothing was changed; copy it anew, or "
        "wait until it is complete"
    )


@contextlib.contextmanager
def _readable(path: str) -> Iterator[BinaryIO]:
    """The archive's file, which must be the same at the end."""
    try:
        with open_regular(path) as (file, _, is_unchanged):
            head = file.read(_BLOCK)
            for magic, remedy in _COMPRESSED.items():
                if head.startswith(magic):
                    raise SourceUnavailableError(
                        f"{path}: is compressed, so no image in it can be read without all before it. Photos hardly "
                        f"shrink: unpack it once ({remedy}), and name the .tar file in source.tar"
                    )
            file.seek(0)
            yield file
            if not is_unchanged():
                raise SourceUnavailableError(
                    f"{path}: changed while it was being listed; run again when it is complete"
                )
    except UnreadableImageError as error:
        raise SourceUnavailableError(f"{path}: {error}. Is the disk mounted? Check source.tar in the config") from error


@contextlib.contextmanager
def open_tar_member(path: str, member: str) -> Iterator[OpenedImage]:
    """Open an image inside an archive.

    Parameters
    ----------
    path : str
        Of the archive.
    member : str
        ``NAME#OFFSET``, as `TarSource` lists it.
    """
    name, _, offset = member.rpartition("#")
    with open_regular(path) as (file, state, is_unchanged):
        start = int(offset)
        try:
            with file_errors(), _opened(BufferedReader(Window(file, start, max(0, state.st_size - start)))) as archive:
                found = archive.next()
        except tarfile.TarError:
            found = None
        if found is None or not found.isreg() or found.name.encode("utf-8", "backslashreplace").decode() != name:
            raise ImageGoneError(f"the archive has changed: {name!r} is no longer at byte {start}")
        image = BufferedReader(Window(file, start + found.offset_data, found.size))
        yield OpenedImage(image, found.size, is_unchanged, state=state)


def _opened(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")
