"""Commands that ask a store: search and evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer.cli.common import STORE, Outcome, command, progress_bars
from streamer.errors import ExitCode

if TYPE_CHECKING:
    from streamer.evaluation import Evaluation

__all__ = ["evaluate", "search"]


@click.command()
@STORE
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("-k", type=click.IntRange(min=1), help="Hits for each query. [default: as configured, 10]")
@click.option("--candidates", type=click.IntRange(min=1), help="Images the index proposes for the exact ranking.")
@click.option("--exact", is_flag=True, help="Rank every image instead of the index's candidates.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw the queries and their hits.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), help="Where to run. [default: as configured]")
@command
def search(
    store: Path,
    images: tuple[Path, ...],
    k: int | None,
    candidates: int | None,
    exact: bool,
    sheet: Path | None,
    device: str | None,
) -> Outcome:
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


@click.command()
@STORE
@click.option("--queries", type=click.IntRange(min=1), default=2000, show_default=True, help="Photos to ask for.")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Of recall@k.")
@click.option("--exclude-label", "exclude", multiple=True, metavar="LABEL", help="Leave a label out, as clutter.")
@click.option("--baselines/--no-baselines", default=True, help="Read the photos again, for their colour histograms.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw the best and worst queries.")
@command
def evaluate(
    store: Path, queries: int, k: int, exclude: tuple[str, ...], baselines: bool, sheet: Path | None
) -> Outcome:
    """Measure the index: recall against exact search, and by label P@1, P@5, mAP."""
    from streamer.evaluation import evaluate as measure
    from streamer.searcher import Searcher

    with Searcher(store) as searcher, progress_bars() as progress:
        found = measure(searcher, queries=queries, k=k, exclude=exclude, baselines=baselines, progress=progress)
    lines = [*_table(found), *found.notes]
    if sheet is not None:
        from streamer.report import contact_sheet

        shown = [*found.best, *found.worst]
        contact_sheet(shown, sheet, [f"AP {each.average_precision:.3f}: {each.label}" for each in shown])
        lines.append(f"sheet, the best queries and then the worst: {sheet}")
    return found.to_dict(), "\n".join(lines), ExitCode.DONE


def _table(found: Evaluation) -> list[str]:
    rate = f"{found.queries_per_second:.0f} queries/s by way of the index"
    lines = [f"{found.queries} photos asked for: recall@{found.k} {found.recall_at_k:.3f}, {rate}"]
    if found.exact is None or found.p_at_1 is None or found.p_at_5 is None:
        return lines
    lines.append(f"{'':18}{'P@1':>8}{'P@5':>8}{'mAP':>8}")
    lines.append(f"{'index':18}{found.p_at_1:8.3f}{found.p_at_5:8.3f}{'-':>8}")
    for name, each in {"exact search": found.exact, **found.baselines}.items():
        lines.append(f"{name.replace('_', ' '):18}{each.p_at_1:8.3f}{each.p_at_5:8.3f}{each.map:8.3f}")
    return lines
