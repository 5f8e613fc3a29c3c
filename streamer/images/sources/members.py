"""Names of the images inside an archive: which are taken, under which key, and which are refused."""

from __future__ import annotations

import re
import unicodedata

from streamer.images.sources.folder import IMAGE_SUFFIXES

__all__ = ["key_of_member", "label_of", "name_fault"]

_DRIVE = re.compile(r"[A-Za-z]:")


def key_of_member(name: str) -> str | None:
    """The key of an archive's member, or None where it is no image, or hidden as such files are in a folder.

    Parameters
    ----------
    name : str
        As the archive has it, ``/`` between folders.
    """
    dot = name.rfind(".")
    if dot < 0 or name[dot:].lower() not in IMAGE_SUFFIXES:
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts):
        return None
    key = unicodedata.normalize("NFC", "/".join(parts))
    # What cannot be said in UTF-8 is a key all the same: a failure must be named.
    return key.encode("utf-8", "backslashreplace").decode() if not _is_utf8(key) else key


def name_fault(name: str) -> str | None:
    """Why an image of this name is refused; None where nothing is wrong with it.

    Nothing is ever unpacked to a path, so no name does harm here; an archive that has such names was made to do harm,
    or by mistake.
    """
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "its name in the archive is an absolute path: pack it under a relative one"
    if ".." in re.split(r"[/\\]", name):
        return "its name in the archive leads out of it ('..'): pack it under another"
    if "\0" in name or not _is_utf8(name):
        return "its name in the archive is not valid UTF-8: pack it under another"
    return None


def label_of(key: str) -> str:
    """Name of the parent folder, ``""`` at the top."""
    return key.rpartition("/")[0].rpartition("/")[2]


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
