"""A store opened for reading: shards and catalog under one roof."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigError, StoreMissingError
from streamer.store.catalog import Catalog, Entry, Failure
from streamer.store.dataset import FeatureDataset
from streamer.store.examples import Examples, LabelLookup, labelled_examples
from streamer.store.frameworks import FRAMEWORKS, for_framework
from streamer.store.reader import ShardMissingError, ShardReader
from streamer.store.spec import FORMAT
from streamer.store.split import Split

__all__ = ["Store"]

# Of the memory budget, for rows read ahead in training; the rest is for the head and its framework.
_BUFFER_SHARE = 1 / 8


class Store:
    """A store opened for reading.

    Parameters
    ----------
    path : path-like
        The store's folder.

    Raises
    ------
    StoreMissingError
        If there is no store at `path`.
    StoreCorruptError
        If its catalog is damaged, or of a newer format.

    Examples
    --------
    >>> with Store("photos.store") as store:                         # doctest: +SKIP
    ...     for ids, features in store.blocks("block5_pool:gem", 1024):
    ...         print(ids.shape, features.shape)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / "catalog.sqlite").is_file():
            raise StoreMissingError(f"{self.path}: no store here; make one with 'streamer run CONFIG'")
        self.catalog = Catalog(self.path / "catalog.sqlite")
        self.spec = self.catalog.spec
        self._reader = ShardReader(self.path / "features", self.spec)
        self._reading = threading.RLock()  # datasets read from threads

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every file."""
        self._reader.close()
        self.catalog.close()

    def __len__(self) -> int:
        """Number of images that can be searched."""
        return self.catalog.count("images")

    def info(self) -> dict[str, Any]:
        """What the store holds, as ``streamer info --json`` prints it (without the index)."""
        dtype, compressions = self.spec.dtype, {sealed.compression for sealed in self.catalog.sealed().values()}
        return {
            "format": FORMAT,
            "images": len(self),
            "failed": self.catalog.count("failures"),
            "augmented": self.catalog.rows.augmented_count(),
            "shards": self.catalog.count("shards"),
            "bytes": sum(n_bytes for _, _, n_bytes in self.catalog.shards()),
            "outputs": {name: {"shape": list(shape), "dtype": dtype} for name, shape in self.spec.outputs.items()},
            "compression": "+".join(sorted(compressions)) or "none",
            "rounding": self.spec.rounding(),
            "backbone": self.spec.backbone,
            "weights": self.spec.weights,
            "fingerprint": self.spec.fingerprint,
        }

    def failures(self) -> Iterator[Failure]:
        """Images that could not be read, sorted by key."""
        return self.catalog.failures()

    def entries(self, ids: Sequence[int]) -> dict[int, Entry]:
        """The live images with these ids."""
        return self.catalog.entries(ids)

    def images(self) -> NDArray[np.int64]:
        """Id, shard and row of every live image: shape (n, 3), int64, by id. 24 bytes an image."""
        blocks = [np.stack(block, axis=1) for block in self.catalog.places(iter(lambda: 10_000, None))]
        return np.concatenate([np.empty((0, 3), np.int64), *blocks])

    def ids(self) -> NDArray[np.int64]:
        """Id of every live image: shape (n,), int64, ascending. 8 bytes an image."""
        blocks = [ids.copy() for ids, _, _ in self.catalog.places(iter(lambda: 10_000, None))]
        return np.concatenate([np.empty(0, np.int64), *blocks])

    def locate(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Id, shard and row of the live images with these ids: shape (<= n, 3), int64, by id."""
        return self.catalog.locate(ids)

    def shard_numbers(self) -> list[int]:
        """Every shard that is live; a number is never given to another."""
        return [number for number, *_ in self.catalog.shards()]

    def rows(self, output: str, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features at these places, flattened: shape (n, d), float32, whatever they are stored as."""
        return self._reader.rows(output, shards, rows).reshape(len(rows), self.feature_length(output))

    def augmented_places(self) -> Iterator[tuple[bytes, int, int, int]]:
        """``(content, copy, shard, row)`` of every live augmented row; see `Catalog.augmented_places`."""
        return self.catalog.rows.augmented_places()

    def feature_length(self, output: str) -> int:
        """Length d of one image's feature when flattened."""
        return int(np.prod(self.spec.outputs[output]))

    def blocks(
        self, output: str, block_rows: int | Iterable[int], newer_than: int = 0
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """All live rows, in the order of their ids, a block at a time.

        Parameters
        ----------
        output : str
            Name of the output, such as ``"block5_pool:gem"``.
        block_rows : int or iterable of int
            Rows in every block, or in each.
        newer_than : int
            Only images with a higher id.

        Yields
        ------
        ids : ndarray of shape (block,), int64
            Ids of the images.
        features : ndarray of shape (block, d), float32
            Their features, flattened.
        """
        if output not in self.spec.outputs:
            raise KeyError(f"{self.path}: no output {output!r}; there are: {', '.join(self.spec.outputs)}")
        sizes = iter(lambda: block_rows, None) if isinstance(block_rows, int) else block_rows
        for ids, shards, rows in self.catalog.places(sizes, newer_than):
            try:
                yield ids, self.rows(output, shards, rows)
            except ShardMissingError:  # compact has just moved them
                entries = self.entries(ids.tolist())
                yield self.features_of(output, [entries[number] for number in ids.tolist() if number in entries])

    def features_of(self, output: str, entries: Sequence[Entry]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids of these images, shape (n,), int64, and their features, shape (n, d), float32."""
        places = np.array([(entry.id, entry.shard, entry.row) for entry in entries], dtype=np.int64).reshape(-1, 3)
        return places[:, 0], self.rows(output, places[:, 1], places[:, 2])

    def dataset(
        self,
        output: str | None = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        split: str | None = None,
        seed: int = 0,
        framework: str = "keras",
        sides: Split | None = None,
        augmented: bool | None = None,
        labels: LabelLookup | None = None,
        buffer_bytes: int | None = None,
    ) -> Any:
        """The labelled images in batches, to train a head on. Keep the store open meanwhile.

        Rows are read in windows: pieces of shards in a shuffled order, each read once an epoch, and shuffled among
        themselves. The same store, seed and epoch give the same batches.

        Parameters
        ----------
        output : str, optional
            Name of the output; the first by default.
        batch_size : int
            Images in a batch; the last of an epoch may have fewer.
        shuffle : bool
            Whether each epoch has an order of its own; otherwise images come by id.
        split : {None, "train", "validation", "test"}
            Which images; None is all.
        seed : int
            Of the order.
        framework : {"keras", "numpy", "tf"}
            What to make: a `keras.utils.PyDataset` (call ``fit(..., shuffle=False)``: it is shuffled already), a
            `FeatureDataset`, which is iterated anew for each epoch, or a `tf.data.Dataset`.
        sides : Split, optional
            What tells train, validation and test; `Split()` by default.
        augmented : bool, optional
            Whether augmented copies of the images are among the rows; by default with ``split="train"`` only.
        labels : mapping of str to str, optional
            Labels by key in the place of the stored ones, as `streamer.images.read_labels` reads them.
        buffer_bytes : int, optional
            What may be held of the features beside the batches; by default an eighth of the memory budget of the last
            run.

        Returns
        -------
        keras.utils.PyDataset, FeatureDataset or tf.data.Dataset
            Of ``(features, labels)``: float32 of shape (b, ...) and int64 of shape (b,); a label is a place in its
            `classes`, the sorted names. `ids` and `labels`, int64 of shape (n,), are those of all its images, by id.

        Raises
        ------
        ConfigError
            If there is no such output.
        EngineUnavailableError
            If the framework is not installed.
        StreamerError
            If no image has a label.
        ValueError
            If an argument is none of those above.

        Examples
        --------
        >>> train = store.dataset(split="train")                         # doctest: +SKIP
        >>> head.fit(train, epochs=10, shuffle=False)                    # doctest: +SKIP
        """
        output = self.spec.indexed if output is None else output
        if output not in self.spec.outputs:
            raise ConfigError(f"{self.path}: no output {output!r}; there are: {', '.join(self.spec.outputs)}")
        if framework not in FRAMEWORKS:
            raise ValueError(f"framework={framework!r} is not one of {', '.join(map(repr, FRAMEWORKS))}")
        if batch_size < 1 or seed < 0:
            raise ValueError(f"batch_size={batch_size} must be 1 or more, and seed={seed} 0 or more")
        if buffer_bytes is None:
            budget = self.catalog.settings().get("extract", {}).get("budget_bytes", 2**30)
            buffer_bytes = int(_BUFFER_SHARE * budget)
        dataset = self.batches_of(
            labelled_examples(self.catalog, split, sides, labels, augmented=augmented),
            output,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            buffer_bytes=buffer_bytes,
        )
        return for_framework(dataset, framework)

    def batches_of(
        self, examples: Examples, output: str, *, batch_size: int, shuffle: bool, seed: int, buffer_bytes: int
    ) -> FeatureDataset:
        """Batches of images that were looked up before, for several datasets at once: see `dataset`."""
        return FeatureDataset(
            self.catalog,
            self._reader,
            self._reading,
            examples,
            output,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            buffer_bytes=buffer_bytes,
        )
