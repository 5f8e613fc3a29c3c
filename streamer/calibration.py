"""Tuning the index to a recall that is measured, not hoped for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.retrieval import Neighbour, ReducedIndex, nearest_approximate, nearest_exact
from streamer.store import Store

__all__ = ["Tuned", "calibrate", "recall_of"]

_LOG = logging.getLogger(__name__)

_QUERIES = 800
_QUERY_BYTES = 32 * 2**20
# Numbers that are read to rank the candidates once: 2 GB, about a second for each half of it.
_RANKED_FLOATS = 500_000_000
_K = 10
# Steps between the last doubling that was too little and the first that was enough.
_REFINEMENTS = 3


@dataclass(frozen=True)
class Tuned:
    """What a search looks at, and the recall@10 that this gave on the sampled queries.

    Attributes
    ----------
    effort : int
    recall : float
    error : float
        Standard error of it, as other queries would give another.
    """

    effort: int
    recall: float
    error: float

    def reaches(self, recall: float) -> bool:
        """Whether it is that good, and not by the luck of the sample: with 95 % confidence."""
        return self.recall - 1.645 * self.error >= recall


def recall_of(found: Sequence[Neighbour], truth: Sequence[Neighbour]) -> float:
    """Share of the true neighbours that were found.

    An image that scores as well as the last of the truth counts: equal images are equally right.
    """
    if not truth:
        return 1.0
    return min(1.0, sum(each.score >= truth[-1].score - 1e-6 for each in found) / len(truth))


def _others(ids: NDArray[np.int64], found: Sequence[Sequence[Neighbour]]) -> list[list[Neighbour]]:
    """Of the neighbours of images of the store, those that are not the image itself."""
    return [
        [each for each in neighbours if each.entry.id != number][:_K]
        for number, neighbours in zip(ids.tolist(), found, strict=True)
    ]


def calibrate(store: Store, index: ReducedIndex, *, candidates: int, recall: float, effort: int | None = None) -> Tuned:
    """Find the smallest search effort that reaches a recall, on rows of the store taken as queries.

    The effort doubles until the recall is reached, or the whole index is looked at, or twice the effort brings nothing.
    Between the last that was too little and the first that was enough, a few steps of bisection find a smaller one.

    Parameters
    ----------
    store : Store
    index : ReducedIndex
    candidates : int
    recall : float
        Recall@10 asked for, against exact search, the image that is asked for not counted.
    effort : int, optional
        Take this one, and only measure.

    Returns
    -------
    Tuned
    """
    length = store.feature_length(store.spec.indexed)
    most = max(10, min(_QUERIES, _QUERY_BYTES // (4 * length), _RANKED_FLOATS // (length * max(_K, candidates))))
    sample = np.random.default_rng(0).choice(index.rows, min(index.rows, most), replace=False, shuffle=False)
    images = index.images(np.sort(sample))
    queries = store.rows(store.spec.indexed, images[:, 1], images[:, 2])
    # An image finds itself, which is no merit.
    truths = _others(images[:, 0], nearest_exact(store, queries, _K + 1))

    def measured(effort: int) -> Tuned:
        found = nearest_approximate(
            store, index, queries, _K + 1, candidates=candidates, effort=effort, look_further=False
        )
        each = [recall_of(*pair) for pair in zip(_others(images[:, 0], found), truths, strict=True)]
        tuned = Tuned(effort, float(np.mean(each)), float(np.std(each) / np.sqrt(len(each))))
        _LOG.debug("effort %d: recall@10 %.4f +- %.4f", effort, tuned.recall, tuned.error)
        return tuned

    if effort is not None:
        return measured(effort)
    below, tuned = None, measured(index.index.first_effort(candidates))
    while not tuned.reaches(recall) and tuned.effort < index.index.full_effort:
        more = measured(min(2 * tuned.effort, index.index.full_effort))
        if more.recall <= tuned.recall:  # it is the candidates that are too few
            return tuned
        below, tuned = tuned, more
    if not tuned.reaches(recall):
        return tuned
    for _ in range(_REFINEMENTS if below else 0):
        assert below is not None
        middle = measured((below.effort + tuned.effort) // 2)
        below, tuned = (below, middle) if middle.reaches(recall) else (middle, tuned)
    return tuned
