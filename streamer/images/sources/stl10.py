"""STL-10's own binary format: images of 96 x 96 in one file, labels in another.

An image is 3 x 96 x 96 bytes: its red, green and blue planes, each column after column from the left. Labels count from
1 in the lines of ``class_names.txt``. Coates, Lee, Ng 2011, "An Analysis of Single-Layer Networks in Unsupervised
Feature Learning"; the layout is that of the data set's own readers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StreamerError
from streamer.images.opened import ImageGoneError, OpenedImage, file_errors, open_regular
from streamer.images.sources.folder import SourceUnavailableError
from streamer.records import ImageRef, Rejected

__all__ = ["IMAGE_BYTES", "SIDE", "Stl10Source", "open_stl10_member", "rows_of"]

SIDE = 96
"""Height and width of every image, pixels."""
IMAGE_BYTES = 3 * SIDE * SIDE


class Stl10Source:
    """The images of one file in STL-10's format.

    Parameters
    ----------
    path : Path
        ``unlabeled_X.bin``, ``train_X.bin`` or ``test_X.bin``. Labels come from ``train_y.bin`` beside ``train_X.bin``,
        and their names from ``class_names.txt``, where these are there.

    Yields
    ------
    ImageRef
        In the order of the file. The key is ``unlabeled_X/0000123``; the path is that of the file, ``#`` and the
        number: whatever reads images here reads it. The label is the class's name, its number where there are no names,
        or ``""``.

    Raises
    ------
    SourceUnavailableError
        When iterating: the file is missing, cannot be read, or is another at the end.
    StreamerError
        When iterating: it is not in this format, or its labels do not fit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[ImageRef | Rejected]:
        path = os.path.abspath(self.path)  # noqa: PTH100 - Path.absolute keeps ".."
        before = self._state(path)
        if before.st_size == 0 or before.st_size % IMAGE_BYTES:
            raise StreamerError(
                f"{path}: {before.st_size} bytes is not a number of images of {IMAGE_BYTES} bytes each: this is not a "
                "file of images in STL-10's format, or it was not copied whole. Name unlabeled_X.bin, train_X.bin or "
                "test_X.bin as source.stl10"
            )
        count = before.st_size // IMAGE_BYTES
        labels, names = self._labels(Path(path), count)
        stem = Path(path).stem
        for number in range(count):
            label = "" if labels is None else names.get(int(labels[number]), str(labels[number]))
            yield ImageRef(f"{stem}/{number:07d}", f"{path}#{number}", IMAGE_BYTES, before.st_mtime_ns, label)
        after = self._state(path)
        if (after.st_ino, after.st_size, after.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
            raise SourceUnavailableError(f"{path}: changed while it was being listed. Run again when it is complete.")

    def _state(self, path: str) -> os.stat_result:
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                return os.fstat(file.fileno())
        except OSError as error:
            raise SourceUnavailableError(
                f"{path}: the file cannot be read ({error.strerror}). Is the disk mounted? Check source.stl10 in the "
                "config."
            ) from error

    def _labels(self, path: Path, count: int) -> tuple[NDArray[np.uint8] | None, dict[int, str]]:
        """One label an image, or None; and the names of the classes."""
        file = path.with_name(path.name.replace("_X.bin", "_y.bin"))
        if file == path or not file.is_file():
            return None, {}
        labels: NDArray[np.uint8] = np.fromfile(file, np.uint8)
        listing = path.with_name("class_names.txt")
        named = (
            [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
            if listing.is_file()
            else []
        )
        if len(labels) != count:
            raise StreamerError(f"{file}: {len(labels)} labels for the {count} images of {path.name}; copy both anew")
        most = len(named) or 255
        if labels.min() < 1 or labels.max() > most:
            wrong = int(np.flatnonzero((labels < 1) | (labels > most))[0])
            raise StreamerError(
                f"{file}: label {labels[wrong]} of image {wrong} is not one of 1 to {most}, as many as "
                f"{listing.name} names; copy both anew"
            )
        return labels, dict(enumerate(named, start=1))


@contextlib.contextmanager
def open_stl10_member(path: str, member: str) -> Iterator[OpenedImage]:
    """Open an image of a file in STL-10's format.

    Parameters
    ----------
    path : str
        Of the file.
    member : str
        ``NUMBER``, as `Stl10Source` lists it.
    """
    with open_regular(path) as (file, state, is_unchanged):
        number, held = int(member), state.st_size // IMAGE_BYTES
        if number >= held:
            raise ImageGoneError(f"there is no image {number}: the file holds {held}")
        with file_errors():
            file.seek(number * IMAGE_BYTES)
            data = file.read(IMAGE_BYTES)
        yield OpenedImage(BytesIO(data), IMAGE_BYTES, is_unchanged, (SIDE, SIDE), rows_of, state)


def rows_of(data: bytes) -> bytes:
    """The bytes of an image, row after row from the top, the three of each pixel together."""
    planes: NDArray[np.uint8] = np.frombuffer(data, np.uint8).reshape(3, SIDE, SIDE)
    return bytes(np.ascontiguousarray(planes.transpose(2, 1, 0)).data)
