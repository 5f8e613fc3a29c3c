"""A query's way through the rooms: image -> features -> hits."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.engines import products_on
from streamer.errors import ConfigError, FingerprintMismatchError, IndexMissingError
from streamer.extraction import Extractor, ExtractSettings, Network
from streamer.images.named import numbered, photos_at
from streamer.index import Generation, Metric
from streamer.neighbours import Neighbours
from streamer.records import Hit
from streamer.retrieval import to_hits
from streamer.store import Store

__all__ = ["QueryResult", "Searcher", "open_neighbours", "query_network"]

# Images that are read before their neighbours are looked for.
_TOGETHER = 64
_SCANNED_TOGETHER = 1024


def open_neighbours(
    path: str | os.PathLike[str], device: str | None = None, budget_bytes: int | None = None
) -> Neighbours:
    """Open a store for questions by features; scans run on a GPU where one is to be used and they are worth it.

    A GPU that was configured and is not there is missed by the first scan that is worth it; see `products_on`.

    Parameters
    ----------
    path : path-like
        The store's folder.
    device : {"auto", "cpu", "gpu"}, optional
        By default, as the last run over the store was configured.
    budget_bytes : int, optional
        Memory budget; by default, that of the last run over the store.
    """
    neighbours = Neighbours(path, budget_bytes=budget_bytes)
    settings = neighbours.settings.get("extract", {})
    neighbours.products = cache(
        partial(products_on, device or settings.get("device", "auto"), settings.get("gpu_fraction"))
    )
    return neighbours


def query_network(store: Store) -> Network:
    """The network that turns photos into features as a store holds them.

    Raises
    ------
    ConfigError
        If the features were imported.
    FingerprintMismatchError
        If the network, its weights or the decoding are no longer what they were.
    WeightsError
        If the weights are missing or damaged.
    """
    if store.spec.imported:
        raise ConfigError(
            f"{store.path}: holds features that were imported ({store.spec.indexed}), and a photo cannot be turned "
            "into such features here. What works: 'streamer search STORE --knn OUT.h5' (the neighbours of every image "
            "in it, or with OTHER of those in another such store), 'streamer duplicates', 'streamer clusters', and "
            "Searcher.nearest() of the Python library with features of your own"
        )
    network = Network.of_store(store.spec)
    differences = network.spec().differences(store.spec.of_queries())
    if differences:
        raise FingerprintMismatchError(
            f"{store.path}: queries would get other features than the store holds: {'; '.join(differences)}. Bring "
            "back what the store was made with, or extract into a new store"
        )
    return network


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

    Examples
    --------
    >>> with Searcher("photos.store") as searcher:                       # doctest: +SKIP
    ...     for hit in searcher.search(["cat.jpg"], k=5)[0].hits:
    ...         print(hit.rank, hit.key, hit.score)
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str | None = None) -> None:
        self._extractor: Extractor | None = None
        self._together = 0
        self._neighbours = open_neighbours(path, device)
        self._device = device
        try:
            settings = self._neighbours.settings
            self._extract_settings = ExtractSettings(**settings["extract"]) if "extract" in settings else None
        except BaseException:
            self.close()
            raise

    @property
    def store(self) -> Store:
        """The store that is searched."""
        return self._neighbours.store

    @property
    def generation(self) -> Generation | None:
        """The generation of the index that answers; None before the first.

        Raises
        ------
        IndexMissingError
            If one was published, and is damaged.
        """
        if self._neighbours.damage is not None:
            raise self._neighbours.damage
        return self._neighbours.generation

    @property
    def metric(self) -> Metric:
        """What the store is searched by, unless a question says otherwise."""
        return self._neighbours.defaults.metric

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
        self._neighbours.close()

    def search(
        self,
        images: Iterable[str | os.PathLike[str]],
        k: int | None = None,
        *,
        candidates: int | None = None,
        exact: bool = False,
        metric: Metric | None = None,
    ) -> list[QueryResult]:
        """Find the images most like each query.

        Parameters
        ----------
        images : iterable of path-like
            Image files, and folders, whose photos are all queries.
        k : int, optional
            Hits wanted.
        candidates : int, optional
            How many the index proposes for the ranking.
        exact : bool
            Rank every image of the store instead of the index's candidates.
        metric : {"cosine", "l2"}, optional
            ``l2`` ranks by Euclidean distance, and always every image.

        Returns
        -------
        list of QueryResult
            In the order of `images`. A query that cannot be read has no hits and says why.

        Raises
        ------
        IndexMissingError
            If it takes the index, and that is damaged.
        """
        return list(self.stream(images, k, candidates=candidates, exact=exact, metric=metric))

    def stream(
        self,
        images: Iterable[str | os.PathLike[str]],
        k: int | None = None,
        *,
        candidates: int | None = None,
        exact: bool = False,
        metric: Metric | None = None,
    ) -> Iterator[QueryResult]:
        """Answer queries as they come, however many; parameters and order as in `search`.

        A few hundred are in memory at a time. Where every image is looked at, they share one pass over the store.
        """
        paths: Iterator[str] = chain.from_iterable(map(photos_at, images))
        first = list(islice(paths, 2))
        if not self.scans(exact, metric):
            self._neighbours.expect_questions()
        together = self._scanned_together() if self.scans(exact, metric) else _TOGETHER
        if len(first) == 1:
            together = 1
        paths = chain(first, paths)
        while part := list(islice(paths, together)):
            began = time.perf_counter()
            found: dict[int, NDArray[np.float32]] = {}
            errors: dict[int, str] = {}
            for number, features, error in self._query_features(part, together):
                if error is None:
                    found[number] = features
                else:
                    errors[number] = error
            numbers = sorted(found)
            options: Any = {"candidates": candidates, "exact": exact, "metric": metric}
            answers = self.nearest([found[number] for number in numbers], k, **options)
            hits = dict(zip(numbers, answers, strict=True))
            seconds = round((time.perf_counter() - began) / len(part), 4)
            for number, path in enumerate(part):
                yield QueryResult(path, seconds, hits.get(number, []), errors.get(number))

    def scans(self, exact: bool = False, metric: Metric | None = None) -> bool:
        """Whether such a question is answered by a look at every image; see `Neighbours.scans`."""
        return self._neighbours.scans(exact, metric)

    def nearest(
        self,
        queries: Sequence[NDArray[np.float32]],
        k: int | None = None,
        candidates: int | None = None,
        *,
        exact: bool = False,
        metric: Metric | None = None,
    ) -> list[list[Hit]]:
        """Find the images whose features are nearest to each query's.

        Parameters
        ----------
        queries : sequence of ndarray of shape (d,), float32
            Features of the indexed output, flattened.
        k, candidates, exact, metric
            As in `search`.

        Returns
        -------
        list of list of Hit
        """
        if not len(queries):
            return []
        found = self._neighbours.nearest(np.stack(queries), k, candidates, exact=exact, metric=metric)
        return [to_hits(neighbours) for neighbours in found]

    def _scanned_together(self) -> int:
        """Queries that share a scan: as many as an eighth of the budget holds, features and a normalised copy."""
        length = self.store.feature_length(self.store.spec.indexed)
        return max(1, min(_SCANNED_TOGETHER, self._neighbours.budget_bytes // 8 // (8 * length)))

    def _query_features(self, paths: Sequence[str], together: int) -> Iterator[tuple[int, Any, str | None]]:
        """``(number of the query, features or None, reason or None)`` for each."""
        output = self.store.spec.indexed
        refs = (numbered(number, path) for number, path in enumerate(paths))
        for batch in self._network(together).features(refs):
            rows = batch.features.get(output)
            for place, ref in enumerate(batch.refs):
                assert rows is not None
                yield int(ref.key), rows[place].reshape(-1), None
            for each in batch.rejected:
                yield int(each.ref.key), None, each.reason

    def _network(self, together: int) -> Extractor:
        if self._extractor is not None and together > self._together:  # it was opened for a single image
            self._extractor.close()
            self._extractor = None
        if self._extractor is None:
            self._together = together
            network = query_network(self.store)
            if self._extract_settings is None:
                raise IndexMissingError(f"{self.store.path}: holds no features yet; run 'streamer run CONFIG'")
            settings = self._extract_settings
            if self._device is not None:
                settings = ExtractSettings(**{**vars(settings), "device": self._device})
            self._extractor = Extractor(network, settings, max_batch=together)
        return self._extractor
