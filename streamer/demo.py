"""The first run: pictures drawn on the spot, or the user's own, through the whole pipeline."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from streamer.config import load_config
from streamer.errors import StreamerError
from streamer.files import replace_text
from streamer.images.drawn import draw_pictures
from streamer.images.sources import FolderSource
from streamer.pipeline import run
from streamer.records import ImageRef, Progress
from streamer.report import Report, contact_sheet
from streamer.searcher import Searcher

__all__ = ["DemoOutcome", "run_demo"]

_QUERIES = 6
_K = 6
_PER_CLASS = 30
_SIDE = 160
_SEED = 7


@dataclass(frozen=True)
class DemoOutcome:
    """Where everything is."""

    pictures: Path
    config: Path
    store: Path
    sheet: Path
    query: str
    report: Report

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        places = {name: str(getattr(self, name)) for name in ("pictures", "config", "store", "sheet")}
        return {**places, "report": self.report.to_dict()}

    def next_steps(self) -> str:
        """What there is to look at, and what to type next."""
        streamer = "streamer" if shutil.which("streamer") else f"{_typed(sys.executable)} -m streamer"
        store, query, config = _typed(self.store), _typed(self.query), _typed(self.config)
        return "\n".join(
            (
                "",
                f"{self.report.images['seen']} pictures in {self.report.seconds['total']:.0f} s: {self.pictures}",
                f"look at what was found: {self.sheet}",
                f"features and index:     {self.store}",
                f"the config:             {self.config}",
                "",
                "To go on:",
                f"    {streamer} search {store} {query} --sheet hits.png",
                f"    {streamer} run {config}        (again: extracts nothing, as nothing has changed)",
                f"    {streamer} info {store}",
                f"    {streamer} weights fetch vgg16        (the whole network: it finds more and takes longer;",
                "        then 'name: vgg16' and a new 'store:' in a copy of the config)",
            )
        )


def _typed(path: str | Path) -> str:
    """A path as it is typed in a shell."""
    return subprocess.list2cmdline([str(path)]) if sys.platform == "win32" else shlex.quote(str(path))


def run_demo(
    folder: Path | None,
    output: Path,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> DemoOutcome:
    """Index a folder and search it.

    Parameters
    ----------
    folder : Path or None
        Photos; None draws a small labelled set.
    output : Path
        Gets the pictures, the config, the store and the contact sheet.
    progress, should_stop
        As for `streamer.pipeline.run`.
    """
    output.mkdir(parents=True, exist_ok=True)
    pictures = output / "pictures" if folder is None else folder
    if folder is None:
        draw_pictures(pictures, classes=None, per_class=_PER_CLASS, side=_SIDE, seed=_SEED)
    settings = {
        "store": "photos.store",
        "source": {"folder": str(pictures.absolute())},
        "backbone": {"name": "vgg16_compact"},
    }
    config = output / "demo.yaml"
    replace_text(
        config, "# Written by 'streamer demo'. Every key: see README.md.\n" + yaml.safe_dump(settings, sort_keys=False)
    )
    report = run(load_config(config), progress=progress, should_stop=should_stop)
    store, sheet = output / "photos.store", output / "contact_sheet.png"
    queries = _queries(pictures)
    if not queries:
        raise StreamerError(f"{pictures}: no picture in it could be read; name a folder with photos")
    with Searcher(store) as searcher:
        contact_sheet(searcher.search(queries, _K), sheet)
    return DemoOutcome(pictures, config, store, sheet, queries[0], report)


def _queries(folder: Path) -> list[str]:
    """One picture of each of the first labels; of a folder without labels, the first pictures."""
    by_label: dict[str, str] = {}
    first: list[str] = []
    for item in FolderSource(folder):
        if isinstance(item, ImageRef):
            by_label.setdefault(item.label, item.path)
            first = [*first, item.path][:_QUERIES]
    labelled = list(by_label.values())
    step = max(1, len(labelled) // _QUERIES)
    return labelled[::step][:_QUERIES] if len(labelled) > 1 else first
