"""Features in, the nearest images out: by the published index or by a scan, as the store and the question ask for.

An open `Neighbours` follows the generations that a nightly run publishes, and sees every commit.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from streamer.config import Search
from streamer.errors import IndexMissingError
from streamer.index import Generation, IvfIndex, Metric, TopOfBlock, current_generation, published_number
from streamer.residency import MAPS
from streamer.retrieval import (
    Neighbour,
    ReducedIndex,
    nearest_among,
    nearest_approximate,
    nearest_exact,
    newer_candidates,
)
from streamer.store import ShardMissingError, Store

__all__ = ["Neighbours"]

_LOG = logging.getLogger(__name__)
# Each time that compact removes shards, once in 4 GiB and at its end, a scan begins again.
_TRIES = 10
# Multiplications that take a CPU longer than a GPU takes to get ready.
_WORTH_A_GPU = 2 * 10**12
# Counting the images takes longer than a question for so few neighbours.
_MANY = 1000


class Neighbours:
    """Search a store by features. Opens the published generation of its index.

    Parameters
    ----------
    path : path-like
        The store's folder.
    products : callable, optional
        Gives what does the products of a scan in the place of numpy, see `streamer.index.TopOfBlock`, or None. Called
        for scans that are worth a GPU, and for no others.
    budget_bytes : int, optional
        The memory budget; by default, that of the last run over the store.

    Attributes
    ----------
    store : Store
    generation : Generation or None
        None before the first was published.
    damage : IndexMissingError or None
        Why there is no generation though one was published. Questions that look at every image are answered all the
        same; the others raise it.
    defaults : Search
        How the last run over the store asked for queries to be answered.

    Raises
    ------
    StoreMissingError, StoreCorruptError
        If there is no readable store.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        products: Callable[[], TopOfBlock | None] = lambda: None,
        budget_bytes: int | None = None,
    ) -> None:
        self.store = Store(path)
        self._budget_bytes = budget_bytes
        self.products = products
        self.generation: Generation | None = None
        self.damage: IndexMissingError | None = None
        self._index: ReducedIndex | None = None
        self._verified: tuple[Generation, Future[None]] | None = None
        self._warned = False
        try:
            self._read_settings()
            try:
                self.generation = current_generation(self.store.path / "index")
            except IndexMissingError as error:
                self.damage = error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Neighbours:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release index and store."""
        if self._index is not None:
            self._index.close()
        self.store.close()

    def _read_settings(self) -> None:
        self.settings = self.store.catalog.settings()
        self.defaults = Search(**self.settings.get("search", {}))
        MAPS.bound(self.budget_bytes)

    @property
    def budget_bytes(self) -> int:
        """The memory budget in force."""
        return self._budget_bytes or int(self.settings.get("extract", {}).get("budget_bytes", 2**30))

    def scans(self, exact: bool = False, metric: Metric | None = None) -> bool:
        """Whether such a question is answered by a look at every row, not by way of an index.

        Raises
        ------
        IndexMissingError
            If it takes the index, and that is damaged.
        """
        if exact or (metric or self.defaults.metric) == "l2":
            if self.damage is not None:
                self._warn(f"{self.damage}; every image is looked at")
            return True
        if self.damage is not None:
            raise self.damage
        if self.generation is None:
            self._warn(f"{self.store.path}: there is no index yet: every image is looked at")
        return self.generation is None or self.generation.manifest.kind == "exact"

    def _warn(self, message: str) -> None:
        """Once is enough."""
        if not self._warned:
            _LOG.warning(message)
            self._warned = True

    def expect_questions(self) -> None:
        """Begin to verify the index beside what is to be done before the first question, such as extracting it."""
        generation = self.generation
        if self._index is None and generation is not None and generation.manifest.kind != "exact":
            thread = ThreadPoolExecutor(1, thread_name_prefix="verify")
            self._verified = generation, thread.submit(generation.verify)
            thread.shutdown(wait=False)

    def nearest(
        self,
        queries: NDArray[np.float32],
        k: int | None = None,
        candidates: int | None = None,
        *,
        exact: bool = False,
        metric: Metric | None = None,
        rerank: bool | None = None,
        among: NDArray[np.int64] | None = None,
    ) -> list[list[Neighbour]]:
        """Find the images whose features are nearest to each query's.

        Parameters
        ----------
        queries : ndarray of shape (q, d), float32
            Features of the indexed output, flattened.
        k : int, optional
            How many are wanted; no more than the store holds are found.
        candidates : int, optional
            How many the index proposes for the ranking.
        exact : bool
            Rank every image of the store instead of the index's candidates.
        metric : {"cosine", "l2"}, optional
            ``l2`` ranks by Euclidean distance, every image: an index knows angles only.
        rerank : bool, optional
            Rank by the full-precision features; otherwise by the reduced vectors of the index.
        among : ndarray of shape (m,), int64, optional
            Ids of the images to rank, each of them and no others, by the metric and at full precision.

        Returns
        -------
        list of list of Neighbour
            For each query, best first, ties by key.

        Raises
        ------
        IndexMissingError
            If it takes the index, and that is damaged.
        """
        if not len(queries):
            return []
        self._follow()
        k = self._at_most_all(k or self.defaults.k)
        candidates = self._at_most_all(candidates or self.defaults.candidates)
        index = None if among is not None or self.scans(exact, metric) else self._open_index()
        for attempt in range(_TRIES):
            try:
                with self.store.catalog.snapshot():  # a run may commit in the middle
                    if among is not None:
                        return nearest_among(self.store, queries, k, among, metric or self.defaults.metric)
                    if index is None:
                        top = self.products() if len(self.store) * queries.size >= _WORTH_A_GPU else None
                        return nearest_exact(self.store, queries, k, metric or self.defaults.metric, top=top)
                    rerank = self.defaults.rerank if rerank is None else rerank
                    return self._by_index(index, queries, k, candidates, rerank)
            except ShardMissingError:  # compact has just moved its rows: a new look at the catalog finds them
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def _at_most_all(self, count: int) -> int:
        """As many as there are images at the most: room is made for all that are asked for."""
        return count if count <= _MANY else max(1, min(count, len(self.store)))

    def inverted_file(self) -> tuple[IvfIndex, ReducedIndex] | None:
        """The clusters of the published index, and what says which image stands where; None if it has none.

        Raises
        ------
        IndexMissingError
            If it is damaged.
        """
        self._follow()
        if self.damage is not None:
            raise self.damage
        if self.generation is None or self.generation.manifest.kind != "ivf":
            return None
        opened = self._open_index()
        return (opened.index, opened) if opened is not None and isinstance(opened.index, IvfIndex) else None

    def _by_index(
        self, index: ReducedIndex, queries: NDArray[np.float32], k: int, candidates: int, rerank: bool
    ) -> list[list[Neighbour]]:
        assert self.generation is not None
        measured = self.generation.manifest
        newer = newer_candidates(self.store, queries, measured.newest_id, k)
        # Fewer candidates than it was tuned for are no reason to look less far for them.
        effort = max(measured.effort, measured.effort * candidates // max(1, measured.candidates))
        effort = min(effort, max(measured.effort, index.index.full_effort))
        return nearest_approximate(
            *(self.store, index, queries, k), candidates=candidates, effort=effort, rerank=rerank, beside=newer
        )

    def _follow(self) -> None:
        """Take up the generation that is published now."""
        try:
            number = published_number(self.store.path / "index")
            if self.damage is None and number == (self.generation.number if self.generation else 0):
                return
            newer = current_generation(self.store.path / "index")
        except IndexMissingError as error:
            if self.damage is None:
                _LOG.warning("%s; the index that is open goes on answering", error)
            else:
                self.damage = error
            return
        self.damage = None
        if self._index is not None:
            self._index.close()
            self._index = None
        self.generation = newer
        self._read_settings()  # a run has been over the store, perhaps with others

    def _open_index(self) -> ReducedIndex | None:
        """None where the generation that is published by now needs no index."""
        while self._index is None:
            generation = self.generation
            if generation is None or generation.manifest.kind == "exact":
                return None
            try:
                self._verify(generation)
                index = ReducedIndex(generation.manifest.kind, generation.path)
                if index.rows != generation.manifest.rows:
                    index.close()
                    raise IndexMissingError(f"{generation.path}: holds {index.rows} images; run 'streamer index' again")
                self._index = index
            except IndexMissingError:  # two newer ones were published since, and it was removed
                newer = current_generation(self.store.path / "index")
                if newer is None or newer.number == generation.number:
                    raise
                self.generation = newer
        return self._index

    def _verify(self, generation: Generation) -> None:
        begun, self._verified = self._verified, None
        if begun is not None and begun[0] is generation:
            begun[1].result()
        else:
            generation.verify()
