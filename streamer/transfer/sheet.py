"""A folder for people: the figures of a training, its plots, and the same test pictures before and after."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.errors import EngineUnavailableError
from streamer.files import replace_text
from streamer.images.places import is_there
from streamer.plots import confusion_plot, learning_curve_plot
from streamer.report import KEYS_AS_PATHS, Judged, before_and_after_sheet
from streamer.store import Store
from streamer.transfer.head import Head
from streamer.transfer.training import TrainingReport

__all__ = ["write_report"]

_PICTURES = 24


def write_report(report: TrainingReport, store: Store, folder: Path, head_path: Path) -> list[str]:
    """Write ``report.json``, ``before_and_after.png``, ``confusion.png`` and ``learning_curve.png``.

    Parameters
    ----------
    report : TrainingReport
    store : Store
        The one it was trained on.
    folder : Path
        Made when missing.
    head_path : Path
        Where the head was saved.

    Returns
    -------
    list of str
        What could not be drawn, and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    judged = _judged(report, store)
    readable = [each for each in judged if is_there(each.path)]
    if readable:
        before_and_after_sheet(readable, folder / "before_and_after.png")
    else:
        why = KEYS_AS_PATHS if store.spec.imported else ""
        notes.append(f"no before_and_after.png: the test pictures are not where they were{why}")
    try:
        learning_curve_plot(
            [(each.epoch, each.train_loss, each.validation_accuracy) for each in report.epochs],
            report.best_epoch,
            folder / "learning_curve.png",
        )
        if report.after.confusion is None:
            notes.append(f"no confusion.png: {len(report.head.classes)} classes are too many to draw")
        else:
            confusion_plot(report.after.confusion, report.head.classes, folder / "confusion.png")
    except EngineUnavailableError as error:
        notes.append(str(error))
    report.notes += notes
    replace_text(folder / "report.json", json.dumps(report.to_dict(str(head_path)), indent=1) + "\n")
    return notes


def _judged(report: TrainingReport, store: Store) -> list[Judged]:
    """A few test pictures, drawn by the seed, of as many classes as may be, and what both heads say of them."""
    places = _drawn(report.test_labels, report.split.seed)
    entries = store.entries(report.test_ids[places].tolist())
    labels = dict(zip(report.test_ids[places].tolist(), report.test_labels[places].tolist(), strict=True))
    ids, features = store.features_of(report.head.output, list(entries.values()))
    if not len(ids):
        return []
    features = features.reshape(-1, *report.head.shape)
    said = [_said(head, features) for head in (report.untrained, report.head)]
    return [
        Judged(entries[number].path, report.head.classes[labels[number]], *(each[row] for each in said))
        for row, number in enumerate(ids.tolist())
    ]


def _said(head: Head, features: NDArray[np.float32]) -> list[tuple[str, float]]:
    probabilities = head.probabilities(features)
    best = probabilities.argmax(axis=1)
    return [(head.classes[place], float(row[place])) for place, row in zip(best.tolist(), probabilities, strict=True)]


def _drawn(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Places of the pictures to show: the first of each class in a drawn order, then the second, and so on."""
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    nth = np.empty(len(labels), np.int64)
    seen: dict[int, int] = {}
    for place in order.tolist():
        label = int(labels[place])
        nth[place] = seen[label] = seen.get(label, -1) + 1
    return order[np.argsort(nth[order], kind="stable")][:_PICTURES]
