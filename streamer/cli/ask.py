"""Commands that ask a store about photos: search and evaluate."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from streamer.cli.common import DEVICE, STORE, Outcome, OutFile, Records, command, progress_bars, say, stopping
from streamer.errors import ExitCode

if TYPE_CHECKING:
    from streamer.evaluation import Evaluation
    from streamer.index import Metric
    from streamer.searcher import QueryResult

__all__ = ["evaluate", "search"]

_MOST_DRAWN = 50


@click.command()
@STORE
@click.argument("images", nargs=-1, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("-k", type=click.IntRange(min=1), help="Hits for each query. [default: as configured, 10]")
@click.option("--candidates", type=click.IntRange(min=1), help="Images the index proposes for the exact ranking.")
@click.option("--exact", is_flag=True, help="Rank every image instead of the index's candidates.")
@click.option("--metric", type=click.Choice(["cosine", "l2"]), help="l2, Euclidean distance, ranks every image.")
@click.option("--sheet", type=OutFile(), metavar="OUT.png", help="Draw the first 50 and their hits.")
@click.option(
    "--knn",
    type=OutFile(),
    metavar="OUT.h5",
    help="Write the nearest neighbours of all images of the store, or of the STORE given as IMAGE.",
)
@DEVICE
@command
def search(
    store: Path,
    images: tuple[Path, ...],
    k: int | None,
    candidates: int | None,
    exact: bool,
    metric: Metric | None,
    sheet: Path | None,
    knn: Path | None,
    device: str | None,
) -> Outcome:
    """Find the photos most like each IMAGE: a file, or all the photos in a folder."""
    if candidates is not None and (exact or metric == "l2"):
        raise click.UsageError(
            f"--candidates {candidates}: {'--exact' if exact else '--metric l2'} ranks every image; leave one out"
        )
    if knn is not None:
        if len(images) > 1 or sheet is not None:
            raise click.UsageError("--knn takes no IMAGE, or one other STORE, and draws no sheet")
        return _graph(store, images, knn, device, {"k": k, "candidates": candidates, "exact": exact, "metric": metric})
    if not images:
        raise click.UsageError("Missing argument 'IMAGE...': one photo or folder of photos at the least")
    from streamer.searcher import Searcher

    records, failed = Records(), 0
    drawn: list[QueryResult] = []
    with Searcher(store, device=device) as searcher:
        if candidates is not None and searcher.scans(exact, metric):
            _refuse_candidates(store, candidates)
        for result in searcher.stream(images, k, candidates=candidates, exact=exact, metric=metric):
            entry: dict[str, Any] = {"query": result.query, "seconds": result.seconds}
            entry["hits"] = [hit.to_dict() for hit in result.hits]
            say(f"{result.query}  ({result.seconds:.3f} s)")
            for hit in result.hits:
                away = "" if hit.distance is None else f"  {hit.distance:9.4f}"
                say(f"{hit.rank:4d}  {hit.score:7.4f}{away}  {hit.key}")
            if result.error is not None:
                failed += 1
                entry["error"] = result.error
                say(f"      cannot be read: {result.error}")
            records.append(entry)
            if sheet is not None and len(drawn) < _MOST_DRAWN:
                drawn.append(result)
    lines = []
    if not records.count:
        lines.append("no photos there")
    if sheet is not None:
        from streamer.report import contact_sheet, crossed_out

        missing = contact_sheet(drawn, sheet)
        lines += [f"sheet: {sheet}", *crossed_out(missing)]
    return {"results": records}, "\n".join(lines), ExitCode.SOME_UNREADABLE if failed else ExitCode.DONE


def _refuse_candidates(store: Path, candidates: int) -> NoReturn:
    raise click.UsageError(
        f"--candidates {candidates}: {store} is searched by a look at every image (index.kind: exact, "
        "search.metric: l2, or no index yet; 'streamer info' tells); leave it out"
    )


def _graph(store: Path, others: tuple[Path, ...], target: Path, device: str | None, asked: dict[str, Any]) -> Outcome:
    from dataclasses import asdict

    from streamer.joins import knn_graph
    from streamer.searcher import open_neighbours
    from streamer.store import Store

    with contextlib.ExitStack() as opened:
        neighbours = opened.enter_context(open_neighbours(store, device))
        if asked["candidates"] is not None and neighbours.scans(asked["exact"], asked["metric"]):
            _refuse_candidates(store, asked["candidates"])
        queries = opened.enter_context(Store(others[0])) if others else None
        should_stop = opened.enter_context(stopping())
        progress = opened.enter_context(progress_bars())
        graph = knn_graph(neighbours, target, queries=queries, progress=progress, should_stop=should_stop, **asked)
    text = (
        f"{graph.path}: the {graph.k} nearest of {graph.images} images to each of {graph.queries}, by {graph.metric}, "
        f"{'every image looked at' if graph.exact else 'by way of the index'}, in {graph.seconds:.1f} s"
    )
    return {"knn": asdict(graph)}, text, ExitCode.DONE


@click.command()
@STORE
@click.option("--queries", type=click.IntRange(min=1), default=2000, show_default=True, help="Photos to ask for.")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Of recall@k.")
@click.option("--exclude-label", "exclude", multiple=True, metavar="LABEL", help="Leave a label out, as clutter.")
@click.option("--baselines/--no-baselines", default=True, help="Read the photos again, for their colour histograms.")
@click.option("--sheet", type=OutFile(), metavar="OUT.png", help="Draw the best and worst queries.")
@DEVICE
@command
def evaluate(
    store: Path,
    queries: int,
    k: int,
    exclude: tuple[str, ...],
    baselines: bool,
    sheet: Path | None,
    device: str | None,
) -> Outcome:
    """Measure the index: recall against exact search, and by label P@1, P@5, mAP."""
    from streamer.evaluation import evaluate as measure
    from streamer.searcher import Searcher

    with Searcher(store, device=device) as searcher, progress_bars() as progress:
        found = measure(searcher, queries=queries, k=k, exclude=exclude, baselines=baselines, progress=progress)
    lines = [*_table(found), *found.notes]
    if sheet is not None:
        from streamer.report import contact_sheet, crossed_out

        shown = [*found.best, *found.worst]
        missing = contact_sheet(shown, sheet, [f"AP {each.average_precision:.3f}: {each.label}" for each in shown])
        lines += [f"sheet, the best queries and then the worst: {sheet}", *crossed_out(missing)]
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
