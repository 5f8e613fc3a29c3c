"""Images that somebody names, one by one or as a folder, beside any source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from streamer.images.sources.folder import FolderSource
from streamer.records import ImageRef

__all__ = ["numbered", "photos_at"]


def photos_at(image: str | os.PathLike[str]) -> Iterator[str]:
    """The photos of a folder, or the path itself; a file that is not there is found out when it is decoded."""
    if not Path(image).is_dir():
        yield os.fspath(image)
        return
    for each in FolderSource(Path(image)):
        yield each.path if isinstance(each, ImageRef) else each.ref.path


def numbered(number: int, path: str) -> ImageRef:
    """An image that travels under a number, as its key; a file that is not there is found out when it is decoded."""
    try:
        state = Path(path).stat()
    except (OSError, ValueError):
        return ImageRef(str(number), path, 0, 0, "")
    return ImageRef(str(number), path, state.st_size, state.st_mtime_ns, "")
