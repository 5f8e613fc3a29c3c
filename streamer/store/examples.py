"""What there is to train on: the labelled images of a store, as arrays of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StreamerError
from streamer.store.catalog import Catalog
from streamer.store.split import SIDES, Split

__all__ = ["Examples", "LabelLookup", "examples_by_side", "labelled_examples"]

_BLOCK_ROWS = 10_000

LabelOf = Callable[[str, str], str]
"""Gives the label of an image by its key and the label in the catalog; ``""`` where it is to be left out."""


class LabelLookup(Protocol):
    """Labels by key, from elsewhere than the store: a dict, or what `streamer.images.read_labels` gives."""

    def get(self, key: str, default: str, /) -> str:
        """The label of a key; `default` where it has none."""


@dataclass(frozen=True)
class Examples:
    """n rows of labelled images and their places: 40 bytes each, by id and copy.

    Attributes
    ----------
    classes : tuple of str
        Names of all classes of the store, sorted, whichever of them the n images are of.
    ids : ndarray of shape (n,), int64
    copies : ndarray of shape (n,), int64
        0 for an image itself, the number of an augmented copy for others.
    shards, rows : ndarray of shape (n,), int64
        Where their features are. Changed in place when `compact` has moved them.
    labels : ndarray of shape (n,), int64
        Places in `classes`.
    """

    classes: tuple[str, ...]
    ids: NDArray[np.int64]
    copies: NDArray[np.int64]
    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, wanted: NDArray[np.bool_]) -> Examples:
        """Some of the rows, in arrays of their own."""
        each = (self.ids, self.copies, self.shards, self.rows, self.labels)
        return Examples(self.classes, *(values[wanted] for values in each))


def labelled_examples(
    catalog: Catalog,
    side: str | None = None,
    split: Split | None = None,
    labels: LabelLookup | None = None,
    *,
    augmented: bool | None = None,
) -> Examples:
    """Look up the labelled images of a store.

    Parameters
    ----------
    catalog : Catalog
    side : {None, "train", "validation", "test"}
        Which images; None is all.
    split : Split, optional
        What tells the sides; `Split()` by default.
    labels : LabelLookup, optional
        In the place of the labels in the catalog.
    augmented : bool, optional
        Whether the augmented copies of the images are among them; by default for ``"train"`` only.

    Returns
    -------
    Examples
        Those with a label other than ``""``.

    Raises
    ------
    ValueError
        If `side` is none of these, or copies are asked for to validate or test on.
    StreamerError
        If no image has a label.
    """
    if side is not None and side not in SIDES:
        raise ValueError(f"split={side!r} is not one of {', '.join(map(repr, SIDES))}, or None for all")
    augmented = side == "train" if augmented is None else augmented
    if augmented and side not in (None, "train"):
        raise ValueError(
            f"augmented=True with split={side!r}: copies are to train on; the others are to be real images"
        )
    label_of: LabelOf = (lambda _, stored: stored) if labels is None else (lambda key, _: labels.get(key, ""))
    examples, sides = _looked_up(catalog, label_of, None if side is None else split or Split())
    if not examples.classes:
        raise StreamerError(
            f"{catalog.path.parent}: none of its {catalog.count('images')} images has a label. A label is the name of "
            "the image's folder, or comes from a CSV file: set 'labels: FILE.csv' in the config and run again"
        )
    wanted = np.ones(len(examples), bool) if augmented else examples.copies == 0
    if side is not None:
        wanted &= sides == SIDES.index(side)
    return examples.of(wanted)


def examples_by_side(catalog: Catalog, label_of: LabelOf, split: Split) -> dict[str, Examples]:
    """Look up the labelled images of a store once, for all sides of a split.

    Parameters
    ----------
    catalog : Catalog
    label_of : callable
        Asked once for each image, in the order of their ids.
    split : Split

    Returns
    -------
    dict of str to Examples
        By the names in `SIDES`; all have the same classes, none if no image has a label. Augmented copies are on the
        training side only.
    """
    examples, sides = _looked_up(catalog, label_of, split)
    images = examples.copies == 0
    return {name: examples.of((sides == number) & (images | (name == "train"))) for number, name in enumerate(SIDES)}


def _looked_up(catalog: Catalog, label_of: LabelOf, split: Split | None) -> tuple[Examples, NDArray[np.int8]]:
    """All rows that have a label, and the side of each; without a split, all are on the first."""
    names: dict[str, int] = {}
    blocks = [np.empty((0, 5), dtype=np.int64)]
    hashes = [np.empty(0, dtype=np.uint64)]
    for block in catalog.rows.examples(_BLOCK_ROWS):
        kept, kept_hashes = [], []
        image, name, content_hash = 0, "", 0
        for number, copy, shard, row, key, label, content in block:
            if number != image:  # its copies follow it, in the same block
                image, name = number, label_of(key, label)
                content_hash = split.hash(content) if split is not None else 0
            if name:
                kept.append((number, copy, shard, row, names.setdefault(name, len(names))))
                kept_hashes.append(content_hash)
        blocks.append(np.array(kept, dtype=np.int64).reshape(-1, 5))
        hashes.append(np.array(kept_hashes, dtype=np.uint64))
    ids, copies, shards, rows, firsts = np.concatenate(blocks).T.copy()
    classes = tuple(sorted(names))
    places = {name: place for place, name in enumerate(classes)}
    labels = np.array([places[name] for name in names], dtype=np.int64)[firsts]
    sides = np.zeros(len(ids), np.int8) if split is None else split.sides(np.concatenate(hashes), labels)
    return Examples(classes, ids, copies, shards, rows, labels), sides
