"""One plain HDF5 file with the features of a store and their names, for tools that know nothing of stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from streamer.files import PatientFile, published
from streamer.records import ExportBlock
from streamer.store.shard import chunk_rows
from streamer.store.spec import FeatureSpec

__all__ = ["is_plain_export", "writing_plain"]

_MARK = "streamer_export"
_NAME_ROWS = 1024


class PlainFile:
    """The file while it is written.

    Parameters
    ----------
    file : h5py.File
    disk : PatientFile
        What it lies on.
    spec : FeatureSpec
    outputs : sequence of str
    """

    def __init__(self, file: h5py.File, disk: PatientFile, spec: FeatureSpec, outputs: Sequence[str]) -> None:
        self._disk = disk
        features = file.create_group("features")
        self._features = {}
        for name in outputs:
            shape = spec.outputs[name]
            chunks = (chunk_rows(shape, "float32"), *shape)
            self._features[name] = features.create_dataset(
                name, (0, *shape), np.float32, maxshape=(None, *shape), chunks=chunks
            )
        rows: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "chunks": (_NAME_ROWS,)}
        self._ids = file.create_dataset("id", dtype=np.int64, **rows)
        self._names = [
            file.create_dataset(name, dtype=h5py.string_dtype(), **rows) for name in ("key", "label", "path")
        ]

    def append(self, block: ExportBlock) -> None:
        """Write the next images.

        Raises
        ------
        OSError
            The disk is full, or fails.
        """
        start = len(self._ids)
        stop = start + len(block.ids)
        texts = [np.array(each, dtype=object) for each in (block.keys, block.labels, block.paths)]
        features = [(dataset, block.features[name]) for name, dataset in self._features.items()]
        for dataset, values in [*features, (self._ids, block.ids), *zip(self._names, texts, strict=True)]:
            dataset.resize(stop, axis=0)
            dataset[start:stop] = values
        self._disk.check()


@contextlib.contextmanager
def writing_plain(target: Path, spec: FeatureSpec, outputs: Sequence[str]) -> Iterator[PlainFile]:
    """Write a file of features; it gets its name when it is whole.

    It holds ``/features/<output>`` (n, ...) float32, ``/id`` (n,) int64, ``/key``, ``/label`` and ``/path`` (n,) UTF-8,
    and as attributes ``fingerprint`` and ``spec`` (JSON), which say what the features are.

    Parameters
    ----------
    target : Path
        Replaced if it is there.
    spec : FeatureSpec
    outputs : sequence of str
        Which of its outputs.
    """
    with published(target) as partial:
        disk = PatientFile(partial)
        with contextlib.closing(disk), h5py.File(disk, "w") as file:
            file.attrs.update({_MARK: 1, "fingerprint": spec.fingerprint, "spec": spec.to_json()})
            yield PlainFile(file, disk, spec, outputs)
            file.close()
            disk.close(sync=True)


def is_plain_export(path: Path) -> bool:
    """Whether `writing_plain` has written this file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _MARK in file.attrs
    except (OSError, RuntimeError):
        return False
