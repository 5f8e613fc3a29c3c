"""Writing one shard: an HDF5 file that is appended to batch by batch, sealed once, and never opened for writing again.

A writer that is killed can leave an HDF5 file that will not open, and no tool repairs every such file. So a shard is
written under a ``.partial`` name that nobody reads, and gets its real name only when it is complete and on the disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.files import PARTIAL, PatientFile, digest_of, rename
from streamer.store.spec import FORMAT, FeatureSpec

__all__ = ["SealedShard", "ShardWriter", "shard_path"]

# Rows are read back at random, a whole checksummed chunk for each, and in sequence: 64 rows of 512 floats read at
# 3-4 GB/s in sequence, and a small chunk keeps the random reads cheap.
_CHUNK_BYTES = 128 * 1024
_TEXT_CHUNK_ROWS = 256


def shard_path(folder: Path, number: int) -> Path:
    """Where the shard of that number lies: ``features/000001.h5``."""
    return folder / f"{number:06d}.h5"


@dataclass(frozen=True)
class SealedShard:
    """What the catalog keeps of a complete shard: its rows, its size in bytes, its BLAKE2b-128 digest."""

    rows: int
    n_bytes: int
    digest: bytes


class ShardWriter:
    """A shard in the making.

    Parameters
    ----------
    target : Path
        The name the shard gets when sealed.
    spec : FeatureSpec
    engine : str
        Both kept as attributes of the file: from its shards alone, a catalog can be made anew.

    Raises
    ------
    OSError
        By every method: the disk is full, or fails.
    """

    def __init__(self, target: Path, spec: FeatureSpec, engine: str) -> None:
        outputs = spec.outputs
        self._target = target
        self._partial = target.with_name(target.name + PARTIAL)
        self._disk = PatientFile(self._partial)
        self._file = h5py.File(self._disk, "w")
        attributes = {"format": FORMAT, "fingerprint": spec.fingerprint, "spec": spec.to_json(), "engine": engine}
        self._file.attrs.update(attributes)
        features = self._file.create_group("features")
        self._features = {
            name: features.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=(chunk_rows(shape), *shape),
                dtype=np.float32,
                fletcher32=True,
            )
            for name, shape in outputs.items()
        }
        text: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "chunks": (_TEXT_CHUNK_ROWS,)}
        self._key = self._file.create_dataset("key", dtype=h5py.string_dtype(), **text)
        self._label = self._file.create_dataset("label", dtype=h5py.string_dtype(), **text)
        digests = {"shape": (0, 16), "maxshape": (None, 16), "chunks": (_TEXT_CHUNK_ROWS, 16)}
        self._content = self._file.create_dataset("content", dtype=np.uint8, fletcher32=True, **digests)
        self.rows = 0
        self.feature_bytes = 0

    def append(
        self,
        keys: Sequence[str],
        labels: Sequence[str],
        contents: Sequence[bytes],
        features: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Append n rows.

        Parameters
        ----------
        keys, labels : sequence of str, length n
            As the images are called now. What they are called later, only the catalog knows.
        contents : sequence of bytes, length n
            BLAKE2b-128 digests of the image files.
        features : mapping of str to ndarray of shape (n, ...), float32
        """
        start, stop = self.rows, self.rows + len(keys)
        for name, dataset in self._features.items():
            values = features[name]
            if values.shape != (len(keys), *dataset.shape[1:]):
                raise ValueError(f"{name}: shape {values.shape} does not hold {len(keys)} rows of {dataset.shape[1:]}")
            dataset.resize(stop, axis=0)
            dataset[start:stop] = values
            self.feature_bytes += values.nbytes
        for dataset, texts in ((self._key, keys), (self._label, labels)):
            dataset.resize(stop, axis=0)
            dataset[start:stop] = np.array(texts, dtype=object)
        self._content.resize(stop, axis=0)
        self._content[start:stop] = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 16)
        self.rows = stop
        self._disk.check()

    def seal(self) -> SealedShard:
        """Close the file, force it to the disk and give it its name."""
        self._file.close()
        self._disk.close(sync=True)
        n_bytes, digest = digest_of(self._partial)
        rename(self._partial, self._target)
        return SealedShard(self.rows, n_bytes, digest)

    def abandon(self) -> None:
        """Throw away what was written."""
        with contextlib.suppress(RuntimeError, ValueError):
            self._file.close()
        with contextlib.suppress(OSError):  # the next run sweeps it
            self._disk.close(sync=False)
            self._partial.unlink(missing_ok=True)


def chunk_rows(shape: tuple[int, ...]) -> int:
    """Rows in one chunk of a dataset whose rows have `shape`, float32."""
    return max(1, min(256, _CHUNK_BYTES // (4 * int(np.prod(shape)))))
