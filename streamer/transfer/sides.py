"""Whether the sides of a split are enough to train and to test on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StreamerError
from streamer.store import Examples, Split, Store
from streamer.tables import first_few

__all__ = ["require_enough", "split_notes"]

_LOG = logging.getLogger(__name__)

_FEWEST_TEST_ROWS = 2


def require_enough(store: Store, examples: Mapping[str, Examples], split: Split) -> None:
    """Refuse a split that leaves nothing to train on, or to test on.

    Parameters
    ----------
    store : Store
    examples : mapping of str to Examples
        By side.
    split : Split

    Raises
    ------
    StreamerError
    """
    tested = len(examples["test"])
    if tested < _FEWEST_TEST_ROWS:
        labels = np.concatenate([each.labels[each.copies == 0] for each in examples.values()])
        raise StreamerError(
            f"{store.path}: of {len(labels)} labelled images {tested} fall to the test, and {_FEWEST_TEST_ROWS} are "
            f"the least that say anything; {_more_to_test(np.bincount(labels), split)}"
        )
    if not len(examples["train"]):
        raise StreamerError(
            f"{store.path}: all labelled images fall to the test or to validation, as images of the same bytes bear "
            "labels of several classes; give each of them one label, or smaller shares"
        )


def _more_to_test(images: NDArray[np.int64], split: Split) -> str:
    """What to do, by the number of images of each class."""
    if not split.test:
        return "give a --test-share above 0"
    single = int((images == 1).sum())
    if single == len(images):
        return (
            f"each of the {single} classes has a single image, which is trained on: no --test-share changes that; "
            "label another image of each class"
        )
    if single:
        return (
            f"{single} of the {len(images)} classes have a single image, which is trained on; label another of each, "
            "or give a larger --test-share"
        )
    return "label more images, or give a larger --test-share"


def split_notes(classes: Sequence[str], counts: Mapping[str, NDArray[np.int64]]) -> list[str]:
    """What of the split weakens the figures; it is warned of, too.

    Parameters
    ----------
    classes : sequence of str
    counts : mapping of str to ndarray of shape (classes,), int64
        Rows of each class, by side.

    Returns
    -------
    list of str
    """
    notes = []
    untested = np.flatnonzero(counts["test"] == 0)
    if len(untested):
        named = first_few([classes[place] for place in untested[:3]], len(untested))
        notes.append(
            f"{len(untested)} classes have no picture to test on, as a class with a single one is only trained on; "
            f"they are left out of the averages: {named}"
        )
    if not counts["validation"].sum():
        notes.append("no images to validate on: all epochs were run, and the last counts")
    for note in notes:
        _LOG.warning("%s", note)
    return notes
