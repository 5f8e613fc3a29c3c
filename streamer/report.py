"""What people look at: the report of a run, contact sheets, and what a store says of itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from streamer.errors import ExitCode, IndexMissingError
from streamer.index import current_generation
from streamer.records import Hit
from streamer.store import Entry, Store

if TYPE_CHECKING:
    from streamer.images.canvas import Canvas

__all__ = [
    "KEYS_AS_PATHS",
    "Judged",
    "Report",
    "before_and_after_sheet",
    "cluster_sheet",
    "contact_sheet",
    "crossed_out",
    "grid_sheet",
    "remove_cluster_sheets",
    "store_info",
]

_SIDE = 144
_GAP = 8
_CAPTION = 34
_TEXT = 12
_MOST_HITS = 20
_INK, _FAINT, _PAPER, _ACCENT = (24, 24, 27), (113, 113, 122), (255, 255, 255), (37, 99, 235)
_RIGHT, _WRONG = (22, 101, 52), (185, 28, 28)
_STRIP = 18

KEYS_AS_PATHS = (
    "; the path of an image whose features were imported is its key: run the command in the folder that keys start from"
)
"""What to add where pictures are not found."""


_COUNTS = ("seen", "added", "updated", "moved", "removed", "unchanged", "failed")
_TIMES = ("total", "extract", "reduce", "index")


@dataclass
class Report:
    """What a run did. `to_dict` gives the form that ``--json`` prints and the store keeps.

    `remaining` counts the images that ``run.max_minutes`` left for the next run. `engine` and `device` are empty where
    nothing was to be extracted.
    """

    store: str
    memory_budget_bytes: int
    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_TIMES, 0.0))
    images_per_second: float = 0.0
    peak_rss_bytes: int = 0
    engine: str = ""
    device: str = ""
    generation: int = 0
    remaining: int = 0

    @property
    def exit_code(self) -> int:
        """0, or 3 when there are images that could not be read."""
        return ExitCode.SOME_UNREADABLE if self.images["failed"] else ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """Plain types, in the documented order of keys."""
        data = asdict(self)
        order = ("images", "seconds", "images_per_second", "peak_rss_bytes", "memory_budget_bytes")
        return {name: data[name] for name in (*order, "engine", "device", "store", "generation", "remaining")}


class _Answer(Protocol):
    @property
    def query(self) -> str: ...
    @property
    def hits(self) -> list[Hit]: ...
    @property
    def error(self) -> str | None: ...


class _Placed(Protocol):
    @property
    def entry(self) -> Entry: ...
    @property
    def score(self) -> float: ...


def contact_sheet(results: Sequence[_Answer], target: Path, captions: Sequence[str] = ()) -> int:
    """Draw one row for each query: the query, then its first 20 hits, with scores (or distances) and labels.

    Parameters
    ----------
    results : sequence of QueryResult
    target : Path
        A PNG file.
    captions : sequence of str
        What to write under each query; without them, "query".

    Returns
    -------
    int
        Pictures that are crossed out, as there is no file: see `crossed_out`.
    """
    from streamer.images.canvas import Canvas, thumbnail  # a run draws nothing and does without Pillow's fonts

    columns = 1 + min(_MOST_HITS, max((len(result.hits) for result in results), default=0))
    cell_width, cell_height = _SIDE + _GAP, _SIDE + _CAPTION + _GAP
    canvas = Canvas(2 * _GAP + columns * cell_width + _GAP, _GAP + len(results) * cell_height, _PAPER)
    for row, result in enumerate(results):
        y = _GAP + row * cell_height
        canvas.rectangle(_GAP - 3, y - 3, _SIDE + 6, _SIDE + 6, fill=_ACCENT)
        canvas.paste(thumbnail(result.query, _SIDE), _GAP, y)
        _caption(canvas, _GAP, y, captions[row] if captions else "query", Path(result.query).name)
        if result.error is not None:
            canvas.text(2 * _GAP + cell_width, y, f"cannot be read: {result.error}", size=_TEXT, colour=_INK)
        for place, hit in enumerate(result.hits[:_MOST_HITS], start=1):
            x = 2 * _GAP + place * cell_width
            canvas.paste(thumbnail(hit.path, _SIDE), x, y)
            score = f"{hit.score:.4f}" if hit.distance is None else f"distance {hit.distance:.3f}"
            _caption(canvas, x, y, score, hit.label or Path(hit.key).name)
    canvas.save(target)
    return _missing(each for result in results for each in (result.query, *_paths(result.hits[:_MOST_HITS])))


def grid_sheet(images: Sequence[_Placed], target: Path, columns: int = 6) -> int:
    """Draw pictures in rows, each with its score and label.

    Parameters
    ----------
    images : sequence
        Each has an `entry`, which image it is, and a `score`; such as `Neighbour`.
    target : Path
        A PNG file.
    columns : int

    Returns
    -------
    int
        Pictures that are crossed out, as there is no file: see `crossed_out`.
    """
    from streamer.images.canvas import Canvas, thumbnail

    cell_width, cell_height = _SIDE + _GAP, _SIDE + _CAPTION + _GAP
    rows = max(1, -(-len(images) // columns))
    canvas = Canvas(_GAP + columns * cell_width, _GAP + rows * cell_height, _PAPER)
    for place, each in enumerate(images):
        x, y = _GAP + place % columns * cell_width, _GAP + place // columns * cell_height
        canvas.paste(thumbnail(each.entry.path, _SIDE), x, y)
        _caption(canvas, x, y, f"{each.score:.4f}", each.entry.label or Path(each.entry.key).name)
    canvas.save(target)
    return _missing(each.entry.path for each in images)


def crossed_out(count: int) -> list[str]:
    """What to say of pictures on a sheet that have no file; nothing if there are none.

    Features that were imported come with keys alone: each is taken for the path of its picture.
    """
    if not count:
        return []
    return [f"{count} pictures are crossed out, as there is no such file{KEYS_AS_PATHS}"]


def _missing(paths: Iterable[str]) -> int:
    from streamer.images.places import is_there

    return sum(not is_there(path) for path in paths)


def _paths(hits: Sequence[Hit]) -> list[str]:
    return [hit.path for hit in hits]


def cluster_sheet(folder: Path, number: int) -> Path:
    """Where the picture of a cluster goes: ``cluster-00003.png``."""
    return folder / f"cluster-{number:05d}.png"


def remove_cluster_sheets(folder: Path, count: int) -> None:
    """Remove the pictures that a former run has left of clusters from number `count` on; nothing else."""
    for path in folder.glob("cluster-*.png"):
        number = path.stem.removeprefix("cluster-")
        if number.isdecimal() and path == cluster_sheet(folder, int(number)) and int(number) >= count:
            path.unlink()


@dataclass(frozen=True)
class Judged:
    """A picture, what it is, and what a head took it for before training and after: label and probability."""

    path: str
    label: str
    before: tuple[str, float]
    after: tuple[str, float]


def before_and_after_sheet(pictures: Sequence[Judged], target: Path, columns: int = 6) -> None:
    """Draw pictures with what they are, and below what each of two heads took them for.

    Parameters
    ----------
    pictures : sequence of Judged
    target : Path
        A PNG file.
    columns : int
    """
    from streamer.images.canvas import Canvas, thumbnail

    legend = 3 * _STRIP
    cell_width, cell_height = _SIDE + _GAP, _SIDE + 3 * _STRIP + 2 * _GAP
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    canvas = Canvas(_GAP + max(columns, 3) * cell_width, _GAP + legend + rows * cell_height, _PAPER)
    for line, which in enumerate(("before", "after")):
        right = sum(getattr(each, which)[0] == each.label for each in pictures)
        text = f"{which} training: {right} of {len(pictures)} right"
        canvas.text(_GAP, _GAP + line * _STRIP, text, size=_TEXT, colour=_INK)
    canvas.text(_GAP, _GAP + 2 * _STRIP, "green, +: right; red, x: wrong", size=_TEXT, colour=_FAINT)
    for place, each in enumerate(pictures):
        x, y = _GAP + place % columns * cell_width, _GAP + legend + place // columns * cell_height
        canvas.paste(thumbnail(each.path, _SIDE), x, y)
        y += _SIDE
        canvas.text(x, y + 2, each.label, size=_TEXT, colour=_INK, max_width=_SIDE)
        for which, (label, probability) in (("before", each.before), ("after", each.after)):
            y += _STRIP
            right = label == each.label
            canvas.rectangle(x, y, _SIDE, _STRIP - 1, fill=_RIGHT if right else _WRONG)
            said = f"{'+' if right else 'x'} {which} {probability:.0%} {label}"
            canvas.text(x + 3, y + 1, said, size=_TEXT, colour=_PAPER, max_width=_SIDE - 6)
    canvas.save(target)


def _caption(canvas: Canvas, x: int, y: int, first: str, second: str) -> None:
    canvas.text(x, y + _SIDE + 2, first, size=_TEXT, colour=_INK, max_width=_SIDE)
    canvas.text(x, y + _SIDE + 17, second, size=_TEXT, colour=_FAINT, max_width=_SIDE)


def store_info(store: Store) -> dict[str, Any]:
    """What a store holds, its published index and its last run: the object that ``streamer info --json`` prints.

    ``index_fault`` says why a published index cannot be used.
    """
    data = store.info()
    generation, data["index_fault"] = None, None
    try:
        generation = current_generation(store.path / "index")
    except IndexMissingError as error:
        data["index_fault"] = str(error)
    data["generation"] = generation.number if generation else 0
    data["index"] = None
    if generation:
        manifest = generation.manifest
        data["index"] = {"kind": manifest.kind, "rows": manifest.rows, "recall_at_10": manifest.recall_at_10}
    last = store.catalog.last_run(upkeep=False)
    data["last_run"] = None
    if last:
        data["last_run"] = {
            "command": last.command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last.started)),
            "exit_code": last.exit_code,
            "message": last.message,
        }
    return data
