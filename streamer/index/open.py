"""Opening what finds candidates, by its kind."""

from __future__ import annotations

from pathlib import Path

from streamer.index.annoy_index import AnnoyIndex
from streamer.index.base import CandidateIndex
from streamer.index.ivf import IvfIndex

__all__ = ["open_candidates"]


def open_candidates(kind: str, folder: Path, dimension: int, rows: int) -> CandidateIndex:
    """Open the index in the folder of a generation.

    Parameters
    ----------
    kind : {"annoy", "ivf"}
    folder : Path
    dimension : int
        Length of the vectors.
    rows : int
        How many it must hold.

    Raises
    ------
    IndexMissingError
        If it is missing or damaged.
    EngineUnavailableError
        If the annoy package is needed and not installed.
    """
    if kind == "annoy":
        return AnnoyIndex(folder / "annoy.ann", dimension, rows)
    return IvfIndex(folder, rows)
