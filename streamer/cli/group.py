"""Commands that put the photos of a store into groups: near-duplicates and clusters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamer.cli.common import DEVICE, STORE, Outcome, OutFile, Records, command, progress_bars, say, stopping
from streamer.errors import ExitCode

if TYPE_CHECKING:
    from streamer.joins import Group

__all__ = ["clusters", "duplicates"]

_MOST_DRAWN = 50
_CENTRAL = 24


@click.command()
@STORE
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.97,
    show_default=True,
    help="Cosine of the features from which two photos are near-duplicates.",
)
@click.option("--exact", is_flag=True, help="Compare each photo with every other, without the index.")
@click.option("--sheet", type=OutFile(), metavar="OUT.png", help="Draw the first 50 groups.")
@DEVICE
@command
def duplicates(store: Path, threshold: float, exact: bool, sheet: Path | None, device: str | None) -> Outcome:
    """List groups of photos that are nearly the same."""
    from streamer.joins import duplicates as find
    from streamer.searcher import open_neighbours

    records, images = Records(), 0
    drawn: list[Group] = []
    with open_neighbours(store, device) as neighbours, stopping() as should_stop, progress_bars() as progress:
        for group in find(neighbours, threshold, exact=exact, progress=progress, should_stop=should_stop):
            first, *others = group.images
            say(first.entry.key)
            for each in others:
                say(f"    {each.score:7.4f}  {each.entry.key}")
            records.append(group.to_dict())
            images += len(group.images)
            if sheet is not None and len(drawn) < _MOST_DRAWN:
                drawn.append(group)
    lines = [f"{records.count} groups, {images} photos: {images - records.count} could go"]
    if sheet is not None:
        from streamer.report import contact_sheet, crossed_out

        missing = contact_sheet(drawn, sheet, ["first of the group"] * len(drawn))
        lines += [f"sheet: {sheet}", *crossed_out(missing)]
    return {"threshold": threshold, "photos": images, "groups": records}, "\n".join(lines), ExitCode.DONE


@click.command()
@STORE
@click.option("--sheets", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Draw each cluster.")
@click.option("--central", type=click.IntRange(min=1), default=_CENTRAL, show_default=True, help="Photos of each.")
@command
def clusters(store: Path, sheets: Path | None, central: int) -> Outcome:
    """List the clusters of a store whose index is of kind ivf."""
    from streamer.joins import clusters as each_cluster
    from streamer.neighbours import Neighbours

    records, missing = Records(), 0
    with Neighbours(store) as neighbours:
        for cluster in each_cluster(neighbours, central):
            frequent = ", ".join(
                f"{label or '(no label)'} {count}" for label, count in list(cluster.labels.items())[:4]
            )
            say(f"cluster {cluster.number}: {cluster.images} photos: {frequent}")
            for each in cluster.central[:3]:
                say(f"    {each.score:7.4f}  {each.entry.key}")
            record = cluster.to_dict()
            if sheets is not None:
                from streamer.report import cluster_sheet, grid_sheet

                sheets.mkdir(parents=True, exist_ok=True)
                target = cluster_sheet(sheets, cluster.number)
                missing += grid_sheet(cluster.central, target)
                record["sheet"] = str(target)
            records.append(record)
    lines = [f"{records.count} clusters"]
    if sheets is not None:
        from streamer.report import crossed_out, remove_cluster_sheets

        remove_cluster_sheets(sheets, records.count)
        lines += [f"sheets: {sheets}", *crossed_out(missing)]
    return {"clusters": records}, "\n".join(lines), ExitCode.DONE
