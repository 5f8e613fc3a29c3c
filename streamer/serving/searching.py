"""The index and the rows behind it, asked by one thread: features or ids in, hits out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StreamerError
from streamer.retrieval import Neighbour
from streamer.searcher import open_neighbours
from streamer.serving.refusal import Refusal
from streamer.store import CatalogPhotos, ShardMissingError

__all__ = ["Answered", "Asked", "NeighbourDesk"]

# A label with fewer photos is ranked whole, which takes no longer than to look for its photos among others.
_RANKED_WHOLE = 2000
# An index is asked for so many more neighbours at a time, and for no more than these, until enough have the label.
_FURTHER = 4
_MOST_NEIGHBOURS = 20_000


@dataclass(frozen=True, eq=False)
class Asked:
    """A question.

    Attributes
    ----------
    query : ndarray of shape (d,), float32, or int
        Features, or the id of a photo of the library, which is then left out of the answer.
    k : int
    label : str or None
        Only photos with it.
    exact : bool
        Look at every photo.
    """

    query: NDArray[np.float32] | int
    k: int
    label: str | None
    exact: bool


@dataclass(frozen=True)
class Answered:
    """An answer.

    Attributes
    ----------
    hits : list of Neighbour
        Best first.
    exact : bool
        Whether every photo was looked at.
    index : str
        ``annoy``, ``ivf`` or ``exact``: what answered.
    generation : int
        Of the index; 0 before the first.
    images : int
        In the library.
    seconds : float
        That the search took, with those it shared a pass with.
    """

    hits: list[Neighbour]
    exact: bool
    index: str
    generation: int
    images: int
    seconds: float


class NeighbourDesk:
    """Answers questions in batches. Not for several threads: `streamer.serving.batching` gives it one.

    It follows the generations that runs publish: each batch is answered whole by one, and the files of the one before
    are let go of between two batches.

    Parameters
    ----------
    path : Path
        The store's folder.
    device : str or None
    budget_bytes : int
        Of memory, for the maps and blocks of a search.
    """

    def __init__(self, path: Path, device: str | None, budget_bytes: int) -> None:
        self._neighbours = open_neighbours(path, device, budget_bytes)
        self._photos = CatalogPhotos(self._neighbours.store.catalog)

    def close(self) -> None:
        """Release index and store."""
        self._neighbours.close()

    def warm_up(self) -> None:
        """Open and verify what the first question would have to."""
        store = self._neighbours.store
        newest = store.catalog.newest_id()
        if newest:
            (answer,) = self.answer([Asked(newest, 1, None, exact=False)])
            if isinstance(answer, Exception):
                raise answer

    def answer(self, questions: Sequence[Asked]) -> list[Answered | Exception]:
        """Answer questions, in their order; what can be asked together is."""
        answers: list[Answered | Exception | None] = [None] * len(questions)
        alike: dict[tuple[int, str | None, bool], list[int]] = {}
        for number, asked in enumerate(questions):
            alike.setdefault((asked.k, asked.label, asked.exact), []).append(number)
        for (k, label, exact), numbers in alike.items():
            try:
                found = self._answer_alike([questions[number] for number in numbers], k, label, exact)
            except (StreamerError, OSError) as error:
                found = [error] * len(numbers)
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer
        return [answer for answer in answers if answer is not None]

    def _answer_alike(
        self, questions: Sequence[Asked], k: int, label: str | None, exact: bool
    ) -> list[Answered | Exception]:
        began = time.perf_counter()
        features, missing = self._features(questions)
        left_out = [asked.query if isinstance(asked.query, int) else 0 for asked in questions]
        wanted = k + any(left_out)  # the photo itself comes first, or among its equals
        neighbours = self._neighbours
        exact = exact or neighbours.damage is not None  # which is logged, once
        asked = np.stack([features[number] for number in sorted(features)]) if features else None
        found: dict[int, list[Neighbour]] = {}
        if asked is not None:
            nearest = (
                neighbours.nearest(asked, wanted, exact=exact)
                if label is None
                else self._of_label(asked, wanted, label, exact)
            )
            found = dict(zip(sorted(features), nearest, strict=True))
        generation = neighbours.generation
        scanned = neighbours.scans(exact) or generation is None
        facts = (
            scanned,
            "exact" if scanned or generation is None else generation.manifest.kind,
            generation.number if generation is not None else 0,
            len(neighbours.store),
            time.perf_counter() - began,
        )
        return [
            missing[number]
            if number in missing
            else Answered([one for one in found[number] if one.entry.id != left_out[number]][:k], *facts)
            for number in range(len(questions))
        ]

    def _features(self, questions: Sequence[Asked]) -> tuple[dict[int, NDArray[np.float32]], dict[int, Exception]]:
        """Features of each question, by its number; those whose photo is gone, and so refused."""
        features: dict[int, NDArray[np.float32]] = {}
        missing: dict[int, Exception] = {}
        for number, asked in enumerate(questions):
            if not isinstance(asked.query, int):
                features[number] = asked.query
                continue
            try:
                found = self._features_of(asked.query)
            except ShardMissingError:  # compact has just moved its rows
                found = self._features_of(asked.query)
            if found is not None:
                features[number] = found
            else:
                missing[number] = Refusal(404, f"there is no photo {asked.query} in the library")
        return features, missing

    def _features_of(self, number: int) -> NDArray[np.float32] | None:
        store = self._neighbours.store
        with store.catalog.snapshot():
            entries = store.entries([number])
            if not entries:
                return None
            _, rows = store.features_of(store.spec.indexed, list(entries.values()))
        features: NDArray[np.float32] = rows[0]
        return features

    def _of_label(self, features: NDArray[np.float32], k: int, label: str, exact: bool) -> list[list[Neighbour]]:
        """The nearest with a label: all its photos are ranked, or the index is asked for more until it names enough."""
        ids = self._photos.ids_of_label(label)
        neighbours = self._neighbours
        if exact or len(ids) <= _RANKED_WHOLE or neighbours.scans():
            return neighbours.nearest(features, k, exact=exact, among=ids)
        found: list[list[Neighbour]] = []
        images = len(neighbours.store)
        for query in features:
            further = max(k, k * images // len(ids))
            while True:
                further = min(_FURTHER * further, images)
                if further > _MOST_NEIGHBOURS:  # its photos lie elsewhere
                    found += neighbours.nearest(query[None], k, among=ids)
                    break
                (near,) = neighbours.nearest(query[None], further)
                of_label = [one for one in near if one.entry.label == label][:k]
                if len(of_label) == k or further == images:
                    found.append(of_label)
                    break
        return found
