"""A query's way through the rooms: image -> features -> hits."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.config import Search
from streamer.errors import FingerprintMismatchError, IndexMissingError
from streamer.extraction import Extractor, ExtractSettings, Network
from streamer.index import Generation, current_generation, published_number
from streamer.records import Hit, ImageRef
from streamer.retrieval import ApproximateIndex, nearest_approximate, nearest_exact, newer_candidates
from streamer.store import ShardMissingError, Store

__all__ = ["QueryResult", "Searcher"]

_LOG = logging.getLogger(__name__)
# Each time that compact removes shards, once in 4 GiB and at its end, a scan begins again.
_TRIES = 10


@dataclass(frozen=True)
class QueryResult:
    """The answer to one query.

    Attributes
    ----------
    query : str
        The image's path, as it was given.
    seconds : float
        From the file to the hits. Images that are searched together share their time evenly.
    hits : list of Hit
        Best first. Empty when the query could not be read.
    error : str or None
        Why it could not be read.
    """

    query: str
    seconds: float
    hits: list[Hit]
    error: str | None = None


class Searcher:
    """Search a store by image. Opens the published index generation; the network is loaded with the first query.

    Parameters
    ----------
    path : path-like
        The store's folder.
    device : {"auto", "cpu", "gpu"}, optional
        By default, as the last run over the store was configured.

    Raises
    ------
    StoreMissingError, StoreCorruptError
        If there is no readable store.
    IndexMissingError
        If its index is damaged.

    Examples
    --------
    >>> with Searcher("photos.store") as searcher:                       # doctest: +SKIP
    ...     for hit in searcher.search(["cat.jpg"], k=5)[0].hits:
    ...         print(hit.rank, hit.key, hit.score)
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str | None = None) -> None:
        self.store = Store(path)
        self._extractor: Extractor | None = None
        self._index: ApproximateIndex | None = None
        self._warned = False
        try:
            settings = self.store.catalog.settings()
            self.defaults = Search(**settings.get("search", {}))
            self._extract_settings = ExtractSettings(**settings["extract"]) if "extract" in settings else None
            self._device = device
            self.generation: Generation | None = current_generation(self.store.path / "index")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Searcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release network, index and store."""
        if self._extractor is not None:
            self._extractor.close()
        if self._index is not None:
            self._index.close()
        self.store.close()

    def search(
        self,
        images: Sequence[str | os.PathLike[str]],
        k: int | None = None,
        *,
        candidates: int | None = None,
        exact: bool = False,
    ) -> list[QueryResult]:
        """Find the images most like each query.

        Parameters
        ----------
        images : sequence of path-like
            Image files.
        k : int, optional
            Hits wanted.
        candidates : int, optional
            How many the index proposes for the ranking.
        exact : bool
            Rank every image of the store instead of the index's candidates.

        Returns
        -------
        list of QueryResult
            In the order of `images`. A query that cannot be read has no hits and says why.
        """
        began = time.perf_counter()
        paths = [os.fspath(image) for image in images]
        found: dict[int, NDArray[np.float32]] = {}
        errors: dict[int, str] = {}
        for number, features, error in self._query_features(paths):
            if error is None:
                found[number] = features
            else:
                errors[number] = error
        numbers = sorted(found)
        hits = dict(zip(numbers, self.nearest([found[n] for n in numbers], k, candidates, exact=exact), strict=True))
        seconds = round((time.perf_counter() - began) / max(1, len(paths)), 4)
        return [
            QueryResult(path, seconds, hits.get(number, []), errors.get(number)) for number, path in enumerate(paths)
        ]

    def nearest(
        self,
        queries: Sequence[NDArray[np.float32]],
        k: int | None = None,
        candidates: int | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Find the images whose features are nearest to each query's.

        Parameters
        ----------
        queries : sequence of ndarray of shape (d,), float32
            Features of the indexed output, flattened.
        k, candidates, exact
            As in `search`.

        Returns
        -------
        list of list of Hit
        """
        if not queries:
            return []
        wanted = k or self.defaults.k
        self._follow()
        exact = exact or self._searches_all()
        index = None if exact else self._open_index()
        for attempt in range(_TRIES):
            try:
                with self.store.catalog.snapshot():  # a run may commit in the middle
                    if index is None:
                        return nearest_exact(self.store, np.stack(queries), wanted)
                    return self._nearest(index, np.stack(queries), wanted, candidates or self.defaults.candidates)
            except ShardMissingError:  # compact has just moved its rows: a new look at the catalog finds them
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def _nearest(
        self, index: ApproximateIndex, queries: NDArray[np.float32], k: int, candidates: int
    ) -> list[list[Hit]]:
        assert self.generation is not None
        measured = self.generation.manifest
        newer = newer_candidates(self.store, queries, measured.newest_id, k)
        return [
            nearest_approximate(
                self.store,
                index,
                query,
                k,
                candidates=candidates,
                search_k=max(1, measured.search_k * candidates // max(1, measured.candidates)),
                rerank=self.defaults.rerank,
                beside=beside,
            )
            for query, beside in zip(queries, newer, strict=True)
        ]

    def _follow(self) -> None:
        """Take up the generation that is published now."""
        try:
            number = published_number(self.store.path / "index")
            if number == (self.generation.number if self.generation else 0):
                return
            newer = current_generation(self.store.path / "index")
        except IndexMissingError as error:
            _LOG.warning("%s; the index that is open goes on answering", error)
            return
        if self._index is not None:
            self._index.close()
            self._index = None
        self.generation = newer

    def _searches_all(self) -> bool:
        """Whether there is no index but the features themselves."""
        if self.generation is None and not self._warned:
            _LOG.warning("%s: there is no index yet: every image is looked at", self.store.path)
            self._warned = True
        return self.generation is None or self.generation.manifest.kind == "exact"

    def _open_index(self) -> ApproximateIndex:
        while self._index is None:
            generation = self.generation
            assert generation is not None
            try:
                generation.verify()
                self._index = ApproximateIndex(generation.reducer_path, generation.annoy_path, generation.ids())
            except IndexMissingError:  # two newer ones were published since, and it was removed
                self.generation = current_generation(self.store.path / "index")
                if self.generation is None or self.generation.number == generation.number:
                    raise
        return self._index

    def _query_features(self, paths: Sequence[str]) -> Iterator[tuple[int, Any, str | None]]:
        """``(number of the query, features or None, reason or None)`` for each."""
        output = self.store.spec.indexed
        refs = (_query_ref(number, path) for number, path in enumerate(paths))
        for batch in self._network(len(paths)).features(refs):
            rows = batch.features.get(output)
            for place, ref in enumerate(batch.refs):
                assert rows is not None
                yield int(ref.key), rows[place].reshape(-1), None
            for each in batch.rejected:
                yield int(each.ref.key), None, each.reason

    def _network(self, n_queries: int) -> Extractor:
        if self._extractor is None:
            if self._extract_settings is None:
                raise IndexMissingError(f"{self.store.path}: holds no features yet; run 'streamer run CONFIG'")
            settings = self._extract_settings
            if self._device is not None:
                settings = ExtractSettings(**{**vars(settings), "device": self._device})
            network = Network.of_store(self.store.spec)
            differences = network.spec().differences(self.store.spec)
            if differences:
                raise FingerprintMismatchError(
                    f"{self.store.path}: queries would get other features than the store holds: "
                    f"{'; '.join(differences)}. Bring back what the store was made with, or extract into a new store"
                )
            self._extractor = Extractor(network, settings, max_batch=max(1, n_queries))
        return self._extractor


def _query_ref(number: int, path: str) -> ImageRef:
    """A query travels under its number; a file that is not there is found out when it is decoded."""
    try:
        state = Path(path).stat()
    except (OSError, ValueError):
        return ImageRef(str(number), path, 0, 0, "")
    return ImageRef(str(number), path, state.st_size, state.st_mtime_ns, "")
