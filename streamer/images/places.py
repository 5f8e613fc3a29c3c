"""What the path of an image stands for: a file, ``FILE#MEMBER``, one of many in a larger file, or an address."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from streamer.images.opened import OpenedImage, open_file
from streamer.images.sources.arrays import open_array_member
from streamer.images.sources.remote import open_remote
from streamer.images.sources.stl10 import open_stl10_member
from streamer.images.sources.tar import open_tar_member
from streamer.images.sources.zip import open_zip_member
from streamer.objects import is_remote

__all__ = ["is_there", "member_of", "open_image_at"]

_Opener = Callable[[str, str], AbstractContextManager[OpenedImage]]
_OPENERS: dict[str, tuple[re.Pattern[str], _Opener]] = {
    ".bin": (re.compile(r"\d{1,9}"), open_stl10_member),
    ".tar": (re.compile(r".+#\d{1,18}", re.DOTALL), open_tar_member),
    ".zip": (re.compile(r".+#\d{1,18}", re.DOTALL), open_zip_member),
    ".npy": (re.compile(r"\d{1,9}"), open_array_member),
    ".h5": (re.compile(r".+#\d{1,9}", re.DOTALL), open_array_member),
    ".hdf5": (re.compile(r".+#\d{1,9}", re.DOTALL), open_array_member),
}
_MEMBER = re.compile(r"(?P<file>.+?(?P<kind>\.(?:bin|tar|zip|npy|h5|hdf5)))#(?P<member>.+)", re.DOTALL | re.IGNORECASE)


def member_of(path: str) -> tuple[str, str] | None:
    """The larger file, and which of its members such a path stands for; None where it is a path like any other.

    A file that bears the very name is a file.
    """
    found = _MEMBER.fullmatch(path)
    if found is None or _OPENERS[found["kind"].lower()][0].fullmatch(found["member"]) is None or os.path.lexists(path):
        return None
    return found["file"], found["member"]


def open_image_at(path: str) -> AbstractContextManager[OpenedImage]:
    """Open the image that a path stands for.

    Raises
    ------
    UnreadableImageError
        On entering: there is no such file or member, or it is not what it was when it was listed.
    """
    if is_remote(path):
        return open_remote(path)
    member = member_of(path)
    if member is None:
        return open_file(path)
    return _OPENERS[os.path.splitext(member[0])[1].lower()][1](*member)  # noqa: PTH122 - once an image


def is_there(path: str) -> bool:
    """Whether there is the file of an image: its own, or the one that holds many. A remote one is taken to be there."""
    member = member_of(path)
    return is_remote(path) or Path(path if member is None else member[0]).is_file()
