"""A store opened for reading: shards and catalog under one roof."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StoreMissingError
from streamer.store.catalog import Catalog, Entry, Failure
from streamer.store.reader import ShardMissingError, ShardReader
from streamer.store.spec import FORMAT

__all__ = ["Store"]


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

    def map_at_most(self, n_bytes: int) -> None:
        """Set what may stay mapped of its shards, which makes reading single rows faster; see `ShardReader`."""
        self._reader.mapped_bytes = n_bytes

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
            "augmented": self.catalog.augmented_count(),
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
        return self.catalog.augmented_places()

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
