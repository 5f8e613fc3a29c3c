"""Commands that hand a store, or its features, to others, and take them from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamer.cli.common import STORE, Outcome, command, progress_bars, stopping
from streamer.errors import ExitCode

if TYPE_CHECKING:
    from streamer.publishing import Transfer

__all__ = ["export_", "import_", "pull", "push"]


@click.command("export")
@STORE
@click.argument("out")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["npy", "hdf5", "npz", "parquet"]),
    help="[default: as the suffix of OUT says, else npy]",
)
@click.option("--output", "outputs", multiple=True, metavar="NAME", help="Which features. [default: those indexed]")
@click.option("--force", is_flag=True, help="Replace what stands at OUT, even if it is no export.")
@click.option("--table", metavar="NAME", help="Which table, where OUT is postgresql://... [default: photos]")
@command
def export_(
    store: Path, out: str, kind: str | None, outputs: tuple[str, ...], force: bool, table: str | None
) -> Outcome:
    """Write the features of STORE, and the names beside them, for other tools: to a folder, a file or a database."""
    from dataclasses import asdict

    from streamer.config import format_bytes
    from streamer.exchange import export_features, is_postgres

    if is_postgres(out):
        if kind is not None or force or len(outputs) > 1:
            raise click.UsageError(
                "to a database goes one output, and neither --format nor --force says anything there"
            )
        return _to_database(store, out, table or "photos", outputs[0] if outputs else None)
    if table is not None:
        raise click.UsageError(f"--table {table}: OUT is no database; leave it out, or name postgresql://...")
    with stopping() as should_stop, progress_bars() as progress:
        done = export_features(
            store, Path(out), format=kind, outputs=outputs, force=force, progress=progress, should_stop=should_stop
        )
    shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in done.outputs.items())
    size = f"{format_bytes(done.bytes)} of {done.format}"
    text = f"{done.path}: {done.images} images, {shapes}, {size}, {done.seconds:.1f} s"
    return asdict(done), text, ExitCode.DONE


def _to_database(store: Path, url: str, table: str, output: str | None) -> Outcome:
    from streamer.exchange import export_to_postgres

    with stopping() as should_stop, progress_bars() as progress:
        done = export_to_postgres(store, url, table=table, output=output, progress=progress, should_stop=should_stop)
    lines = [
        f"{done.table}: {done.images} rows of {done.dimension}; {done.added} came, {done.removed} went, {done.renamed} "
        f"are called otherwise, {done.seconds:.1f} s"
    ]
    if not done.indexed:
        lines.append(f"there is no index: HNSW takes no {done.dimension} numbers, and each search looks at every row")
    lines += ["to search it, with the features of a photo or of a row:", f"  {done.sql}"]
    return done.to_dict(), "\n".join(lines), ExitCode.DONE


@click.command("import")
@STORE
@click.argument("features", type=click.Path(path_type=Path))
@click.option("--keys", type=click.Path(path_type=Path), metavar="KEYS.csv", help="Columns key,label: a line a row.")
@click.option("--dataset", metavar="NAME", help="Which dataset of an HDF5 file. [default: the only one there can be]")
@click.option(
    "--name", metavar="NETWORK", help="That the features are of, such as clip-vit-b32. [default: that of the store]"
)
@click.option("--index/--no-index", default=True, show_default=True, help="Bring the index up to date, too.")
@command
def import_(
    store: Path, features: Path, keys: Path | None, dataset: str | None, name: str | None, index: bool
) -> Outcome:
    """Take FEATURES.npy or FEATURES.h5, computed elsewhere, into STORE, which is made when it is not there."""
    from streamer.exchange import import_features, index_imported

    with stopping() as should_stop, progress_bars() as progress:
        done = import_features(
            store, features, keys=keys, dataset=dataset, name=name, progress=progress, should_stop=should_stop
        )
        report = index_imported(store, progress=progress, should_stop=should_stop) if index else None
    counts = ", ".join(f"{number} {what}" for what, number in done.images.items() if number)
    lines = [f"{done.store}: {counts}; {done.output} {tuple(done.shape)}, {done.seconds:.1f} s"]
    if done.images["failed"]:
        lines.append(f"to see which rows could not be taken: streamer failures {store}")
    if report is not None:
        lines.append(f"index generation {report.generation}")
    data = {**done.to_dict(), "generation": report.generation if report is not None else None}
    return data, "\n".join(lines), done.exit_code


@click.command()
@STORE
@click.argument("url")
@click.option("--all", "everything", is_flag=True, help="Send what is there already, too: it was found damaged.")
@command
def push(store: Path, url: str, everything: bool) -> Outcome:
    """Publish STORE under URL (s3://bucket/prefix, gs://, az://, or a folder): what is new travels."""
    from streamer.publishing import push as push_store

    with progress_bars() as progress:
        done = push_store(store, url, everything=everything, progress=progress)
    return done.to_dict(), _told(done, f"{store} -> {url}"), ExitCode.DONE


@click.command()
@click.argument("url")
@STORE
@command
def pull(url: str, store: Path) -> Outcome:
    """Bring STORE, a copy to search in, up to date with what was pushed to URL."""
    from streamer.publishing import pull as pull_store

    with progress_bars() as progress:
        done = pull_store(url, store, progress=progress)
    return done.to_dict(), _told(done, f"{url} -> {store}"), ExitCode.DONE


def _told(done: Transfer, way: str) -> str:
    from streamer.config import format_bytes

    return (
        f"{way}: {done.files} files, {format_bytes(done.bytes)} travelled, {done.unchanged} were there; "
        f"{done.images} images, index generation {done.generation}, {done.seconds:.1f} s"
    )
