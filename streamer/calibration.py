"""Tuning the index to a recall that is measured, not hoped for."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from streamer.records import Hit
from streamer.retrieval import ApproximateIndex, nearest_approximate, nearest_exact
from streamer.store import Store

__all__ = ["Tuned", "calibrate", "recall_of"]

_LOG = logging.getLogger(__name__)

_QUERIES = 50
_K = 10


@dataclass(frozen=True)
class Tuned:
    """Nodes to look at in a search, and the recall@10 that this gave on the sampled queries."""

    search_k: int
    recall: float


def recall_of(found: list[Hit], truth: list[Hit]) -> float:
    """Share of the true neighbours that were found.

    An image that scores as well as the last of the truth counts: equal images are equally right.
    """
    if not truth:
        return 1.0
    return min(1.0, sum(hit.score >= truth[-1].score - 1e-6 for hit in found) / len(truth))


def calibrate(store: Store, index: ApproximateIndex, *, trees: int, candidates: int, recall: float) -> Tuned:
    """Find the smallest search effort that reaches a recall, on rows of the store taken as queries.

    The effort starts at ten times the candidates and doubles until the recall is reached, or the whole index would be
    looked at, or twice the effort brings nothing.

    Parameters
    ----------
    store : Store
    index : ApproximateIndex
    trees, candidates : int
    recall : float
        Recall@10 asked for, against exact search.

    Returns
    -------
    Tuned
    """
    count = len(index.ids)
    sample = np.random.default_rng(0).choice(count, min(count, _QUERIES), replace=False, shuffle=False)
    entries = store.entries(index.ids[np.sort(sample)].tolist()).values()
    _, queries = store.features_of(store.spec.indexed, list(entries))
    truths = nearest_exact(store, queries, _K)
    search_k = 10 * candidates
    best = Tuned(search_k, -1.0)
    while True:
        found = [
            nearest_approximate(store, index, query, _K, candidates=candidates, search_k=search_k) for query in queries
        ]
        measured = float(np.mean([recall_of(*pair) for pair in zip(found, truths, strict=True)]))
        _LOG.debug("search_k %d: recall@10 %.4f", search_k, measured)
        if measured <= best.recall:
            return best
        best = Tuned(search_k, measured)
        if measured >= recall or search_k >= trees * len(index.ids):
            return best
        search_k *= 2
