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
from streamer.store.compression import compression_bytes, compression_options
from streamer.store.spec import FORMAT, FeatureSpec

__all__ = ["SealedShard", "ShardWriter", "shard_path", "writing_bytes"]

# Rows are read back at random, a whole checksummed chunk for each, and in sequence: 64 rows of 512 floats read at
# 3-4 GB/s in sequence, and a small chunk keeps the random reads cheap.
_CHUNK_BYTES = 128 * 1024
_TEXT_CHUNK_ROWS = 256
# HDF5 adds up all chunks to tell how much is stored: 9 ms for 10,000 of them.
_LOOK_BYTES = 4 * 2**20


def shard_path(folder: Path, number: int) -> Path:
    """Where the shard of that number lies: ``features/000001.h5``."""
    return folder / f"{number:06d}.h5"


@dataclass(frozen=True)
class SealedShard:
    """What the catalog keeps of a complete shard: its rows, its size in bytes, its BLAKE2b-128 digest, and more."""

    rows: int
    n_bytes: int
    digest: bytes
    compression: str = "none"


class ShardWriter:
    """A shard in the making.

    Parameters
    ----------
    target : Path
        The name the shard gets when sealed.
    spec : FeatureSpec
    engine : str
    compression : {"none", "gzip", "lzf", "blosc"}
        All kept as attributes of the file: from its shards alone, a catalog can be made anew.

    Raises
    ------
    OSError
        By every method: the disk is full, or fails.
    CompressionUnavailableError
        If the package for the compression is not installed.
    """

    def __init__(self, target: Path, spec: FeatureSpec, engine: str, compression: str = "none") -> None:
        options = {name: compression_options(compression, shape) for name, shape in spec.outputs.items()}
        self._target = target
        self._compression = compression
        self._partial = target.with_name(target.name + PARTIAL)
        self._disk = PatientFile(self._partial)
        self._file = h5py.File(self._disk, "w")
        attributes = {"format": FORMAT, "fingerprint": spec.fingerprint, "spec": spec.to_json(), "engine": engine}
        self._file.attrs.update({**attributes, "compression": compression})
        features = self._file.create_group("features")
        self._features = {
            name: features.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=(chunk_rows(shape, spec.dtype), *shape),
                dtype=spec.dtype,
                fletcher32=True,
                **options[name],
            )
            for name, shape in spec.outputs.items()
        }
        text: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "chunks": (_TEXT_CHUNK_ROWS,)}
        self._key = self._file.create_dataset("key", dtype=h5py.string_dtype(), **text)
        self._label = self._file.create_dataset("label", dtype=h5py.string_dtype(), **text)
        digests = {"shape": (0, 16), "maxshape": (None, 16), "chunks": (_TEXT_CHUNK_ROWS, 16)}
        self._content = self._file.create_dataset("content", dtype=np.uint8, fletcher32=True, **digests)
        self._copy = self._file.create_dataset("copy", dtype=np.uint8, fletcher32=True, **text)
        self.rows = 0
        self._raw_bytes = self._looked_at = self._stored_bytes = 0

    @property
    def feature_bytes(self) -> int:
        """Size of the features so far, as they are stored; of compressed ones, when it was last looked at."""
        if self._compression == "none":
            return self._raw_bytes
        if self._raw_bytes - self._looked_at >= _LOOK_BYTES:
            self._looked_at = self._raw_bytes
            self._stored_bytes = sum(dataset.id.get_storage_size() for dataset in self._features.values())
        return self._stored_bytes

    def append(
        self,
        keys: Sequence[str],
        labels: Sequence[str],
        contents: Sequence[bytes],
        copies: Sequence[int],
        features: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Append n rows.

        Parameters
        ----------
        keys, labels : sequence of str, length n
            As the images are called now. What they are called later, only the catalog knows.
        contents : sequence of bytes, length n
            BLAKE2b-128 digests of the image files.
        copies : sequence of int, length n
            Which augmented copy of its image each row is of; 0 is the image itself.
        features : mapping of str to ndarray of shape (n, ...), float32
            Within what the spec's dtype can hold.
        """
        start, stop = self.rows, self.rows + len(keys)
        for name, dataset in self._features.items():
            values = features[name]
            if values.shape != (len(keys), *dataset.shape[1:]):
                raise ValueError(f"{name}: shape {values.shape} does not hold {len(keys)} rows of {dataset.shape[1:]}")
            dataset.resize(stop, axis=0)
            self._raw_bytes += values.size * dataset.dtype.itemsize
            # By chunks, so that rounded values need little memory; by NumPy, as HDF5 takes fifteen times as long.
            for low in range(0, len(keys), dataset.chunks[0]):
                part = values[low : low + dataset.chunks[0]]
                dataset[start + low : start + low + len(part)] = part.astype(dataset.dtype, copy=False)
        for dataset, texts in ((self._key, keys), (self._label, labels)):
            dataset.resize(stop, axis=0)
            dataset[start:stop] = np.array(texts, dtype=object)
        self._content.resize(stop, axis=0)
        self._content[start:stop] = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 16)
        self._copy.resize(stop, axis=0)
        self._copy[start:stop] = np.array(copies, dtype=np.uint8)
        self.rows = stop
        self._disk.check()

    def seal(self) -> SealedShard:
        """Close the file, force it to the disk and give it its name."""
        self._file.close()
        self._disk.close(sync=True)
        n_bytes, digest = digest_of(self._partial)
        rename(self._partial, self._target)
        return SealedShard(self.rows, n_bytes, digest, self._compression)

    def abandon(self) -> None:
        """Throw away what was written."""
        with contextlib.suppress(RuntimeError, ValueError):
            self._file.close()
        with contextlib.suppress(OSError):  # the next run sweeps it
            self._disk.close(sync=False)
            self._partial.unlink(missing_ok=True)


def chunk_rows(shape: tuple[int, ...], dtype: str) -> int:
    """Rows in one chunk of a dataset whose rows have `shape`: of large ones one, and no other is read along with it."""
    return max(1, min(256, _CHUNK_BYTES // (np.dtype(dtype).itemsize * int(np.prod(shape)))))


def writing_bytes(spec: FeatureSpec, compression: str) -> int:
    """What HDF5's filters hold while they work on the largest chunk of a shard, bytes."""
    itemsize = np.dtype(spec.dtype).itemsize
    sizes = (chunk_rows(shape, spec.dtype) * itemsize * int(np.prod(shape)) for shape in spec.outputs.values())
    return compression_bytes(compression, max(sizes))
