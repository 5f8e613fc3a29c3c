"""Commands of transfer learning: train a head on a store, and ask it about new pictures."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer.cli.common import STORE, Outcome, OutFile, Records, command, progress_bars, say, stopping
from streamer.errors import ExitCode

if TYPE_CHECKING:
    from streamer.transfer import Head, Prediction, TrainingReport

__all__ = ["predict", "train"]

_SHARE = click.FloatRange(0, 1, max_open=True)
_SEED = click.IntRange(0, 2**64 - 1)
_DEVICES = click.Choice(["auto", "cpu", "gpu"])


@click.command()
@STORE
@click.option("--kind", type=click.Choice(["linear", "dense"]), default="linear", show_default=True)
@click.option("--output", metavar="NAME", help="Whose features to train on. [default: the first]")
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE.csv", help="key,label; not the stored ones.")
@click.option("--exclude-label", "exclude", multiple=True, metavar="LABEL", help="Leave a label out, as clutter.")
@click.option(
    "--head",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.npz",
    help="[default: STORE/heads/OUTPUT-KIND.npz]",
)
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Figures and plots.")
@click.option("--seed", type=_SEED, default=0, show_default=True, help="Of split, order and weights.")
@click.option("--test-share", type=_SHARE, default=0.2, show_default=True, help="Of the images, to test on.")
@click.option("--validation-share", type=_SHARE, default=0.1, show_default=True, help="To choose and to stop by.")
@click.option("--epochs", type=click.IntRange(min=1), default=40, show_default=True, help="At most.")
@click.option(
    "--class-weights",
    type=click.Choice(["balanced", "none"]),
    default="balanced",
    show_default=True,
    help="balanced: rare classes count as much as frequent ones.",
)
@click.option("--pool", type=click.Choice(["flatten", "gap"]), default="flatten", show_default=True, help="Of maps.")
@click.option("--units", type=click.IntRange(min=1), help="Of dense. [default: 256, or what the memory allows]")
@click.option("--memory", metavar="SIZE", help="Such as 1GiB. [default: that of the last run]")
@click.option("--device", type=_DEVICES, default="auto", show_default=True, help="Where to train dense.")
@command
def train(
    store: Path,
    kind: str,
    output: str | None,
    labels: Path | None,
    exclude: tuple[str, ...],
    head: Path | None,
    report: Path | None,
    seed: int,
    test_share: float,
    validation_share: float,
    epochs: int,
    class_weights: str,
    pool: str,
    units: int | None,
    memory: str | None,
    device: str,
) -> Outcome:
    """Train a head on the features of a store, to tell the labels apart.

    Ctrl-C ends it after the batch at hand and keeps the best head so far (exit code 130).
    """
    from streamer.files import require_writable
    from streamer.store import Store
    from streamer.transfer import train as train_head
    from streamer.transfer import write_report

    if not test_share + validation_share < 1:  # nan is not
        raise click.UsageError(
            f"--test-share {test_share} and --validation-share {validation_share} leave nothing to train on"
        )
    if kind == "linear":
        _refuse("--kind linear", {"--units": units, "--device": device if device == "gpu" else None})
    budget_bytes = _size(memory)
    with Store(store) as opened, stopping() as should_stop, progress_bars() as progress:
        require_writable(head.parent if head else store / "heads", "name another place with --head OUT.npz")
        if report is not None:
            require_writable(report, "name another folder with --report")
        done = train_head(
            opened,
            kind=kind,
            output=output,
            labels=labels,
            exclude=exclude,
            seed=seed,
            test_share=test_share,
            validation_share=validation_share,
            epochs=epochs,
            balanced=class_weights == "balanced",
            pool=pool,
            units=units,
            device=device,
            budget_bytes=budget_bytes,
            progress=progress,
            should_stop=should_stop,
        )
        target = head or store / "heads" / f"{done.head.output.replace(':', '-')}-{kind}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        done.head.save(target)
        notes = write_report(done, opened, report, target) if report is not None else []
    lines = [*_summary(done, target), *notes]
    if report is not None:
        lines.append(f"report: {report}")
    return done.to_dict(str(target)), "\n".join(lines), done.exit_code


def _refuse(where: str, options: Mapping[str, object]) -> None:
    """What would go unheeded there."""
    for option, value in options.items():
        if value is not None:
            raise click.UsageError(f"{option} {value}: is of no effect with {where}; leave one out")


def _size(memory: str | None) -> int | None:
    from streamer.config import parse_bytes

    if memory is None:
        return None
    try:
        return parse_bytes(memory)
    except ValueError as error:
        raise click.UsageError(f"--memory: {error}") from None


def _summary(done: TrainingReport, target: Path) -> list[str]:
    averages = done.averages()
    return [
        f"{len(done.head.classes)} classes; rows to train on {done.rows['train']}, to validate on "
        f"{done.rows['validation']}, to test on {done.rows['test']}",
        f"accuracy {done.before_accuracy:.3f} before training, {done.test_accuracy:.3f} after; mean over the classes: "
        f"precision {averages['precision']:.3f}, recall {averages['recall']:.3f}, F1 {averages['f1']:.3f}",
        f"{len(done.epochs)} epochs in {done.seconds:.1f} s; the head is that of epoch {done.best_epoch}"
        + (": stopped before it was done" if done.stopped else ""),
        f"head: {target}",
    ]


@click.command()
@click.argument("head", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, metavar="IMAGE|FOLDER...", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(path_type=Path), metavar="STORE", help="All images of a store, as stored.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Labels of each picture.")
@click.option("--csv", "table", type=OutFile(), metavar="OUT.csv", help="image,label,probability")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE.h5",
    help="Of the network, where they are now. [default: as the head says]",
)
@click.option("--memory", metavar="SIZE", help="For the network. [default: 1GiB]")
@click.option("--device", type=_DEVICES, help="Where to run the network. [default: auto]")
@command
def predict(
    head: Path,
    images: tuple[Path, ...],
    store: Path | None,
    top: int,
    table: Path | None,
    weights: Path | None,
    memory: str | None,
    device: str | None,
) -> Outcome:
    """Say what a trained HEAD takes each picture for: of files, of folders, or of a store."""
    from streamer.store import Store
    from streamer.transfer import Head, Predictor, predict_stored

    if bool(images) == (store is not None):
        raise click.UsageError("name pictures or folders, or a store with --store: one of the two")
    if store is not None:
        _refuse("--store", {"--weights": weights, "--memory": memory, "--device": device})
    loaded = Head.load(head)
    if store is not None:
        with Store(store) as opened:
            return _told(loaded, head, predict_stored(loaded, opened, top), table)
    budget_bytes = _size(memory) or 2**30
    with Predictor(loaded, budget_bytes=budget_bytes, device=device or "auto", weights=weights) as predictor:
        return _told(loaded, head, predictor.stream(images, top), table)


def _told(head: Head, path: Path, predictions: Iterable[Prediction], table: Path | None) -> Outcome:
    from streamer.files import published

    records, failed = Records(), 0
    with contextlib.ExitStack() as opened:
        rows: Any = None
        if table is not None:
            partial = opened.enter_context(published(table))
            # Strange bytes in a name are kept as the file system gives them.
            file = partial.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            rows = csv.writer(opened.enter_context(file))
            rows.writerow(["image", "label", "probability"])
        for each in predictions:
            record = each.to_dict()
            records.append(record)
            if each.error is not None:
                failed += 1
                say(f"{each.image}: cannot be read: {each.error}")
                continue
            said = ", ".join(f"{label} {probability:.3f}" for label, probability in each.top)
            say(f"{each.image}: {said}")
            if rows is not None:
                rows.writerow([each.image, record["label"], record["probability"]])
    text = "no pictures there" if not records.count else f"{table}: {records.count - failed} lines" if table else ""
    data = {"head": str(path), "classes": len(head.classes), "predictions": records}
    return data, text, ExitCode.SOME_UNREADABLE if failed else ExitCode.DONE
