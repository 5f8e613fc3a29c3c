"""A generation of the index, opened: from full-precision features to the places of candidates."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from streamer.errors import IndexMissingError
from streamer.index import CandidateIndex, MappedArray, open_candidates
from streamer.reduction import Reducer

__all__ = ["ReducedIndex"]


class ReducedIndex:
    """Reducer, index and places of one generation, opened together.

    Parameters
    ----------
    kind : {"annoy", "ivf"}
    folder : Path
        Of a generation, or of the draft of one.

    Raises
    ------
    IndexMissingError
        If a file is missing or damaged.
    EngineUnavailableError
        If the annoy package is needed and not installed.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        try:
            self._images = MappedArray(folder / "images.npy")
        except (OSError, ValueError) as error:
            raise IndexMissingError(f"{folder}: images.npy cannot be read ({error}); run 'streamer index'") from error
        try:
            if self._images.array.ndim != 2 or self._images.array.shape[1] != 3:
                raise IndexMissingError(f"{folder}: images.npy is {self._images.array.shape}; run 'streamer index'")
            self.rows = len(self._images.array)
            self.reducer = Reducer.load(folder / "reducer.npz")
            self.index: CandidateIndex = open_candidates(kind, folder, len(self.reducer.components), self.rows)
        except BaseException:  # Windows removes no folder with a mapped file in it
            self._images.close()
            raise

    def __enter__(self) -> ReducedIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the files."""
        self.index.close()
        self._images.close()

    def images(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Id, shard and row of the images at these positions: shape (n, 3), int64.

        An id says which image; shard and row say where its features stood when the generation was made.
        """
        found: NDArray[np.int64] = self._images.array[positions]
        self._images.touched(found.nbytes)
        return found

    def candidates(
        self, queries: NDArray[np.float32], count: int, effort: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions near to each query, nearest first, and cosines in the reduced space.

        Parameters
        ----------
        queries : ndarray of shape (q, d), float32
            Full-precision features.
        count, effort : int
            As in `streamer.index.CandidateIndex.candidates`, which says what comes back.
        """
        return self.index.candidates(self.reducer.transform(queries), min(count, self.rows), effort)
