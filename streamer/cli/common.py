"""What every command shares: options, output, progress, how it is stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import click

__all__ = [
    "CONFIG",
    "DEVICE",
    "SET",
    "STORE",
    "OutFile",
    "Outcome",
    "Records",
    "command",
    "progress_bars",
    "say",
    "stopping",
]

Outcome = tuple[dict[str, Any] | None, str, int]
"""What a command gives back: the JSON object, None where it is printed already; the same for people; the exit code."""

_IN_MEMORY = 8 * 2**20


class Records:
    """A list for the JSON object that may be too long for memory: it waits in a temporary file until all is well.

    For people, each record is printed as soon as it is there.
    """

    def __init__(self) -> None:
        file = tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8")  # noqa: SIM115 - the command closes it
        self._file = click.get_current_context().with_resource(file)
        self.count = 0

    def append(self, record: dict[str, Any]) -> None:
        """Add one."""
        self._file.write((", " if self.count else "") + json.dumps(record))
        self.count += 1

    def pieces(self) -> Iterator[str]:
        """The list as JSON."""
        self._file.seek(0)
        yield "["
        yield from iter(lambda: self._file.read(2**16), "")
        yield "]"


def say(line: str) -> None:
    """Print a line for people now, unless JSON was asked for."""
    if not click.get_current_context().meta.get("streamer.json"):
        click.echo(line)


def _print_json(data: dict[str, Any]) -> None:
    """One object on one line; `Records` at the top level come out of their files."""
    for number, (name, value) in enumerate(data.items()):
        click.echo(f"{', ' if number else '{'}{json.dumps(name)}: ", nl=False)
        for piece in value.pieces() if isinstance(value, Records) else [json.dumps(value)]:
            click.echo(piece, nl=False)
    click.echo("}" if data else "{}")


class OutFile(click.Path):
    """A file to write, where one can be written: that is found out before hours of work, not after."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"{path}: there is no folder {path.parent}; make it, or name another", param, ctx)
        return path


CONFIG = click.argument("config", type=click.Path(path_type=Path))
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "gpu"]), help="Where to run. [default: as configured]"
)
STORE = click.argument("store", type=click.Path(path_type=Path))
SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one config key: memory.budget=512MiB"
)


def command(function: Callable[..., Outcome]) -> Callable[..., int]:
    """Give a command the options that all share, and print what it returns."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout, and nothing else there.")
    @click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
    @click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")
    @wraps(function)
    def run(*args: Any, as_json: bool, verbose: bool, quiet: bool, **options: Any) -> int:
        level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
        console = logging.StreamHandler(sys.stderr)
        console.setLevel(level)  # a log file may be told more
        logging.basicConfig(handlers=[console], level=level, format="%(levelname)s: %(message)s")
        for noisy in ("PIL", "h5py", "tensorflow", "jax", "filelock", "absl", "asyncio", "matplotlib"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        click.get_current_context().meta["streamer.json"] = as_json
        data, text, code = function(*args, **options)
        if as_json and data is not None:
            _print_json(data)
        elif text and not as_json:
            click.echo(text)
        return code

    return run


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM end the work after the batch at hand; a second Ctrl-C ends it at once."""
    asked = False

    def note(number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        click.echo("stopping after this batch; once more to stop at once", err=True)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        numbers.append(signal.SIGBREAK)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def progress_bars(unit: str = " images") -> Iterator[Callable[[str, int, int], None]]:
    """A bar with rate and remaining time on stderr; nothing where stderr is not a terminal."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[stage] = tqdm(
                desc=stage, total=total, unit=unit, unit_scale=unit == "B", disable=None, file=sys.stderr
            )
        bars[stage].update(done - bars[stage].n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()
