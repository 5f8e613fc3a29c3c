"""What can go wrong, and the exit code that each fault ends in.

Every message says what happened, where, why, and what to do next; callers show ``str(error)`` as it is.
"""

from __future__ import annotations

__all__ = [
    "BudgetTooSmallError",
    "CompressionUnavailableError",
    "ConfigError",
    "EngineUnavailableError",
    "ExitCode",
    "FingerprintMismatchError",
    "IndexMissingError",
    "Interrupted",
    "StoreCorruptError",
    "StoreFormatError",
    "StoreLockedError",
    "StoreMissingError",
    "StoreWriteError",
    "StreamerError",
    "WeightsError",
    "exit_code_of",
]


class ExitCode:
    """Exit codes of the command line (part of its contract)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SOME_UNREADABLE = 3
    NO_STORE = 10
    LOCKED = 11
    BUDGET = 12
    INTERRUPTED = 130


def exit_code_of(error: BaseException) -> int:
    """The exit code that an exception ends in."""
    if isinstance(error, StreamerError):
        return error.exit_code
    return ExitCode.INTERRUPTED if isinstance(error, KeyboardInterrupt) else ExitCode.FAILED


class StreamerError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = ExitCode.FAILED


class ConfigError(StreamerError):
    """A config file, or a value given on the command line, is wrong."""

    exit_code = ExitCode.USAGE


class FingerprintMismatchError(ConfigError):
    """The config asks for features of another kind than those in the store."""


class EngineUnavailableError(StreamerError):
    """The engine or device asked for cannot run on this machine."""


class CompressionUnavailableError(StreamerError):
    """Shards are compressed, or are to be, in a way that this installation cannot read or write."""


class WeightsError(StreamerError):
    """Weights are missing, damaged, or those of another network."""


class Interrupted(StreamerError):  # noqa: N818 - it is no error: what was done is committed
    """The work was asked to stop, and did; all that had been extracted is committed."""

    exit_code = ExitCode.INTERRUPTED


class StoreMissingError(StreamerError):
    """There is no store at that path."""

    exit_code = ExitCode.NO_STORE


class StoreCorruptError(StreamerError):
    """A file of the store is damaged, missing, or of a format this release cannot read."""


class StoreFormatError(StoreCorruptError):
    """A file of the store was made by a newer release."""


class StoreWriteError(StreamerError):
    """The store cannot be written: the disk is full, or fails. What was committed is safe."""


class IndexMissingError(StreamerError):
    """The store has no published index generation, or its files are damaged."""


class StoreLockedError(StreamerError):
    """Another run is writing to the store."""

    exit_code = ExitCode.LOCKED


class BudgetTooSmallError(StreamerError):
    """The work cannot be done within the memory budget.

    Parameters
    ----------
    message : str
        The explanation, which names the smallest budget that would do.
    minimum_bytes : int
        The smallest budget that would do, in bytes.
    """

    exit_code = ExitCode.BUDGET

    def __init__(self, message: str, minimum_bytes: int) -> None:
        super().__init__(message)
        self.minimum_bytes = minimum_bytes
