"""Groups of images that are nearly the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import Interrupted
from streamer.joins.queries import queries_at_once, query_blocks
from streamer.neighbours import Neighbours
from streamer.records import Hit, Progress
from streamer.retrieval import Neighbour, score_entries, to_hits
from streamer.store import ShardMissingError, Store

__all__ = ["Group", "duplicates"]

_LOG = logging.getLogger(__name__)

# Neighbours to ask for at first; as long as the last is a near-duplicate, four times as many.
_FIRST_K = 8
_MOST_K = 2048


@dataclass(frozen=True)
class Group:
    """Images that are near-duplicates, directly or by way of others of the group.

    Attributes
    ----------
    images : list of Neighbour
        By key; the score of each is its cosine with the first.
    """

    images: list[Neighbour]

    @property
    def query(self) -> str:
        """Path of the first."""
        return self.images[0].entry.path

    @property
    def hits(self) -> list[Hit]:
        """The others."""
        return to_hits(self.images[1:])

    @property
    def error(self) -> str | None:
        """A group is always an answer."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The form that ``--json`` prints."""
        named = [{"key": each.entry.key, "path": each.entry.path, "label": each.entry.label} for each in self.images]
        return {"images": [{**one, "score": each.score} for one, each in zip(named, self.images, strict=True)]}


def duplicates(
    neighbours: Neighbours,
    threshold: float,
    *,
    exact: bool = False,
    progress: Progress = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Group]:
    """Find groups of near-duplicates: each image is looked for in its own store.

    Two images whose features have a cosine of `threshold` or more are of one group (single linkage). Pairs are proposed
    by the index, and judged by their full-precision features. Files with the same bytes are always of one group.

    Parameters
    ----------
    neighbours : Neighbours
    threshold : float
        In (0, 1].
    exact : bool
        Look for pairs among all images, not among those that the index proposes.
    progress, should_stop : callable, optional

    Yields
    ------
    Group
        In the order in which their first images came to the store. Memory: three numbers for each image of the store,
        a block of queries, and one group.

    Raises
    ------
    ValueError
        If the threshold is not in (0, 1].
    IndexMissingError
        If the index is damaged, and it is not to be `exact`.
    Interrupted
        If asked to stop.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: {threshold} is not above 0 and up to 1")
    store = neighbours.store
    places = store.images()
    forest = _Forest(places[:, 0])
    distinct = _join_same_bytes(places, forest)
    overflown = done = 0
    scans = neighbours.scans(exact, "cosine")
    for ids, features in query_blocks(store, places[distinct, 0], neighbours, _FIRST_K, scans=scans):
        if should_stop():
            raise Interrupted("stopped before all images were compared")
        done += len(ids)
        pending, k = np.arange(len(ids)), _FIRST_K
        while len(pending):
            more = []
            step = queries_at_once(neighbours, k)
            for start in range(0, len(pending), step):
                part = pending[start : start + step]
                proposed = max(k, neighbours.defaults.candidates)
                found = neighbours.nearest(features[part], k, proposed, exact=exact, metric="cosine", rerank=True)
                for query, each in zip(part.tolist(), found, strict=True):
                    near = [one for one in each if one.score >= threshold]
                    forest.join(int(ids[query]), [one.entry.id for one in near])
                    if len(near) == k:
                        more.append(query)
            pending, k = np.array(more, dtype=np.intp), 4 * k
            if k > _MOST_K:
                overflown += len(pending)
                break
        progress("duplicates", done, len(distinct))
    if overflown:
        _LOG.warning(
            "%d images have at least %d near-duplicates each: groups as large as that may come out in several; "
            "a higher threshold tells them apart",
            *(overflown, _MOST_K - 1),
        )
    for members in forest.groups():
        group = _group(neighbours, members)
        if len(group.images) > 1:
            yield group


def _join_same_bytes(places: NDArray[np.int64], forest: _Forest) -> NDArray[np.intp]:
    """Join the images that share a row of features; gives the numbers of those that stand for them."""
    order = np.lexsort((places[:, 0], places[:, 2], places[:, 1]))
    same = (np.diff(places[order, 1:], axis=0) == 0).all(axis=1)
    for number in np.flatnonzero(same).tolist():
        forest.join(int(places[order[number], 0]), [int(places[order[number + 1], 0])])
    return np.sort(order[np.concatenate([[True], ~same])[: len(order)]])


class _Forest:
    """Disjoint sets of ids (Tarjan 1975, with path halving).

    Parameters
    ----------
    ids : ndarray of shape (n,), int64
        In ascending order.
    """

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self._ids = ids
        self._parents = np.arange(len(ids))

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.intp]:
        """Numbers of these ids; those that came to the store since are left out."""
        places = np.searchsorted(self._ids, ids)
        there = places < len(self._ids)
        there[there] = self._ids[places[there]] == ids[there]
        return places[there]

    def join(self, one: int, others: list[int]) -> None:
        """Make one set of several."""
        root: int | None = None
        for place in self.places(np.array([one, *others], dtype=np.int64)).tolist():
            found = self._root(place)
            if root is None:
                root = found
            elif found != root:
                root, other = min(root, found), max(root, found)
                self._parents[other] = root

    def groups(self) -> Iterator[NDArray[np.int64]]:
        """Ids of each set with more than one member, ascending; sets by their first."""
        roots = np.array([self._root(place) for place in range(len(self._ids))], dtype=np.intp)
        order = np.argsort(roots, kind="stable")
        bounds = np.flatnonzero(np.diff(roots[order], prepend=-1, append=-1))
        for start, end in pairwise(bounds.tolist()):
            if end - start > 1:
                yield self._ids[order[start:end]]

    def _root(self, place: int) -> int:
        parents = self._parents
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = int(parents[place])
        return place


def _group(neighbours: Neighbours, ids: NDArray[np.int64]) -> Group:
    try:
        return _read_group(neighbours.store, ids)
    except ShardMissingError:  # compact has just moved its rows
        return _read_group(neighbours.store, ids)


def _read_group(store: Store, ids: NDArray[np.int64]) -> Group:
    with store.catalog.snapshot():
        entries = sorted(store.entries(ids.tolist()).values(), key=lambda entry: entry.key)
        return Group(score_entries(store, entries[0], entries) if entries else [])
