"""The catalog's record of runs: what was begun, and how it ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from streamer.errors import ExitCode, StreamerError, exit_code_of
from streamer.store.catalog_writer import CatalogWriter

__all__ = ["RunRecord", "recorded"]


class RunRecord:
    """One run's line in the catalog.

    Parameters
    ----------
    path : Path
        The store's folder.
    command : str

    Attributes
    ----------
    exit_code : int
        What to note when the run ends without an error.
    """

    def __init__(self, path: Path, command: str) -> None:
        self.exit_code: int = ExitCode.DONE
        self._catalog = path / "catalog.sqlite"
        self._command = command
        self._number: int | None = None

    def begin(self) -> None:
        """Note the beginning, unless that is done; where there is no catalog yet, do so again when there is."""
        if self._number is None and self._catalog.is_file():
            with contextlib.closing(CatalogWriter(self._catalog)) as catalog:
                self._number = catalog.begin_run(self._command, os.getpid())

    def end(self, exit_code: int, message: str) -> None:
        """Note the end, if the disk takes it: a run that met a full one must end by that error."""
        if self._number is not None:
            with contextlib.suppress(StreamerError), contextlib.closing(CatalogWriter(self._catalog)) as catalog:
                catalog.end_run(self._number, exit_code, message)


@contextlib.contextmanager
def recorded(path: Path, command: str) -> Iterator[RunRecord]:
    """Keep a record of what is done inside. Hold the `StoreLock`.

    Parameters
    ----------
    path : Path
        The store's folder.
    command : str
        Name of the command.
    """
    record = RunRecord(path, command)
    record.begin()
    try:
        yield record
    except BaseException as error:
        record.end(exit_code_of(error), str(error) or type(error).__name__)
        raise
    record.end(record.exit_code, "")
