"""The command line: parse, call, print. No logic lives here.

Imports are made inside the commands: ``streamer --help`` answers at once and loads nothing heavy.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer import __version__
from streamer.errors import ExitCode, StreamerError

if TYPE_CHECKING:
    from streamer.report import Report

__all__ = ["main"]

_LOG = logging.getLogger("streamer")

_Outcome = tuple[dict[str, Any], str, int]
"""What a command gives back: the JSON object, the same for people, the exit code."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with one of the codes of `streamer.errors.ExitCode`."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = cli.main(given, prog_name="streamer", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        code = ExitCode.USAGE
    except click.ClickException as error:
        where = f"{error.ctx.command_path}: " if isinstance(error, click.UsageError) and error.ctx else ""
        code = _fail(given, f"{where}{error.format_message()}", ExitCode.USAGE)
    except StreamerError as error:
        code = _fail(given, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _fail(given, "interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:  # `streamer failures STORE | head`
        sys.stderr.close()
        code = ExitCode.DONE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        code = _fail(given, f"{place}{error.strerror or error}", ExitCode.FAILED)
    except Exception as error:  # the exit code and the JSON object are promised whatever happens
        logging.getLogger(__name__).debug("", exc_info=True)
        code = _fail(given, f"{type(error).__name__}: {error} (unforeseen; --verbose shows where)", ExitCode.FAILED)
    sys.exit(code)


def _fail(arguments: list[str], message: str, code: int) -> int:
    """Say what went wrong: on stderr for people, and as the one JSON object where that was asked for."""
    if "--json" in arguments:
        click.echo(json.dumps({"error": message, "exit_code": code}))
    click.echo(f"streamer: {message}", err=True)
    return code


def _command(function: Callable[..., _Outcome]) -> Callable[..., int]:
    """Give a command the options that all share, and print what it returns."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout, and nothing else there.")
    @click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
    @click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")
    @wraps(function)
    def run(*args: Any, as_json: bool, verbose: bool, quiet: bool, **options: Any) -> int:
        logging.basicConfig(
            stream=sys.stderr,
            level=logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO,
            format="%(levelname)s: %(message)s",
        )
        for noisy in ("PIL", "h5py", "tensorflow", "jax", "filelock", "absl", "asyncio", "matplotlib"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        data, text, code = function(*args, **options)
        if as_json:
            click.echo(json.dumps(data))
        elif text:
            click.echo(text)
        return code

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamer")
def cli() -> None:
    """Turn a library of photos into a feature store and a search index, inside a memory budget.

    Exit codes: 0 done; 1 failed; 2 wrong usage or config; 3 done, some images could not be read; 10 no store there;
    11 another run holds the lock; 12 the memory budget is too small; 130 interrupted.
    """


_CONFIG = click.argument("config", type=click.Path(path_type=Path))
_STORE = click.argument("store", type=click.Path(path_type=Path))
_SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one config key: memory.budget=512MiB"
)


@cli.command()
@_CONFIG
@_SET
@_command
def run(config: Path, overrides: tuple[str, ...]) -> _Outcome:
    """Extract, reduce and index: only what changed."""
    return _run(config, overrides, ("extract", "reduce", "index"))


@cli.command()
@_CONFIG
@_SET
@_command
def extract(config: Path, overrides: tuple[str, ...]) -> _Outcome:
    """Bring the features up to date with the source."""
    return _run(config, overrides, ("extract",))


@cli.command()
@_CONFIG
@_SET
@_command
def reduce(config: Path, overrides: tuple[str, ...]) -> _Outcome:
    """Fit PCA on the stored features."""
    return _run(config, overrides, ("reduce",))


@cli.command()
@_CONFIG
@_SET
@_command
def index(config: Path, overrides: tuple[str, ...]) -> _Outcome:
    """Build and publish the search index."""
    return _run(config, overrides, ("index",))


def _run(config: Path, overrides: tuple[str, ...], stages: tuple[str, ...]) -> _Outcome:
    from streamer.config import load_config
    from streamer.pipeline import run as run_pipeline

    settings = load_config(config, overrides)
    with _stopping() as should_stop, _progress() as progress:
        report = run_pipeline(settings, stages, progress=progress, should_stop=should_stop)
    return report.to_dict(), _summary(report), report.exit_code


def _summary(report: Report) -> str:
    from streamer.config import format_bytes

    counts = ", ".join(f"{number} {name}" for name, number in report.images.items() if number and name != "seen")
    lines = [
        f"{report.images['seen']} images{': ' + counts if counts else ''}",
        f"{report.seconds['total']:.1f} s, {report.images_per_second:.1f} images/s, peak "
        f"{format_bytes(report.peak_rss_bytes)} of {format_bytes(report.memory_budget_bytes)}, "
        f"{report.engine} on {report.device}",
        f"store {report.store}" + (f", index generation {report.generation}" if report.generation else ""),
    ]
    if report.images["failed"]:
        lines.append(f"to see what could not be read: streamer failures {report.store}")
    return "\n".join(lines)


@cli.command()
@_STORE
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("-k", type=click.IntRange(min=1), help="Hits for each query. [default: as configured, 10]")
@click.option("--candidates", type=click.IntRange(min=1), help="Images the index proposes for the exact ranking.")
@click.option("--exact", is_flag=True, help="Rank every image instead of the index's candidates.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw the queries and their hits.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), help="Where to run. [default: as configured]")
@_command
def search(
    store: Path,
    images: tuple[Path, ...],
    k: int | None,
    candidates: int | None,
    exact: bool,
    sheet: Path | None,
    device: str | None,
) -> _Outcome:
    """Find the photos most like each IMAGE."""
    from dataclasses import asdict

    from streamer.searcher import Searcher

    with Searcher(store, device=device) as searcher:
        results = searcher.search(images, k, candidates=candidates, exact=exact)
    data = []
    lines = []
    for result in results:
        entry: dict[str, Any] = {"query": result.query, "seconds": result.seconds}
        entry["hits"] = [asdict(hit) for hit in result.hits]
        lines.append(f"{result.query}  ({result.seconds:.3f} s)")
        lines += [f"{hit.rank:4d}  {hit.score:7.4f}  {hit.key}" for hit in result.hits]
        if result.error is not None:
            entry["error"] = result.error
            lines.append(f"      cannot be read: {result.error}")
        data.append(entry)
    if sheet is not None:
        from streamer.report import contact_sheet

        contact_sheet(results, sheet)
        lines.append(f"sheet: {sheet}")
    failed = any(result.error is not None for result in results)
    return {"results": data}, "\n".join(lines), ExitCode.SOME_UNREADABLE if failed else ExitCode.DONE


@cli.command()
@_STORE
@_command
def info(store: Path) -> _Outcome:
    """Say what a store holds."""
    from streamer.config import format_bytes
    from streamer.report import store_info
    from streamer.store import Store

    with Store(store) as opened:
        data = store_info(opened)
    outputs = ", ".join(f"{name} {tuple(each['shape'])} {each['dtype']}" for name, each in data["outputs"].items())
    index = data["index"]
    recall = f", recall@10 {index['recall_at_10']:.3f}" if index and index["recall_at_10"] is not None else ""
    lines = [
        f"{data['images']} images, {data['failed']} that could not be read",
        f"{data['shards']} shards, {format_bytes(data['bytes'])}: {outputs}",
        f"backbone {data['backbone']}, weights {data['weights']}, fingerprint {data['fingerprint']}",
        f"index: generation {data['generation']}, {index['kind']}, {index['rows']} images{recall}"
        if index
        else "index: none yet",
    ]
    last = data["last_run"]
    if last:
        ended = "has not ended" if last["exit_code"] is None else f"ended with exit code {last['exit_code']}"
        lines.append(f"last run: 'streamer {last['command']}' began {last['started']}, {ended}")
    return data, "\n".join(lines), ExitCode.DONE


@cli.command()
@_STORE
@_command
def failures(store: Path) -> _Outcome:
    """List the images that could not be read, and why."""
    from dataclasses import asdict

    from streamer.store import Store

    with Store(store) as opened:
        found = list(opened.failures())
    text = "\n".join(f"{each.key}: {each.reason}" for each in found) or "every image could be read"
    return {"failures": [asdict(each) for each in found]}, text, ExitCode.DONE


@cli.command()
@_command
def models() -> _Outcome:
    """List the backbones, their layers and whether their weights are here."""
    from streamer.backbones.describe import describe_backbones

    described = describe_backbones()
    lines = []
    for each in described:
        lines.append(f"{each['name']}: input {each['input_size']}, default output {each['default_output']}")
        lines.append(f"    layers: {', '.join(each['layers'])}")
        lines += [f"    weights {kind}: {place or 'not here'}" for kind, place in each["weights"].items()]
    lines.append("fetch ImageNet weights with: streamer weights fetch NAME [--top]")
    return {"models": described}, "\n".join(lines), ExitCode.DONE


@cli.group()
def weights() -> None:
    """Look after pretrained weights."""


@weights.command()
@click.argument("name")
@click.option("--top", is_flag=True, help="With the fully connected layers (fc1, fc2, predictions).")
@_command
def fetch(name: str, top: bool) -> _Outcome:
    """Download the ImageNet weights of a backbone, once, and check them."""
    from streamer.backbones import fetch_weights

    with _progress("B") as progress:
        path = fetch_weights(name, top=top, progress=lambda done, total: progress("weights", done, total or 0))
    return {"path": str(path)}, str(path), ExitCode.DONE


@cli.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("demo"), help="Where to put it. [default: demo]"
)
@_command
def demo(folder: Path | None, output: Path) -> _Outcome:
    """Try it: index FOLDER, or pictures drawn on the spot, and show what is found."""
    from streamer.demo import run_demo

    with _stopping() as should_stop, _progress() as progress:
        outcome = run_demo(folder, output, progress=progress, should_stop=should_stop)
    return outcome.to_dict(), outcome.next_steps(), outcome.report.exit_code


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
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
def _progress(unit: str = " images") -> Iterator[Callable[[str, int, int], None]]:
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
