"""``features.h5``: all live shards as if they were one file, for anyone who has h5py and not this package."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from streamer.files import PARTIAL, PatientFile, rename
from streamer.store.catalog import Catalog
from streamer.store.shard import shard_path
from streamer.store.spec import FORMAT

__all__ = ["write_view"]

_NAMES = ("key", "label")


def write_view(target: Path, features: Path, catalog: Catalog) -> None:
    """Write the virtual file.

    It holds ``/features/<output>`` ``(n, ...)``, of the dtype they are stored in, virtual over every shard in turn;
    ``/key`` and ``/label`` ``(n,)`` UTF-8, as the images are called now; ``/live`` ``(n,)`` bool, which is False for
    rows of images that are gone or replaced; and ``/copy`` ``(n,)`` uint8, 0 for an image itself and the number of its
    augmented copy for others. Further images with the same bytes share a row: ``/copies/row``, ``/copies/key`` and
    ``/copies/label`` ``(c,)`` name them. Nothing is written when nothing has changed since.

    Parameters
    ----------
    target : Path
        ``features.h5`` of a store; replaced at once.
    features : Path
        The folder of the shards, beside `target`. Kept as a relative path: the store may be moved.
    catalog : Catalog
    """
    changes = catalog.changes
    if _changes_of(target) == changes:
        return
    shards = catalog.shards()
    total = sum(rows for _, rows, _ in shards)
    partial = target.with_name(target.name + PARTIAL)
    disk = PatientFile(partial)
    with contextlib.closing(disk), h5py.File(disk, "w") as file:
        file.attrs.update({"format": FORMAT, "fingerprint": catalog.spec.fingerprint, "changes": changes})
        for name, shape in catalog.spec.outputs.items():
            layout = h5py.VirtualLayout(shape=(total, *shape), dtype=catalog.spec.dtype)
            start = 0
            for number, rows, _ in shards:
                source = Path(features.name, shard_path(features, number).name).as_posix()
                layout[start : start + rows] = h5py.VirtualSource(
                    source, f"features/{name}", shape=(rows, *shape), dtype=catalog.spec.dtype
                )
                start += rows
            file.create_virtual_dataset(f"features/{name}", layout, fillvalue=np.nan)  # a shard that is not there
        _write_names(file, catalog, shards)
        file.close()
        disk.close(sync=True)
    rename(partial, target)


def _changes_of(target: Path) -> int | None:
    """The state of the catalog that a view shows; None where there is no readable view."""
    with contextlib.suppress(OSError, KeyError), h5py.File(target, "r", locking=False) as file:
        return int(file.attrs["changes"])
    return None


def _write_names(file: h5py.File, catalog: Catalog, shards: Sequence[tuple[int, int, int]]) -> None:
    total = sum(rows for _, rows, _ in shards)
    live = file.create_dataset("live", shape=(total,), dtype=bool)
    copy = file.create_dataset("copy", shape=(total,), dtype=np.uint8)
    names = [file.create_dataset(name, shape=(total,), dtype=h5py.string_dtype()) for name in _NAMES]
    copies = file.create_group("copies")
    more = {name: copies.create_dataset(name, (0,), maxshape=(None,), dtype=h5py.string_dtype()) for name in _NAMES}
    more_rows = copies.create_dataset("row", (0,), maxshape=(None,), dtype=np.int64)
    start = 0
    for number, rows, _ in shards:
        firsts: dict[int, tuple[str, str]] = {}
        others: list[tuple[int, str, str]] = []
        copy_numbers = np.zeros(rows, dtype=np.uint8)
        for row, _, copy_number, key, label in catalog.rows.of_shard(number):
            copy_numbers[row] = copy_number
            if row in firsts:
                others.append((start + row, key, label))
            else:
                firsts[row] = (key, label)
        live[start : start + rows] = [row in firsts for row in range(rows)]
        copy[start : start + rows] = copy_numbers
        for place, dataset in enumerate(names):
            texts = [firsts[row][place] if row in firsts else "" for row in range(rows)]
            dataset[start : start + rows] = np.array(texts, dtype=object)
        if others:
            end = len(more_rows) + len(others)
            for column, dataset in enumerate((more_rows, *more.values())):
                dataset.resize(end, axis=0)
                values = [each[column] for each in others]
                dataset[end - len(others) :] = np.array(values, dtype=object if column else np.int64)
        start += rows
