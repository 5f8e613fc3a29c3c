"""Commands that say what is there: of a store, and of weights."""

from __future__ import annotations

from pathlib import Path

import click

from streamer.cli.common import STORE, Outcome, command, progress_bars, stopping
from streamer.errors import ExitCode

__all__ = ["check", "compact", "failures", "info", "models", "weights"]


@click.command()
@STORE
@command
def info(store: Path) -> Outcome:
    """Say what a store holds."""
    from streamer.config import format_bytes
    from streamer.report import store_info
    from streamer.store import Store

    with Store(store) as opened:
        data = store_info(opened)
    outputs = ", ".join(f"{name} {tuple(each['shape'])} {each['dtype']}" for name, each in data["outputs"].items())
    index = data["index"]
    recall = f", recall@10 {index['recall_at_10']:.3f}" if index and index["recall_at_10"] is not None else ""
    weights = f", weights {data['weights']}" if data["weights"] else ""
    lines = [
        f"{data['images']} images, {data['failed']} that could not be read",
        f"{data['shards']} shards, {format_bytes(data['bytes'])}, compression {data['compression']}: {outputs}",
        f"backbone {data['backbone']}{weights}, fingerprint {data['fingerprint']}",
        f"index: generation {data['generation']}, {index['kind']}, {index['rows']} images{recall}"
        if index
        else f"index: damaged: {data['index_fault']}"
        if data["index_fault"]
        else "index: none yet",
    ]
    if data["augmented"]:
        lines.insert(1, f"{data['augmented']} rows of augmented copies, to train on")
    if data["rounding"]:
        lines.append("float16: each value within 2**-11 (0.05 %) of what the network gave, below 2**-14 within 2**-25")
    last = data["last_run"]
    if last:
        ended = "has not ended" if last["exit_code"] is None else f"ended with exit code {last['exit_code']}"
        lines.append(f"last run: 'streamer {last['command']}' began {last['started']}, {ended}")
    return data, "\n".join(lines), ExitCode.DONE


@click.command()
@STORE
@command
def failures(store: Path) -> Outcome:
    """List the images that could not be read, and why."""
    from dataclasses import asdict

    from streamer.store import Store

    with Store(store) as opened:
        found = list(opened.failures())
    text = "\n".join(f"{each.key}: {each.reason}" for each in found) or "every image could be read"
    return {"failures": [asdict(each) for each in found]}, text, ExitCode.DONE


@click.command()
@command
def models() -> Outcome:
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


@click.group()
def weights() -> None:
    """Look after pretrained weights."""


@weights.command()
@click.argument("name")
@click.option("--top", is_flag=True, help="With the fully connected layers (fc1, fc2, predictions).")
@command
def fetch(name: str, top: bool) -> Outcome:
    """Download the ImageNet weights of a backbone, once, and check them."""
    from streamer.backbones import fetch_weights

    with progress_bars("B") as progress:
        path = fetch_weights(name, top=top, progress=lambda done, total: progress("weights", done, total or 0))
    return {"path": str(path)}, str(path), ExitCode.DONE


@click.command()
@STORE
@click.option("--repair", is_flag=True, help="Drop what is damaged, so that the next run makes it anew.")
@command
def check(store: Path, repair: bool) -> Outcome:
    """Read all of a store, and name every fault."""
    from streamer.store import Store
    from streamer.upkeep import check as check_store

    with progress_bars(" shards") as progress:
        report = check_store(store, repair=repair, progress=progress)
    lines = [f"{fault.place}: {fault.what}" for fault in report.faults]
    if not lines:
        lines = [f"{store}: all is as it was written"]
    elif report.repaired:
        with Store(store) as opened:
            remedy = (
                "import the same features again for the" if opened.spec.imported else "the next 'streamer run' extracts"
            )
        lines.append(f"repaired: what was damaged is dropped; {remedy} {report.images_to_extract} images it held")
    else:
        lines.append(f"to drop what is damaged: streamer check {store} --repair")
    return report.to_dict(), "\n".join(lines), report.exit_code


@click.command()
@STORE
@command
def compact(store: Path) -> Outcome:
    """Merge small shards and drop the rows of photos that are gone."""
    from dataclasses import asdict

    from streamer.config import format_bytes
    from streamer.upkeep import compact as compact_store

    with stopping() as should_stop, progress_bars(" shards") as progress:
        done = compact_store(store, progress=progress, should_stop=should_stop)
    text = (
        f"{done.shards_before} shards, {format_bytes(done.bytes_before)}, are now {done.shards_after}, "
        f"{format_bytes(done.bytes_after)}; {done.dropped_rows} dead rows dropped"
    )
    return asdict(done), text, ExitCode.DONE
