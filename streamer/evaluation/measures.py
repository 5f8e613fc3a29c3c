"""What a ranking is worth.

Defined as in Manning, Raghavan and Schuetze, "Introduction to Information Retrieval" (2008), chapter 8: P@k is the
share of the first k that carry the query's label; average precision is the mean, over the photos that carry it, of the
precision at each one's rank; mAP is its mean over the queries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.records import Hit

__all__ = ["FIRST", "Evaluation", "Quality", "Shown", "expected_by_chance", "precision"]

FIRST = 5
"""Of P@5."""


@dataclass(frozen=True)
class Quality:
    """Means over the queries.

    Attributes
    ----------
    p_at_1, p_at_5, map : float
        In [0, 1].
    """

    p_at_1: float
    p_at_5: float
    map: float

    def to_dict(self) -> dict[str, float]:
        """As ``--json`` prints it."""
        return {name: round(value, 4) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Shown:
    """One query for the sheet, with the hits that the index gave.

    Attributes
    ----------
    query, label : str
        Path of the photo, and its label.
    hits : list of Hit
        The photo itself left out.
    average_precision : float
    """

    query: str
    label: str
    hits: list[Hit]
    average_precision: float
    error: None = None


@dataclass
class Evaluation:
    """What was measured.

    Attributes
    ----------
    queries : int
        Photos of the store that were asked for.
    k : int
    recall_at_k : float
        Share of the `k` nearest by exact search that the index found; photos that score as well as the last one count.
    queries_per_second : float
        By way of the index, features at hand, one query after the other.
    p_at_1, p_at_5 : float or None
        Of the index's answers; None without labels.
    exact : Quality or None
        Of the whole ranking by full-precision cosine: mAP needs every rank.
    baselines : dict of str to Quality
        ``random``: what a random order is expected to give. ``colour_histogram``: rankings by `hsv_histogram`.
    notes : list of str
        What was left out, and why.
    best, worst : list of Shown
        By average precision, of different labels.
    """

    queries: int
    k: int
    recall_at_k: float = 0.0
    queries_per_second: float = 0.0
    p_at_1: float | None = None
    p_at_5: float | None = None
    exact: Quality | None = None
    baselines: dict[str, Quality] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    best: list[Shown] = field(default_factory=list)
    worst: list[Shown] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""

        def rounded(value: float | None) -> float | None:
            return None if value is None else round(value, 4)

        return {
            "queries": self.queries,
            f"recall_at_{self.k}": rounded(self.recall_at_k),
            "queries_per_second": round(self.queries_per_second, 1),
            "p_at_1": rounded(self.p_at_1),
            "p_at_5": rounded(self.p_at_5),
            "map": rounded(self.exact.map) if self.exact else None,
            "exact": self.exact.to_dict() if self.exact else None,
            "baselines": {name: quality.to_dict() for name, quality in self.baselines.items()},
            "notes": self.notes,
        }


def precision(relevant: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Measure one ranking.

    Parameters
    ----------
    relevant : ndarray of shape (n,), bool
        Whether the photo at each rank, best first, carries the query's label. At least one does.

    Returns
    -------
    p_at_1, p_at_5, average_precision : float
    """
    ranks = np.flatnonzero(relevant) + 1
    average = float(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return float(relevant[0]), float(relevant[:FIRST].sum()) / FIRST, average


def expected_by_chance(same: NDArray[np.int64], others: int) -> Quality:
    """Return what a random order is expected to give.

    Parameters
    ----------
    same : ndarray of shape (q,), int64
        For each query, how many other photos carry its label.
    others : int
        Photos that are ranked: all but the query.

    Returns
    -------
    Quality
        Expected average precision is ``a + (1 - a) H(n) / n`` with ``a = (r - 1) / (n - 1)``, `r` relevant photos of
        `n` and the harmonic number ``H(n)``: the mean over the ranks of ``(a (rank - 1) + 1) / rank``, the expected
        precision at a rank that holds a relevant photo.
    """
    share = float(np.mean(same / others))
    harmonic = float((1 / np.arange(1, others + 1)).sum())
    a = (same - 1) / max(1, others - 1)
    return Quality(share, share, float(np.mean(a + (1 - a) * harmonic / others)))
