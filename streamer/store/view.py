"""``features.h5``: all live shards as if they were one file, for anyone who has h5py and not this package."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from streamer.files import PARTIAL, fsync_file, rename
from streamer.store.catalog import Catalog
from streamer.store.shard import shard_path
from streamer.store.spec import FORMAT

__all__ = ["write_view"]


def write_view(target: Path, features: Path, catalog: Catalog) -> None:
    """Write the virtual file.

    It holds ``/features/<output>`` ``(n, ...)`` float32, ``/key`` and ``/label`` ``(n,)`` UTF-8, virtual over every
    shard in turn, and ``/live`` ``(n,)`` bool, which is False for rows of images that are gone or were replaced.

    Parameters
    ----------
    target : Path
        ``features.h5`` of a store; replaced at once.
    features : Path
        The folder of the shards, beside `target`. Kept as a relative path: the store may be moved.
    catalog : Catalog
    """
    shards = catalog.shards()
    total = sum(rows for _, rows, _ in shards)
    partial = target.with_name(target.name + PARTIAL)
    with h5py.File(partial, "w") as file:
        file.attrs.update({"format": FORMAT, "fingerprint": catalog.spec.fingerprint})
        datasets = {f"features/{name}": (shape, np.float32) for name, shape in catalog.spec.outputs.items()}
        for name, (shape, dtype) in {
            **datasets,
            "key": ((), h5py.string_dtype()),
            "label": ((), h5py.string_dtype()),
        }.items():
            layout = h5py.VirtualLayout(shape=(total, *shape), dtype=dtype)
            start = 0
            for number, rows, _ in shards:
                source = Path(features.name, shard_path(features, number).name).as_posix()
                layout[start : start + rows] = h5py.VirtualSource(source, name, shape=(rows, *shape), dtype=dtype)
                start += rows
            file.create_virtual_dataset(name, layout)
        live = file.create_dataset("live", shape=(total,), dtype=bool)
        start = 0
        for number, rows, _ in shards:
            mask = np.zeros(rows, dtype=bool)
            mask[catalog.live_rows(number)] = True
            live[start : start + rows] = mask
            start += rows
    fsync_file(partial)
    rename(partial, target)
