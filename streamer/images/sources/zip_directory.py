"""The directory at the end of a zip archive, read entry by entry: a million of them take no more memory than one.

PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end) and
4.5.3 (zip64). The standard library's reader keeps an object of half a kilobyte for every entry.
"""

from __future__ import annotations

import calendar
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["BadZipError", "ZipEntry", "entries", "entry_at", "start_of_data"]

_ENTRY = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_MOST_COMMENT = 2**16
_FULL_32 = 0xFFFFFFFF
_UTF_8, _ENCRYPTED = 0x800, 0x1


class BadZipError(Exception):
    """The bytes are not those of a zip archive, or not of a whole one."""


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """What the directory says of a file.

    Attributes
    ----------
    name : str
    at : int
        Where the entry itself stands in the archive, bytes from its start.
    method, crc, compressed_bytes, n_bytes : int
    local_at : int
        Where the file's own header stands.
    time_ns : int
        Last modification, as the clock showed it where the archive was made, as if that had been UTC.
    unix_mode : int
        0 where the archive was made on another system.
    encrypted : bool
    """

    name: str
    at: int
    method: int
    crc: int
    compressed_bytes: int
    n_bytes: int
    local_at: int
    time_ns: int
    unix_mode: int
    encrypted: bool


def entries(file: BinaryIO) -> Iterator[ZipEntry]:
    """The files of an archive, in the order of its directory.

    Raises
    ------
    BadZipError
    """
    at, end, count, shift = _directory(file)
    for number in range(count):
        if at >= end:
            raise BadZipError(f"its directory ends after {number} of {count} entries")
        entry, at = _entry(file, at, shift)
        yield entry


def entry_at(file: BinaryIO, at: int) -> ZipEntry:
    """The entry that stands there.

    Raises
    ------
    BadZipError
        There is none.
    """
    return _entry(file, at, _directory(file)[3])[0]


def start_of_data(file: BinaryIO, entry: ZipEntry) -> int:
    """Where the bytes of a file begin.

    Raises
    ------
    BadZipError
        Its own header is not there.
    """
    file.seek(entry.local_at)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        raise BadZipError("its own header is missing")
    *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    return entry.local_at + _LOCAL.size + int(name_bytes) + int(extra_bytes)


def _directory(file: BinaryIO) -> tuple[int, int, int, int]:
    """Where the directory begins and ends, how many entries it has, and what lies before the archive's own start."""
    size = file.seek(0, os.SEEK_END)
    tail_at = max(0, size - _END.size - _MOST_COMMENT)
    file.seek(tail_at)
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < _END.size:
        raise BadZipError("there is no directory at its end: it is no zip archive, or was cut short")
    end_at = tail_at + found
    _, _, _, _, count, n_bytes, start, _ = _END.unpack_from(tail, found)
    directory_end = end_at
    file.seek(max(0, end_at - _LOCATOR.size))
    if file.read(_LOCATOR.size)[:4] == b"PK\6\7":
        # Not at the place that it names: that is off where something precedes the archive.
        directory_end = end_at - _LOCATOR.size - _END_64.size
        file.seek(max(0, directory_end))
        record = file.read(_END_64.size)
        if len(record) < _END_64.size or record[:4] != b"PK\6\6":
            raise BadZipError("the end of its directory is damaged")
        *_, count, n_bytes, start = _END_64.unpack(record)
    shift = directory_end - n_bytes - start
    if shift < 0:
        raise BadZipError("its directory claims more bytes than there are: it was cut short")
    return start + shift, directory_end, count, shift


def _entry(file: BinaryIO, at: int, shift: int) -> tuple[ZipEntry, int]:
    """An entry, and where the next one stands."""
    file.seek(at)
    fixed = file.read(_ENTRY.size)
    if len(fixed) < _ENTRY.size or fixed[:4] != b"PK\1\2":
        raise BadZipError(f"its directory is damaged at byte {at}")
    _, _, system, _, _, flags, method, time, date, crc, packed, n_bytes, *rest = _ENTRY.unpack(fixed)
    name_bytes, extra_bytes, comment_bytes, _, _, attributes, local_at = rest
    raw, extra = file.read(name_bytes), file.read(extra_bytes)
    if len(raw) < name_bytes or len(extra) < extra_bytes:
        raise BadZipError(f"its directory is cut short at byte {at}")
    n_bytes, packed, local_at = _of_zip64(extra, n_bytes, packed, local_at)
    name = raw.decode("utf-8", "surrogateescape") if flags & _UTF_8 else raw.decode("cp437")
    mode = attributes >> 16 if system == 3 else 0
    entry = ZipEntry(
        *(name, at, method, crc, packed, n_bytes, local_at + shift, _time_ns(date, time), mode),
        encrypted=bool(flags & _ENCRYPTED),
    )
    return entry, at + _ENTRY.size + name_bytes + extra_bytes + comment_bytes


def _of_zip64(extra: bytes, *values: int) -> tuple[int, ...]:
    """Values with those that did not fit into 32 bits taken from the field of number 1."""
    at = 0
    while at + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, at)
        if number == 1:
            field = extra[at + 4 : at + 4 + length]
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            try:
                return tuple(next(wide) if value == _FULL_32 else value for value in values)
            except StopIteration:
                raise BadZipError("a size of its directory is missing") from None
        at += 4 + length
    return values


def _time_ns(date: int, time: int) -> int:
    """Nanoseconds of a DOS date and time; 0 where they are none (APPNOTE 4.4.6)."""
    parts = (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, 2 * (time & 31))
    try:
        return calendar.timegm((*parts, 0, 0, 0)) * 10**9
    except ValueError:
        return 0
