"""One writer at a time: a lock of the operating system's, which goes with the process that held it."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

import filelock

from streamer.errors import StoreCorruptError, StoreLockedError, StoreWriteError
from streamer.store.catalog import Catalog

__all__ = ["StoreLock"]


class StoreLock:
    """Hold ``lock`` in the store's folder for the length of a ``with`` block.

    The system releases it when the process ends, however it ends; the file stays and means nothing by itself.

    Parameters
    ----------
    path : Path
        The store's folder; made when it does not exist.

    Raises
    ------
    StoreLockedError
        At once, if another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = filelock.FileLock(path / "lock")

    def __enter__(self) -> StoreLock:
        self._path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StoreLockedError(
                f"{self._path}: another run is writing to this store{self._holder()}; wait for it, or stop it"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _holder(self) -> str:
        try:
            catalog = Catalog(self._path / "catalog.sqlite")
        except (StoreCorruptError, StoreWriteError):  # it is only being made
            return ""
        try:
            last = catalog.last_run()
        finally:
            catalog.close()
        if last is None or last.finished is not None:
            return ""
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.started))
        return f" (process {last.pid}, 'streamer {last.command}', since {started})"
