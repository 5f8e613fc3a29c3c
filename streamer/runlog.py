"""What a run leaves behind for whoever looks in the morning: a log file, its report, a call for help when it failed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from streamer.files import replace_text

__all__ = ["call_on_failure", "keep_report", "log_to"]

_LOG = logging.getLogger(__name__)

_LOG_BYTES = 2**20
_LOGS = 5
_REPORTS = 400
_PATIENCE_SECONDS = 300


@contextlib.contextmanager
def log_to(path: Path | None) -> Iterator[None]:
    """Write what this package logs to a file, too, with times; it is set aside at 1 MiB, and five old ones are kept.

    Parameters
    ----------
    path : Path or None
        None: to no file. One that cannot be written is no reason not to run: that is said on the console.
    """
    if path is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _Handler(path, maxBytes=_LOG_BYTES, backupCount=_LOGS, encoding="utf-8")
    except OSError as error:
        _LOG.warning("%s: there will be no log file: %s", path, error.strerror or error)
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(process)d: %(message)s"))
    logger = logging.getLogger("streamer")
    level = logger.level
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


class _Handler(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as the base class has it
        """A full disk must not make a run print tracebacks: what it says goes to the console all the same."""


def keep_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write a report to ``<UTC time>.json``; of the older ones, the newest 400 stay."""
    name = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ.json")
    replace_text(folder / name, json.dumps(report, indent=1) + "\n")
    for old in sorted(folder.glob("*.json"))[:-_REPORTS]:
        with contextlib.suppress(OSError):
            old.unlink()


def call_on_failure(command: str | Sequence[str] | None, facts: Mapping[str, object]) -> None:
    """Run the user's own command after a run that failed.

    Parameters
    ----------
    command : str, sequence of str or None
        A line for the system's shell, or a program and its arguments.
    facts : mapping
        Handed over as environment variables ``STREAMER_<NAME>``.
    """
    if not command:
        return
    environment = {**os.environ, **{f"STREAMER_{name.upper()}": str(value) for name, value in facts.items()}}
    try:
        done = subprocess.run(  # noqa: S603 - the user's own words
            command if isinstance(command, str) else list(command),
            shell=isinstance(command, str),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _LOG.error("run.on_failure could not be run: %s", error)
        return
    if done.returncode:
        _LOG.error("run.on_failure ended with %d: %s", done.returncode, (done.stderr or done.stdout).strip()[-500:])
