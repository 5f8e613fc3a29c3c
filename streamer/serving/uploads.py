"""Bodies of requests: counted while they come, given up when they come too slowly, kept in files and not in memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from streamer.images.previews import HEAD_BYTES
from streamer.serving.plan import UPLOAD_BUFFER_BYTES
from streamer.serving.refusal import Refusal

__all__ = ["Uploads"]


class Uploads:
    """A folder for the bodies that are being looked at; each is gone when its request is answered.

    Parameters
    ----------
    seconds : float
        For a whole body to arrive.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._folder = tempfile.TemporaryDirectory(prefix="streamer-serve-", ignore_cleanup_errors=True)

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    async def read(self, request: Request, most_bytes: int) -> bytes:
        """A body that fits into memory.

        Raises
        ------
        Refusal
            It is larger than `most_bytes`, comes too slowly, or ends too early.
        """
        body = bytearray()
        async for piece in self._pieces(request, most_bytes):
            body += piece
        return bytes(body)

    @contextlib.asynccontextmanager
    async def received(self, request: Request, most_bytes: int) -> AsyncIterator[tuple[Path, bytes]]:
        """A body in a file: gives its path and its first bytes, as many as tell its format.

        Raises
        ------
        Refusal
            As `read`; 503 where the disk is full.
        """
        with _room_on_the_disk():
            descriptor, name = await asyncio.to_thread(tempfile.mkstemp, dir=self._folder.name)
        path = Path(name)
        try:
            held, head = bytearray(), b""
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                async for piece in self._pieces(request, most_bytes):
                    held += piece
                    if len(held) >= UPLOAD_BUFFER_BYTES:
                        head = head or bytes(held[:HEAD_BYTES])
                        await _write(file, bytes(held))
                        held.clear()
                head = head or bytes(held[:HEAD_BYTES])
                await _write(file, bytes(held))
            yield path, head
        finally:
            with contextlib.suppress(OSError):  # Windows, while a worker that was ended still has it open
                await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _pieces(self, request: Request, most_bytes: int) -> AsyncIterator[bytes]:
        too_large = Refusal(413, f"the body is larger than the limit of {most_bytes} bytes", close=True)
        announced = request.headers.get("content-length", "0")
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > most_bytes:
            raise too_large
        until = asyncio.get_running_loop().time() + self._seconds
        stream = request.stream()
        received = 0
        while True:
            left = until - asyncio.get_running_loop().time()
            try:
                piece = await asyncio.wait_for(anext(stream, None), max(0.001, left))
            except asyncio.TimeoutError:
                raise Refusal(408, f"the body did not arrive within {self._seconds:g} s", close=True) from None
            except ClientDisconnect:
                raise Refusal(400, "the body ended before it was complete", close=True) from None
            if piece is None:
                return
            received += len(piece)
            if received > most_bytes:
                raise too_large
            yield piece


async def _write(file: io.FileIO, data: bytes) -> None:
    with _room_on_the_disk():
        await asyncio.to_thread(_write_all, file, data)


def _write_all(file: io.FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


@contextlib.contextmanager
def _room_on_the_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        raise Refusal(503, "the server's disk is full; try again later", retry_seconds=30, close=True) from error
