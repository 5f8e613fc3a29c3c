"""Commands that make a store: run and its stages, and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamer.cli.common import CONFIG, SET, Outcome, command, progress_bars, stopping

if TYPE_CHECKING:
    from streamer.report import Report

__all__ = ["demo", "extract", "index", "reduce", "run"]


@click.command()
@CONFIG
@SET
@command
def run(config: Path, overrides: tuple[str, ...]) -> Outcome:
    """Extract, reduce and index: only what changed."""
    return _run(config, overrides, ("extract", "reduce", "index"))


@click.command()
@CONFIG
@SET
@command
def extract(config: Path, overrides: tuple[str, ...]) -> Outcome:
    """Bring the features up to date with the source."""
    return _run(config, overrides, ("extract",))


@click.command()
@CONFIG
@SET
@command
def reduce(config: Path, overrides: tuple[str, ...]) -> Outcome:
    """Fit PCA on the stored features."""
    return _run(config, overrides, ("reduce",))


@click.command()
@CONFIG
@SET
@command
def index(config: Path, overrides: tuple[str, ...]) -> Outcome:
    """Build and publish the search index."""
    return _run(config, overrides, ("index",))


def _run(config: Path, overrides: tuple[str, ...], stages: tuple[str, ...]) -> Outcome:
    from streamer.config import load_config
    from streamer.pipeline import run as run_pipeline

    settings = load_config(config, overrides)
    with stopping() as should_stop, progress_bars() as progress:
        report = run_pipeline(settings, stages, progress=progress, should_stop=should_stop)
    return report.to_dict(), _summary(report), report.exit_code


def _summary(report: Report) -> str:
    from streamer.config import format_bytes

    counts = ", ".join(f"{number} {name}" for name, number in report.images.items() if number and name != "seen")
    engine = f", {report.engine} on {report.device}" if report.engine else ""
    lines = [
        f"{report.images['seen']} images{': ' + counts if counts else ''}",
        f"{report.seconds['total']:.1f} s, {report.images_per_second:.1f} images/s, peak "
        f"{format_bytes(report.peak_rss_bytes)} of {format_bytes(report.memory_budget_bytes)}{engine}",
        f"store {report.store}" + (f", index generation {report.generation}" if report.generation else ""),
    ]
    if report.images["failed"]:
        lines.append(f"to see what could not be read: streamer failures {report.store}")
    return "\n".join(lines)


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("demo"), help="Where to put it. [default: demo]"
)
@command
def demo(folder: Path | None, output: Path) -> Outcome:
    """Try it: index FOLDER, or pictures drawn on the spot, and show what is found."""
    from streamer.demo import run_demo

    with stopping() as should_stop, progress_bars() as progress:
        outcome = run_demo(folder, output, progress=progress, should_stop=should_stop)
    return outcome.to_dict(), outcome.next_steps(), outcome.report.exit_code
