"""Photos and their thumbnails, as bytes for a browser. The paths come from the catalog and from nowhere else."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from streamer.images.decode_pool import DecodeProcesses, DecodeTimeoutError
from streamer.images.gate import ByteGate, GateClosedError
from streamer.images.opened import ImageGoneError, ImageTooLargeError, UnreadableImageError
from streamer.images.pixels import DecodeLimits
from streamer.images.places import open_image_at
from streamer.images.previews import HEAD_BYTES, picture_size, shown_media_type
from streamer.records import ImageRef
from streamer.serving.bounded import BoundedThreads
from streamer.serving.plan import ServePlan
from streamer.serving.refusal import Refusal
from streamer.serving.settings import ServeSettings
from streamer.store import Photo, ThumbnailCache

__all__ = ["OpenedPhoto", "PhotoShelf"]

_CHUNK_BYTES = 64 * 1024
_MOST_FILE_BYTES = 2**30
# Of a photo in a format that browsers do not show.
_SHOWN_SIDE = 4096
_THREADS = 2
# That wait for a thread: more than a page asks for at one time, and far fewer than requests may be under way.
_MOST_WAITING = 64
_FAILURES_KEPT = 256
_FAILURE_SECONDS = 30
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
    """Reads photos on threads of its own, and has thumbnails made by processes of its own.

    A photo of the library is no more trusted than one that is sent: it may have been a stranger's, and a decoder that
    crashes or never ends takes a process with it, not the server.

    Parameters
    ----------
    path : Path
        The store's folder.
    plan : ServePlan
    settings : ServeSettings
    limits : DecodeLimits
    gate : ByteGate
        Shared by all that decodes.
    """

    def __init__(
        self, path: Path, plan: ServePlan, settings: ServeSettings, limits: DecodeLimits, gate: ByteGate
    ) -> None:
        self._cache = ThumbnailCache(path / "thumbnails", settings.thumbnail_bytes)
        self._side = settings.thumbnail_side
        self._decode_seconds = settings.decode_seconds
        # No pixels are asked for, so a process shares none.
        self._decoder = DecodeProcesses(plan.workers, (1, 1), limits, gate, settings.decode_seconds, plan.share_bytes)
        seconds = settings.answer_seconds
        self._decoding = BoundedThreads("thumbnail", plan.workers, _MOST_WAITING, seconds)
        self._reading = BoundedThreads("photo", _THREADS, _MOST_WAITING, seconds)
        # An answer that has begun cannot be refused any more: each of them has a place.
        self._sending = BoundedThreads("send", _THREADS, settings.max_requests, seconds)
        self._failures: dict[tuple[int, int], tuple[float, Refusal]] = {}
        self._failing = threading.Lock()

    def load(self) -> None:
        """Start the processes, so that no thumbnail has to wait for one within its own time limit."""
        self._decoder.start()

    def close(self) -> None:
        """End the processes and the threads."""
        self._decoder.close()
        for threads in (self._decoding, self._reading, self._sending):
            threads.close()

    async def thumbnail(self, photo: Photo) -> tuple[bytes, str]:
        """A JPEG, and a tag that changes with the photo.

        Raises
        ------
        Refusal
            410: the file is gone or is no picture any more. 422: it exceeds a limit. 503: it cannot be had now, took
            too long, or too much else is to be done.
        """
        kept = await self._reading.run(lambda: self._cache.get(photo.content))
        if kept is not None:
            return kept, f'"{photo.content.hex()}"'
        jpeg, content = await self._decoding.run(lambda: self._preview(photo, self._side))
        if content == photo.content:  # a photo that has changed since it was indexed is not kept under its old name
            await self._reading.run(lambda: self._cache.put(content, jpeg))
        return jpeg, f'"{content.hex()}"'

    async def opened(self, photo: Photo) -> OpenedPhoto | None:
        """The photo's file; None where browsers would not show it.

        Raises
        ------
        Refusal
            410: the file is gone, or is no regular file. 422: it exceeds a limit. 503: it cannot be had now.
        """
        return await self._reading.run(lambda: _open(photo))

    async def pieces(self, opened: OpenedPhoto) -> AsyncIterator[bytes]:
        """The bytes of an opened photo, no more than it had when it was opened; closes it."""
        left = opened.size
        try:
            while left > 0:
                size = min(_CHUNK_BYTES, left)
                piece = await self._sending.run(lambda size=size: opened.file.read(size))  # type: ignore[misc]
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
            As `thumbnail`.
        """
        jpeg, _ = await self._decoding.run(lambda: self._preview(photo, _SHOWN_SIDE))
        return jpeg

    async def size(self, photo: Photo) -> tuple[int, int] | None:
        """Width and height of the upright picture; None where they cannot be told."""
        return await self._reading.run(lambda: picture_size(photo.path))

    def _preview(self, photo: Photo, side: int) -> tuple[bytes, bytes]:
        """A JPEG and the digest of what it was made of; who has just failed is not tried again at once."""
        which = (photo.id, side)
        with self._failing:
            until, refusal = self._failures.get(which, (0.0, None))
        if refusal is not None and time.monotonic() < until:
            raise refusal.with_traceback(None)
        try:
            return self._decoder.preview(ImageRef(photo.key, photo.path, 0, 0, ""), side)
        except DecodeTimeoutError:
            refusal = Refusal(
                503,
                f"the photo took more than {self._decode_seconds:g} s to decode",
                retry_seconds=_FAILURE_SECONDS,
            )
        except UnreadableImageError as error:
            refusal = _refusal(error)
            if not error.lasting:
                raise refusal from None
        except GateClosedError:
            raise Refusal(503, "the server is ending", retry_seconds=5) from None
        with self._failing:
            self._failures.pop(which, None)
            self._failures[which] = (time.monotonic() + _FAILURE_SECONDS, refusal)
            while len(self._failures) > _FAILURES_KEPT:
                del self._failures[next(iter(self._failures))]
        raise refusal


def _refusal(error: UnreadableImageError) -> Refusal:
    if isinstance(error, ImageTooLargeError):
        return Refusal(422, "the photo is too large to be decoded within the limits of this server")
    if error.lasting or isinstance(error, ImageGoneError):
        return Refusal(410, _GONE)
    return Refusal(503, "the photo cannot be had at the moment; try again later", retry_seconds=5)


def _open(photo: Photo) -> OpenedPhoto | None:
    with contextlib.ExitStack() as stack:
        try:
            image = stack.enter_context(open_image_at(photo.path))
            head = image.file.read(HEAD_BYTES)
            image.file.seek(0)
        except UnreadableImageError as error:
            raise _refusal(error) from None
        except (OSError, ValueError):  # ValueError: an archive that is damaged
            raise Refusal(410, _GONE) from None
        if image.n_bytes > _MOST_FILE_BYTES:
            raise Refusal(422, f"the photo is larger than {_MOST_FILE_BYTES} bytes")
        media_type = shown_media_type(head) if image.side_pixels is None else None
        if media_type is None:
            return None
        return OpenedPhoto(image.file, image.n_bytes, media_type, _etag(photo, image.state), stack.pop_all().close)
    raise AssertionError


def _etag(photo: Photo, state: os.stat_result | None) -> str | None:
    """By the state of the very file that was opened, as its path may lead to another by now."""
    return f'"{photo.id:x}-{state.st_size:x}-{state.st_mtime_ns:x}"' if state is not None else None
