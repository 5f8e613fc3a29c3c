"""A folder of small ``.npz`` files, a block of rows in each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamer.exchange.keys import KeysWriter
from streamer.exchange.npy import KEYS
from streamer.records import ExportBlock

__all__ = ["NpzFolder"]


class NpzFolder:
    """Each holds ``features`` (n, ...) float32, ``ids`` (n,) int64, ``keys`` and ``labels`` (n,) unicode.

    ``000000.npz`` and so on; none of them takes ``allow_pickle``. ``keys.csv`` names the images of all, in order.

    Parameters
    ----------
    folder : Path
        Empty.
    output : str
    """

    def __init__(self, folder: Path, output: str) -> None:
        self._folder = folder
        self._output = output
        self._blocks = 0
        self._keys = KeysWriter(folder / KEYS)

    def append(self, block: ExportBlock) -> None:
        """Write the next images as a file of their own."""
        np.savez(
            self._folder / f"{self._blocks:06d}.npz",
            features=block.features[self._output],
            ids=block.ids,
            keys=np.array(block.keys, dtype=np.str_),
            labels=np.array(block.labels, dtype=np.str_),
        )
        self._blocks += 1
        self._keys.append(block)

    def close(self) -> None:
        """Close ``keys.csv``."""
        self._keys.close()
