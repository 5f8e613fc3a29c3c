"""The stage that stacks pictures for the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from streamer.records import Batch, Decoded, ImageRef, Known, Rejected

__all__ = ["batches"]

# A library that was only moved has no pictures for the network: its images must reach the store all the same.
_MOST_OTHERS = 256


def batches(decoded: Iterable[Decoded | Known | Rejected], batch_size: int, size: tuple[int, int]) -> Iterator[Batch]:
    """Stack pictures in the order they come; refused and known ones travel with the batch that was being filled.

    Parameters
    ----------
    decoded : iterable of Decoded, Known or Rejected
        Pixels of shape (height, width, 3), uint8.
    batch_size : int
        Pictures in a batch, at least 1.
    size : tuple of int
        (height, width) of every picture.

    Yields
    ------
    Batch
        `batch_size` pictures each, the last one what is left: perhaps none, when only others came after the last full
        batch. A batch is closed early when 256 others have come with it. An empty input gives no batch.

    Raises
    ------
    ValueError
        `batch_size` is below 1, or a picture has another shape.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    shape = (*size, 3)
    # A fresh array a batch: whoever got the last one may still hold it.
    pixels = np.empty((batch_size, *shape), np.uint8)
    refs: list[ImageRef] = []
    contents: list[bytes] = []
    rejected: list[Rejected] = []
    known: list[Known] = []
    copies: list[int] = []

    def batch() -> Batch:
        taken = pixels[: len(refs)]
        return Batch(tuple(refs), tuple(contents), taken, tuple(rejected), tuple(known), tuple(copies))

    for item in decoded:
        if isinstance(item, Rejected):
            rejected.append(item)
        elif isinstance(item, Known):
            known.append(item)
        else:
            _check(item, shape)
            pixels[len(refs)] = item.pixels
            refs.append(item.ref)
            contents.append(item.content)
            copies.append(item.copy)
        if len(refs) == batch_size or len(rejected) + len(known) == _MOST_OTHERS:
            yield batch()
            pixels = np.empty((batch_size, *shape), np.uint8)
            refs, contents, rejected, known, copies = [], [], [], [], []
    if refs or rejected or known:
        yield batch()


def _check(item: Decoded, shape: tuple[int, ...]) -> None:
    if item.pixels.shape != shape:  # NumPy would stretch (1, 1, 3) over the whole place without a word
        raise ValueError(f"{item.ref.key}: pixels of shape {item.pixels.shape} in a stream of {shape}")
