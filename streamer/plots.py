"""Plots of a training, with matplotlib (the extra `plots`), which is loaded only here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import EngineUnavailableError
from streamer.files import published

__all__ = ["confusion_plot", "learning_curve_plot"]

_INK, _ACCENT = "#18181b", "#2563eb"
# Names of more classes than this cannot be read beside the matrix, and numbers of more than that within.
_NAMED_CLASSES = 80
_NUMBERED_CLASSES = 20


def _figure(width: float, height: float) -> Any:
    """A figure of that size in inches, without pyplot and so without a window system."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EngineUnavailableError(
            f"no plots: matplotlib does not import here ({error}); install it with pip install 'streamer[plots]'"
        ) from error
    return Figure((width, height), layout="constrained")


def learning_curve_plot(points: Sequence[tuple[int, float, float | None]], best_epoch: int, target: Path) -> None:
    """Draw training loss and validation accuracy by epoch.

    Parameters
    ----------
    points : sequence of (epoch, loss, accuracy or None)
    best_epoch : int
        Marked.
    target : Path
        A PNG file.

    Raises
    ------
    EngineUnavailableError
        If matplotlib is not installed.
    """
    figure = _figure(7, 4)
    losses = figure.add_subplot()
    epochs = [epoch for epoch, _, _ in points]
    losses.plot(epochs, [loss for _, loss, _ in points], color=_INK, marker=".", label="training loss")
    losses.set_xlabel("epoch")
    losses.set_ylabel("training loss", color=_INK)
    losses.set_ylim(bottom=0)
    losses.xaxis.get_major_locator().set_params(integer=True)
    losses.axvline(best_epoch, color="grey", linestyle=":")
    measured = [(epoch, accuracy) for epoch, _, accuracy in points if accuracy is not None]
    if measured:
        accuracies = losses.twinx()
        accuracies.plot(*zip(*measured, strict=True), color=_ACCENT, marker=".", label="validation accuracy")
        accuracies.set_ylabel("validation accuracy", color=_ACCENT)
        accuracies.set_ylim(0, 1)
    losses.set_title(f"The head is that of epoch {best_epoch}")
    _save(figure, target)


def confusion_plot(confusion: NDArray[np.int64], classes: Sequence[str], target: Path) -> None:
    """Draw what images are against what they were taken for, as shares of each class.

    Parameters
    ----------
    confusion : ndarray of shape (classes, classes), int64
        Rows are what an image is.
    classes : sequence of str
    target : Path
        A PNG file.

    Raises
    ------
    EngineUnavailableError
        If matplotlib is not installed.
    """
    count = len(classes)
    side = min(16.0, 4 + 0.16 * count)
    figure = _figure(side, side)
    axes = figure.add_subplot()
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class", shrink=0.8)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    if count <= _NAMED_CLASSES:
        size = 9 if count <= _NUMBERED_CLASSES else 6
        # parse_math: a folder's name may hold dollar signs.
        axes.set_xticks(range(count), classes, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(count), classes, fontsize=size, parse_math=False)
    if count <= _NUMBERED_CLASSES:
        for row, column in np.argwhere(confusion):
            colour = "white" if shares[row, column] > 0.5 else _INK
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour)
    _save(figure, target)


def _save(figure: Any, target: Path) -> None:
    with published(target) as partial:
        figure.savefig(partial, format="png", dpi=120)
