"""What every index that proposes candidates has in common."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["CandidateIndex"]


class CandidateIndex(Protocol):
    """Finds, among the reduced vectors of a generation, those that point where a query points.

    Attributes
    ----------
    full_effort : int
        The effort at which nothing is left out.
    """

    full_effort: int

    def first_effort(self, count: int) -> int:
        """The least effort worth trying for that many candidates; calibration raises it."""
        ...

    def candidates(
        self, queries: NDArray[np.float32], count: int, effort: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions of the vectors nearest to each query by angle, and their cosines, nearest first.

        Parameters
        ----------
        queries : ndarray of shape (q, dimension), float32
            Of unit length.
        count : int
            How many for each, at most.
        effort : int
            How much to look at: nodes of Annoy's forest, clusters of an inverted file.

        Returns
        -------
        positions : ndarray of shape (q, count), int64
            -1 where fewer were found.
        cosines : ndarray of shape (q, count), float32
            -inf where fewer were found.
        """
        ...

    def close(self) -> None:
        """Unmap the files."""
        ...
