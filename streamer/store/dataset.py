"""Features and labels of a store in shuffled batches, for training: read in windows, whatever the store's size."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StoreCorruptError, StreamerError
from streamer.store.catalog import Catalog
from streamer.store.examples import Examples
from streamer.store.order import EpochOrder
from streamer.store.reader import ShardMissingError, ShardReader
from streamer.store.shard import chunk_rows

__all__ = ["FeatureDataset"]

# A batch may begin in one window and end in the next.
_WINDOWS = 2
_MOST_COPIES = 2**10
# Of an image that is gone: no shard has that number.
_GONE = 0


class FeatureDataset:
    """Batches of features and labels, as `Store.dataset` gives them.

    Iterating it is an epoch, and each has an order of its own: the first time epoch 0, then 1. Batches can also be had
    by number, ``dataset[i]``, from several threads; they are those of the present epoch, until `on_epoch_end`. Numbers
    in turn are cheap; each jump reads a window.

    An image that is removed meanwhile stays until `compact` gives its space back; then its batch has one less, and the
    epochs after do without it.

    Parameters
    ----------
    catalog : Catalog
    reader : ShardReader
    reading : lock
        Held while these two are used: other threads may read from the same store.
    examples : Examples
        The images.
    output : str
    batch_size : int
    shuffle : bool
        False: by id, in each epoch.
    seed : int
    buffer_bytes : int
        What the windows may hold together; a window holds one row at least.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes, sorted; a label is a place in it.
    ids, copies, labels : ndarray of shape (n,), int64
        Of each row, in the order of an epoch that is not shuffled; `copies` is 0 for an image itself, and the number of
        an augmented copy for others.
    shape : tuple of int
        Of one image's feature.
    epoch : int
        The present one, from 0.
    """

    def __init__(
        self,
        catalog: Catalog,
        reader: ShardReader,
        reading: threading.RLock,
        examples: Examples,
        output: str,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        buffer_bytes: int,
    ) -> None:
        self.output = output
        self.batch_size = batch_size
        self.shape = catalog.spec.outputs[output]
        self.epoch = 0
        self._catalog = catalog
        self._reader = reader
        self._reading = reading
        self._examples = examples
        self._shuffle = shuffle
        self._seed = seed
        self._row_bytes = 4 * int(np.prod(self.shape))
        self._window_rows = max(1, buffer_bytes // _WINDOWS // self._row_bytes)
        self._order: EpochOrder | None = None
        self._windows: OrderedDict[tuple[int, int], _Window] = OrderedDict()

    @property
    def classes(self) -> tuple[str, ...]:
        return self._examples.classes

    @property
    def ids(self) -> NDArray[np.int64]:
        return self._examples.ids

    @property
    def copies(self) -> NDArray[np.int64]:
        return self._examples.copies

    @property
    def labels(self) -> NDArray[np.int64]:
        return self._examples.labels

    def __len__(self) -> int:
        """Number of batches in an epoch; the last may be smaller."""
        return self._batches_of(self._present())

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Batch `index` of the present epoch.

        Returns
        -------
        features : ndarray of shape (b, ...), float32
        labels : ndarray of shape (b,), int64

        Raises
        ------
        IndexError
            If there is no such batch.
        StoreCorruptError
            If a shard cannot be read, or a feature is not a finite number.
        StreamerError
            If all its images are gone.
        """
        order = self._present()
        if not 0 <= index < self._batches_of(order):
            raise IndexError(f"there is no batch {index}: there are {self._batches_of(order)}")
        features, labels = self._batch(order, index)
        if not len(labels):
            raise StreamerError(
                f"{self._catalog.path.parent}: all images of batch {index} have been removed from the store since the "
                "dataset was made; make it anew"
            )
        return features, labels

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """One epoch: ``(features, labels)`` of each batch, as `__getitem__` gives them."""
        order = self._present()
        self.on_epoch_end()
        for index in range(self._batches_of(order)):
            features, labels = self._batch(order, index)
            if len(labels):
                yield features, labels

    def on_epoch_end(self) -> None:
        """Go on to the next epoch, which has another order."""
        with self._reading:
            self.epoch += 1
            self._order = None

    def batch_ids(self, index: int) -> NDArray[np.int64]:
        """Ids of the images of batch `index` in the present epoch: shape (b,), int64."""
        start = index * self.batch_size
        return self.ids[self._present().images[start : start + self.batch_size]]

    def _batches_of(self, order: EpochOrder) -> int:
        return math.ceil(len(order.images) / self.batch_size)

    def _present(self) -> EpochOrder:
        """The order of the present epoch."""
        with self._reading:
            if self._order is None:
                self._order = self._order_of(self.epoch)
            return self._order

    def _order_of(self, epoch: int) -> EpochOrder:
        there = np.flatnonzero(self._examples.shards != _GONE)
        if not self._shuffle:
            return EpochOrder.plain(there, epoch, self._window_rows)
        return EpochOrder.shuffled(
            there,
            self._examples.shards[there],
            self._examples.rows[there],
            row_bytes=self._row_bytes,
            chunk_rows=chunk_rows(self.shape, self._catalog.spec.dtype),
            window_rows=self._window_rows,
            seed=self._seed,
            epoch=epoch,
        )

    def _batch(self, order: EpochOrder, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        start = index * self.batch_size
        stop = min(start + self.batch_size, len(order.images))
        parts, taken, finite = [], [], True
        with self._reading:
            window = int(np.searchsorted(order.starts, start, side="right")) - 1
            while start < stop:
                begin, end = int(order.starts[window]), min(stop, int(order.starts[window + 1]))
                held = self._window(order, window)
                places = held.places[start - begin : end - begin]
                there = places >= 0
                parts.append(np.take(held.buffer, places[there], axis=0))
                taken.append(order.images[start:end][there])
                finite &= held.finite
                start, window = end, window + 1
        features = parts[0] if len(parts) == 1 else np.concatenate(parts)
        images = taken[0] if len(taken) == 1 else np.concatenate(taken)
        if not finite:
            self._require_finite(features, images)
        return features, self.labels[images]

    def _window(self, order: EpochOrder, window: int) -> _Window:
        key = (order.epoch, window)
        if key in self._windows:
            return self._windows[key]
        if len(self._windows) < _WINDOWS:
            buffer = np.empty((min(self._window_rows, len(self._examples)), *self.shape), np.float32)
        else:  # fresh memory would have to be cleared by the system first
            buffer = self._windows.popitem(last=False)[1].buffer
        self._windows[key] = loaded = self._load(order.window(window), buffer)
        if window + 2 < len(order.starts):
            with contextlib.suppress(StoreCorruptError):  # said when it is read
                for shard, rows, _ in self._parts(order.window(window + 1))[1]:
                    self._reader.expect_in_order(self.output, shard, rows)
        return loaded

    def _parts(self, images: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[tuple[int, NDArray[np.int64], slice]]]:
        """Order these images by their places, without those that are gone; and for each shard, which rows of it."""
        examples = self._examples
        by_place = np.lexsort((examples.rows[images], examples.shards[images]))
        by_place = by_place[examples.shards[images[by_place]] != _GONE]
        shards, rows = examples.shards[images[by_place]], examples.rows[images[by_place]]
        numbers = np.unique(shards)
        bounds = zip(np.searchsorted(shards, numbers), np.searchsorted(shards, numbers, side="right"), strict=True)
        parts = [slice(start, stop) for start, stop in bounds]
        return by_place, [(int(shards[part.start]), rows[part], part) for part in parts]

    def _load(self, images: NDArray[np.int64], buffer: NDArray[np.float32]) -> _Window:
        """Read the rows of a window in the order in which they lie on the disk."""
        while True:
            by_place, parts = self._parts(images)
            try:
                for shard, rows, part in parts:
                    self._reader.read_in_order(self.output, shard, rows, buffer[part])
            except ShardMissingError:  # compact may have just moved them
                if not self._look_up_again(images):
                    raise
                continue
            places = np.full(len(images), -1)
            places[by_place] = np.arange(len(by_place))
            return _Window(buffer, places, _finite(buffer[: len(by_place)]))

    def _look_up_again(self, images: NDArray[np.int64]) -> bool:
        """Find where these images are now; whether that is elsewhere."""
        examples = self._examples
        before = np.stack([examples.shards[images], examples.rows[images]])
        ids, copies, shards, rows = self._catalog.rows.locate(np.unique(examples.ids[images])).T
        found, wanted = _one_number(ids, copies), _one_number(examples.ids[images], examples.copies[images])
        there = np.isin(wanted, found)
        places = np.searchsorted(found, wanted[there])
        examples.shards[images] = _GONE
        examples.shards[images[there]], examples.rows[images[there]] = shards[places], rows[places]
        return bool((np.stack([examples.shards[images], examples.rows[images]]) != before).any())

    def _require_finite(self, features: NDArray[np.float32], images: NDArray[np.int64]) -> None:
        wrong = ~np.isfinite(features.reshape(len(features), -1)).all(axis=1)
        if wrong.any():
            number = int(self.ids[images[np.argmax(wrong)]])
            with self._reading:
                key = self._catalog.names([number]).get(number, (f"image {number}",))[0]
            raise StoreCorruptError(
                f"{self._catalog.path.parent}: {self.output} of {key!r} holds values that are no finite numbers, and "
                "no head can be trained on them; remove the image from the source, or import its features anew"
            )


@dataclass(frozen=True)
class _Window:
    """Rows in memory, in the order in which they were read.

    Attributes
    ----------
    buffer : ndarray of shape (at least n, ...), float32
    places : ndarray of shape (n,), int64
        ``buffer[places[i]]`` belongs to the i-th image of the window; -1 where it is gone.
    finite : bool
        Whether all values are known to be finite numbers.
    """

    buffer: NDArray[np.float32]
    places: NDArray[np.int64]
    finite: bool


def _one_number(ids: NDArray[np.int64], copies: NDArray[np.int64]) -> NDArray[np.int64]:
    """What tells a row of an image from all others, and sorts as the two do."""
    return ids * _MOST_COPIES + copies


def _finite(rows: NDArray[np.float32]) -> bool:
    """Whether the sum is a finite number: then all are, and no array of truths has been made."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(rows.sum()))
