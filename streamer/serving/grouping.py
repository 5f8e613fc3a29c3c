"""Groups of near-duplicates for the page: the largest of them, within bounds."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamer.joins import duplicates
from streamer.retrieval import Neighbour
from streamer.searcher import open_neighbours

__all__ = ["MOST_GROUPS", "Groups", "find_groups"]

MOST_GROUPS = 500
"""Groups that are remembered."""

_MOST_OF_A_GROUP = 50


@dataclass(frozen=True)
class Groups:
    """Groups of near-duplicates.

    Attributes
    ----------
    groups : list of list of Neighbour
        The largest first, at most 500, and of each at most 50 photos; the first of each is what the others' scores
        are about.
    found : int
        How many there are in all.
    """

    groups: list[list[Neighbour]]
    found: int


def find_groups(
    path: Path, device: str | None, budget_bytes: int, threshold: float, should_stop: Callable[[], bool]
) -> Groups:
    """Look for each photo of a store among the others; see `streamer.joins.duplicates`.

    Parameters
    ----------
    path : Path
        The store's folder.
    device : str or None
    budget_bytes : int
        Of memory.
    threshold : float
        In (0, 1].
    should_stop : callable

    Raises
    ------
    Interrupted
        `should_stop` said so.
    """
    largest: list[tuple[int, int, list[Neighbour]]] = []
    found = 0
    with open_neighbours(path, device, budget_bytes) as neighbours:
        exact = neighbours.damage is not None
        for group in duplicates(neighbours, threshold, exact=exact, should_stop=should_stop):
            found += 1
            entry = (len(group.images), -found, group.images[:_MOST_OF_A_GROUP])
            if len(largest) < MOST_GROUPS:
                heapq.heappush(largest, entry)
            else:
                heapq.heappushpop(largest, entry)
    return Groups([images for _, _, images in sorted(largest, key=lambda each: each[:2], reverse=True)], found)
