"""The order in which an epoch takes its images: shuffled, and yet read in long pieces.

Images are cut into runs that lie together in a shard, along its chunks. The runs are shuffled, as many of them as fit
are a window, and the images of a window are shuffled among themselves. So a window is read once, piece after piece, and
any batch may hold images of any of its runs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpochOrder"]

_RUN_BYTES = 2**20
# Fewer runs in a window would leave images beside each other that were extracted one after the other: of one folder.
_RUNS = 32
_FEWEST_RUNS = 4


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch over n images.

    Attributes
    ----------
    epoch : int
    images : ndarray of shape (n,), int64
        Which image comes where.
    starts : ndarray of shape (windows + 1,), int64
        ``images[starts[w]:starts[w + 1]]`` are in window w.
    """

    epoch: int
    images: NDArray[np.int64]
    starts: NDArray[np.int64]

    def window(self, number: int) -> NDArray[np.int64]:
        """The images of a window."""
        return self.images[self.starts[number] : self.starts[number + 1]]

    @classmethod
    def plain(cls, images: NDArray[np.int64], epoch: int, window_rows: int) -> EpochOrder:
        """Images as they come, cut into windows."""
        return cls(epoch, images, np.append(np.arange(0, len(images), window_rows), len(images)))

    @classmethod
    def shuffled(
        cls,
        images: NDArray[np.int64],
        shards: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        row_bytes: int,
        chunk_rows: int,
        window_rows: int,
        seed: int,
        epoch: int,
    ) -> EpochOrder:
        """Shuffle images.

        Parameters
        ----------
        images : ndarray of shape (n,), int64
            Numbers of the images.
        shards, rows : ndarray of shape (n,), int64
            Where the features of each lie.
        row_bytes : int
            Size of one image's feature.
        chunk_rows : int
            Rows in one chunk of a shard.
        window_rows : int
            Rows that a window may hold.
        seed, epoch : int
            From 0. The same seed and epoch give the same order, on every machine.
        """
        by_place = np.lexsort((rows, shards))
        run_rows = _run_rows(row_bytes, chunk_rows, window_rows)
        runs = np.stack([shards[by_place], rows[by_place] // run_rows])
        starts = _cut(np.append(True, (np.diff(runs) != 0).any(axis=0))[: len(rows)], run_rows)
        lengths = np.diff(np.append(starts, len(rows)))
        order = _permutation(len(starts), seed, epoch)
        starts, lengths = starts[order], lengths[order]
        ends = np.cumsum(lengths)
        places = np.repeat(starts - ends + lengths, lengths) + np.arange(len(rows))
        shuffled = images[by_place[places]]
        windows = [0]
        while windows[-1] < len(images):  # as many whole runs as fit
            fitting = np.searchsorted(ends, windows[-1] + window_rows, side="right")
            windows.append(int(ends[fitting - 1]))
        for window, (start, stop) in enumerate(itertools.pairwise(windows)):
            shuffled[start:stop] = shuffled[start:stop][_permutation(stop - start, seed, epoch, window + 1)]
        return cls(epoch, shuffled, np.array(windows, dtype=np.int64))


def _run_rows(row_bytes: int, chunk_rows: int, window_rows: int) -> int:
    """How many rows a run spans: whole chunks where a window holds a few of them."""
    if window_rows < _FEWEST_RUNS * chunk_rows:
        return max(1, window_rows // _FEWEST_RUNS)
    return chunk_rows * max(1, min(_RUN_BYTES // row_bytes, window_rows // _RUNS) // chunk_rows)


def _cut(begins: NDArray[np.bool_], longest: int) -> NDArray[np.int64]:
    """Where runs begin, so that none is longer than that: many images may share one row."""
    places = np.arange(len(begins))
    begin = np.maximum.accumulate(np.where(begins, places, 0))
    return np.flatnonzero(begins | ((places - begin) % longest == 0))


def _permutation(count: int, *seed: int) -> NDArray[np.int64]:
    """A random order. numpy may change its shuffles from release to release, but not the raw numbers of a generator."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")
