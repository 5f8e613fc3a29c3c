"""The index of a store without a config: as the one that is there was made, or by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamer.config import Config
from streamer.errors import IndexMissingError
from streamer.index import Manifest, current_generation
from streamer.pipeline import run
from streamer.records import Progress
from streamer.report import Report
from streamer.store import Store

__all__ = ["index_imported"]

_PARTS = {"annoy": ("trees", "search_k"), "ivf": ("clusters", "probes")}


def index_imported(
    path: Path,
    *,
    progress: Progress = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Report | None:
    """Fit PCA and build the index where there is none, or where more has changed than searches should bear.

    Parameters
    ----------
    path : Path
        The store's folder.
    progress, should_stop : callable, optional

    Returns
    -------
    Report or None
        None if the store holds no images.

    Raises
    ------
    BudgetTooSmallError, StoreLockedError, Interrupted
        As `streamer.pipeline.run`.
    """
    with Store(path) as store:
        if not len(store):
            return None
        settings = store.catalog.settings()
    given: dict[str, Any] = {"store": path, "search": settings.get("search", {})}
    if "budget_bytes" in settings.get("extract", {}):
        given["memory"] = {"budget": settings["extract"]["budget_bytes"]}
    try:
        generation = current_generation(path / "index")
    except IndexMissingError:  # damaged: it is made anew
        generation = None
    if generation is not None:
        given |= _as_built(generation.manifest, given["search"])
    elif given["search"].get("metric") == "l2":  # which no other index knows
        given["index"] = {"kind": "exact"}
    return run(Config.model_validate(given), ("reduce", "index"), progress=progress, should_stop=should_stop)


def _as_built(built: Manifest, search: dict[str, Any]) -> dict[str, Any]:
    index: dict[str, Any] = {"kind": built.kind, "seed": built.seed}
    if built.kind not in _PARTS:
        return {"index": index}
    parts, effort = _PARTS[built.kind]
    return {
        "index": {**index, parts: built.parts_asked, effort: built.effort_asked},
        "reduce": {"components": built.components, "whiten": built.whiten},
        "search": {**search, "candidates": built.candidates, "recall": built.recall_asked},
    }
