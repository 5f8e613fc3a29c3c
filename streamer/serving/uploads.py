"""Bodies of requests: counted while they come, given up when they come too slowly, kept in files and not in memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from streamer.images.previews import HEAD_BYTES
from streamer.serving.plan import UPLOAD_BUFFER_BYTES
from streamer.serving.refusal import Refusal

__all__ = ["Uploads"]


_STALE_SECONDS = 3600


class Uploads:
    """A folder for the bodies that are being looked at; each is gone when its request is answered.

    Parameters
    ----------
    store : Path
        The folder is ``uploads`` in it, as temporary files are kept in memory on many systems. One of those is taken
        all the same where the store cannot be written to.
    seconds : float
        For a whole body to arrive.
    """

    def __init__(self, store: Path, seconds: float) -> None:
        self._seconds = seconds
        self._closing = contextlib.ExitStack()
        self.folder = store / "uploads"
        try:
            self.folder.mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError:
            name = tempfile.TemporaryDirectory(prefix="streamer-serve-", ignore_cleanup_errors=True)
            self.folder = Path(self._closing.enter_context(name))
        else:
            _sweep(self.folder)

    def close(self) -> None:
        """Remove the folder, unless another server of the store has a body in it."""
        self._closing.close()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

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
            self.folder.mkdir(exist_ok=True)  # another server of the store removes it when it ends
            descriptor, name = await asyncio.to_thread(tempfile.mkstemp, dir=self.folder)
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


def _sweep(folder: Path) -> None:
    """Remove what a server left that was killed; no body is looked at for so long."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


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
