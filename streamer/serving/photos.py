"""Photos and their thumbnails, as bytes for a browser. The paths come from the catalog and from nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from streamer.images.gate import ByteGate, GateClosedError
from streamer.images.opened import UnreadableImageError
from streamer.images.pixels import DecodeLimits
from streamer.images.places import member_of, open_image_at
from streamer.images.previews import HEAD_BYTES, jpeg_preview, picture_size, shown_media_type
from streamer.serving.refusal import Refusal
from streamer.serving.settings import ServeSettings
from streamer.store import Photo, ThumbnailCache

__all__ = ["OpenedPhoto", "PhotoShelf"]

T = TypeVar("T")

_CHUNK_BYTES = 256 * 1024
_MOST_FILE_BYTES = 2**30
# Of a photo in a format that browsers do not show.
_SHOWN_SIDE = 4096
_THREADS = 2
_GONE = "the photo's file is gone, or is no picture any more"


class OpenedPhoto(NamedTuple):
    """A photo whose bytes are sent as they are.

    Attributes
    ----------
    file : binary file
        At its start.
    size : int
        Bytes.
    media_type : str
    etag : str or None
        Changes with the bytes; None where that cannot be told without reading them.
    close : callable
        Lets go of the file.
    """

    file: BinaryIO
    size: int
    media_type: str
    etag: str | None
    close: Callable[[], None]


class PhotoShelf:
    """Reads photos and makes thumbnails, on threads of its own.

    Parameters
    ----------
    path : Path
        The store's folder.
    settings : ServeSettings
    limits : DecodeLimits
    gate : ByteGate
        Shared by all that decodes.
    """

    def __init__(self, path: Path, settings: ServeSettings, limits: DecodeLimits, gate: ByteGate) -> None:
        self._cache = ThumbnailCache(path / "thumbnails", settings.thumbnail_bytes)
        self._side = settings.thumbnail_side
        self._limits = limits
        self._gate = gate
        self._decoding = ThreadPoolExecutor(_THREADS, thread_name_prefix="thumbnail")
        self._reading = ThreadPoolExecutor(_THREADS, thread_name_prefix="photo")

    def close(self) -> None:
        """End the threads."""
        for threads in (self._decoding, self._reading):
            threads.shutdown(wait=True, cancel_futures=True)

    async def thumbnail(self, photo: Photo) -> tuple[bytes, str]:
        """A JPEG, and a tag that changes with the photo.

        Raises
        ------
        Refusal
            410: the file is gone or cannot be read any more.
        """
        kept = await self._on(self._reading, lambda: self._cache.get(photo.content))
        if kept is not None:
            return kept, f'"{photo.content.hex()}"'
        jpeg, content = await self._on(self._decoding, lambda: self._preview(photo, self._side))
        if content == photo.content:  # a photo that has changed since it was indexed is not kept under its old name
            await self._on(self._reading, lambda: self._cache.put(content, jpeg))
        return jpeg, f'"{content.hex()}"'

    async def opened(self, photo: Photo) -> OpenedPhoto | None:
        """The photo's file; None where browsers would not show it.

        Raises
        ------
        Refusal
            410: the file is gone, or is no regular file.
        """
        return await self._on(self._reading, lambda: _open(photo))

    async def pieces(self, opened: OpenedPhoto) -> AsyncIterator[bytes]:
        """The bytes of an opened photo, no more than it had when it was opened; closes it."""
        left = opened.size
        try:
            while left > 0:
                size = min(_CHUNK_BYTES, left)
                piece = await self._on(self._reading, lambda size=size: opened.file.read(size))  # type: ignore[misc]
                if not piece:
                    raise OSError("the photo was cut short while it was sent")
                left -= len(piece)
                yield piece
        finally:
            opened.close()

    async def shown(self, photo: Photo) -> bytes:
        """A JPEG of a photo in a format that browsers do not show.

        Raises
        ------
        Refusal
            410: it cannot be read any more.
        """
        jpeg, _ = await self._on(self._decoding, lambda: self._preview(photo, _SHOWN_SIDE))
        return jpeg

    async def size(self, photo: Photo) -> tuple[int, int] | None:
        """Width and height of the upright picture; None where they cannot be told."""
        return await self._on(self._reading, lambda: picture_size(photo.path))

    def _preview(self, photo: Photo, side: int) -> tuple[bytes, bytes]:
        try:
            return jpeg_preview(photo.path, side, self._limits, self._gate)
        except UnreadableImageError:
            raise Refusal(410, _GONE) from None
        except GateClosedError:
            raise Refusal(503, "the server is ending", retry_seconds=5) from None

    async def _on(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)


def _open(photo: Photo) -> OpenedPhoto | None:
    with contextlib.ExitStack() as stack:
        try:
            image = stack.enter_context(open_image_at(photo.path))
            head = image.file.read(HEAD_BYTES)
            image.file.seek(0)
        except (UnreadableImageError, OSError, ValueError):  # ValueError: an archive that is damaged
            raise Refusal(410, _GONE) from None
        if image.n_bytes > _MOST_FILE_BYTES:
            raise Refusal(410, _GONE)
        media_type = shown_media_type(head) if image.side_pixels is None else None
        if media_type is None:
            return None
        return OpenedPhoto(image.file, image.n_bytes, media_type, _etag(photo), stack.pop_all().close)
    raise AssertionError


def _etag(photo: Photo) -> str | None:
    """By the state of the file that holds the photo."""
    member = member_of(photo.path)
    try:
        state = Path(photo.path if member is None else member[0]).stat()
    except OSError:  # it is not on this machine
        return None
    return f'"{photo.id:x}-{state.st_size:x}-{state.st_mtime_ns:x}"'
