"""The map of the library: where each photo lies on the plane along which the photos differ most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.errors import IndexMissingError
from streamer.index import current_generation
from streamer.reduction import Plane, Reducer, fit_plane, plane_of
from streamer.store import CatalogPhotos, ShardMissingError, Store

__all__ = ["NO_LABEL", "LibraryMap", "draw_map"]

NO_LABEL = 65535
"""Number of a point's label where it has none, or none of those that are listed."""

_MOST_POINTS = 50_000
_BLOCK_BYTES = 8 * 2**20
_SEED = 0
_ID_RANGE = 2**32


@dataclass(frozen=True)
class LibraryMap:
    """The map, as it is sent.

    Attributes
    ----------
    data : bytes
        Little-endian: uint32 n, uint32 number of labels; then n uint32 ids, less `ids_from`; n float32 x, n float32 y,
        in [-1, 1]; n uint16 numbers of labels, `NO_LABEL` for none.
    ids_from : int
        What is to be added to the ids. 0 but for a store whose catalog was made anew, which goes on at large ids.
    images : int
        In the library; the points are a sample of them where there are more than 50,000.
    """

    data: bytes
    ids_from: int
    images: int


def draw_map(path: Path, labels: Sequence[str]) -> LibraryMap:
    """Make the map of a store. Memory: a block of rows, and 40 bytes for each photo.

    Parameters
    ----------
    path : Path
        The store's folder.
    labels : sequence of str
        That points are numbered by.
    """
    with Store(path) as store:
        ids = store.ids()
        images = len(ids)
        if images > _MOST_POINTS:
            chosen = np.random.default_rng(_SEED).choice(images, _MOST_POINTS, replace=False)
            ids = ids[np.sort(chosen)]
        plane = _plane(store, path, ids)
        numbers = {label: number for number, label in enumerate(labels)}
        photos = CatalogPhotos(store.catalog)
        kept, points, label_numbers = [], [], []
        for block, rows in _blocks(store, ids):
            kept.append(block)
            points.append(plane.project(rows))
            named = photos.labels_of(block.tolist())
            of_block = [numbers.get(named.get(number, ""), NO_LABEL) for number in block.tolist()]
            label_numbers.append(np.array(of_block, dtype="<u2"))
    placed = np.concatenate([np.empty((0, 2), np.float32), *points])
    ids = np.concatenate([np.empty(0, np.int64), *kept])
    ids_from = int(ids.min()) if len(ids) and ids.max() >= _ID_RANGE else 0
    data = b"".join(
        [
            np.array([len(ids), len(labels)], dtype="<u4").tobytes(),
            (ids - ids_from).astype("<u4").tobytes(),
            *(_scaled(placed[:, axis]).astype("<f4").tobytes() for axis in (0, 1)),
            *(each.tobytes() for each in label_numbers),
        ]
    )
    return LibraryMap(data, ids_from, images)


def _plane(store: Store, path: Path, ids: NDArray[np.int64]) -> Plane:
    try:
        generation = current_generation(path / "index")
        if generation is not None and generation.manifest.dimension:
            return plane_of(Reducer.load(generation.path / "reducer.npz"))
    except (IndexMissingError, FileNotFoundError):
        pass  # a map needs no index
    length = store.feature_length(store.spec.indexed)
    return fit_plane(lambda: (rows for _, rows in _blocks(store, ids)), length)


def _blocks(store: Store, ids: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Ids and features of these photos, a block at a time; those that are gone are left out."""
    output = store.spec.indexed
    step = max(1, _BLOCK_BYTES // (4 * store.feature_length(output)))
    for start in range(0, len(ids), step):
        for last_try in (False, True):
            try:
                with store.catalog.snapshot():
                    located = store.locate(ids[start : start + step])
                    block = located[:, 0], store.rows(output, located[:, 1], located[:, 2])
                break
            except ShardMissingError:  # compact has just moved its rows
                if last_try:
                    raise
        yield block


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch to [-1, 1]."""
    if not len(values):
        return values
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros_like(values)
    scaled: NDArray[np.float32] = np.clip((values - low) / (high - low) * 2 - 1, -1, 1)
    return scaled
