"""The ways features are compressed on disk. hdf5plugin is imported here only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamer.errors import CompressionUnavailableError

__all__ = ["COMPRESSIONS", "compression_options", "compression_bytes", "require_compression"]

COMPRESSIONS = ("none", "gzip", "lzf", "blosc")

# What a compressor works in, beside the chunk it reads and the one it writes (zstd level 1: 0.7 MB).
_WORK_BYTES = 2**20


def require_compression(compression: str, place: str | Path) -> None:
    """Make sure that chunks of this kind can be written and read.

    Parameters
    ----------
    compression : {"none", "gzip", "lzf", "blosc"}
    place : str or Path
        The shard, or the key of the config, that asks for it: named in the error.

    Raises
    ------
    CompressionUnavailableError
        If the package for it is not installed, or there is no such compression.
    """
    if compression not in COMPRESSIONS:
        raise CompressionUnavailableError(
            f"{place}: compression {compression!r}; this release knows {', '.join(COMPRESSIONS)}: upgrade streamer"
        )
    if compression == "blosc":
        _blosc(place)


def compression_options(compression: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Keyword arguments of h5py's ``create_dataset`` for rows of `shape`.

    Codecs and levels were chosen by ``scripts/bench_storage.py``. Shuffling, which puts the first bytes of all values
    together, then the second, makes dense vectors 7 % smaller with gzip; maps after a ReLU are mostly zeros, whole
    runs of which it tears apart, and become 20 to 60 % larger.
    """
    shuffle = len(shape) == 1
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 4, "shuffle": shuffle}
    if compression == "lzf":
        return {"compression": "lzf", "shuffle": shuffle}
    if compression == "blosc":
        blosc = _blosc("storage.compression")
        # Of maps with 85 % zeros, zstd at level 1 leaves 20 %, as gzip does in three times the time, and lz4 32 %.
        return dict(blosc(cname="zstd", clevel=1, shuffle=blosc.SHUFFLE if shuffle else blosc.NOSHUFFLE))
    return {}


def compression_bytes(compression: str, chunk_bytes: int) -> int:
    """What HDF5's filters hold while they work on one chunk, bytes."""
    return 2 * chunk_bytes if compression == "none" else 4 * chunk_bytes + _WORK_BYTES


def _blosc(place: str | Path) -> Any:
    try:
        import hdf5plugin  # makes HDF5 know its filters
    except ImportError as error:
        raise CompressionUnavailableError(
            f"{place}: compression 'blosc' needs the package hdf5plugin, which is not installed ({error}); install it "
            "with pip install 'streamer[blosc]', or, to write, set storage.compression: gzip"
        ) from error
    return hdf5plugin.Blosc
