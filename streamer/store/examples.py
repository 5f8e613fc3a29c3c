"""What there is to train on: the labelled images of a store, as arrays of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StreamerError
from streamer.store.catalog import Catalog
from streamer.store.split import SIDES, Split

__all__ = ["Examples", "LabelLookup", "labelled_examples"]

_BLOCK_ROWS = 10_000


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
    split = split or Split()
    names: dict[str, int] = {}
    blocks: list[NDArray[np.int64]] = []
    hashes: list[NDArray[np.uint64]] = []
    for block in catalog.rows.examples(_BLOCK_ROWS):
        kept, kept_hashes = [], []
        for number, copy, shard, row, key, label, content in block:
            name = label if labels is None else labels.get(key, "")
            if name and (augmented or not copy):
                kept.append((number, copy, shard, row, names.setdefault(name, len(names))))
                kept_hashes.append(0 if side is None else split.hash(content))
        blocks.append(np.array(kept, dtype=np.int64).reshape(-1, 5))
        hashes.append(np.array(kept_hashes, dtype=np.uint64))
    if not names:
        raise StreamerError(
            f"{catalog.path.parent}: none of its {catalog.count('images')} images has a label. A label is the name of "
            "the image's folder, or comes from a CSV file: set 'labels: FILE.csv' in the config and run again"
        )
    ids, copies, shards, rows, firsts = np.concatenate(blocks).T.copy()
    classes = tuple(sorted(names))
    places = {name: place for place, name in enumerate(classes)}
    classes_of = np.array([places[name] for name in names], dtype=np.int64)[firsts]
    wanted = slice(None) if side is None else split.sides(np.concatenate(hashes), classes_of) == SIDES.index(side)
    return Examples(classes, ids[wanted], copies[wanted], shards[wanted], rows[wanted], classes_of[wanted])
