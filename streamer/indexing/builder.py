"""Features in, a published index generation out: fit PCA, build the index, measure its recall, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from streamer.calibration import calibrate
from streamer.errors import IndexMissingError, Interrupted
from streamer.index import Draft, Generation, Manifest, current_generation
from streamer.indexing.candidates import located_blocks, make_candidates
from streamer.indexing.settings import IndexSettings
from streamer.memory import resident_bytes
from streamer.records import Progress
from streamer.reduction import Reducer, block_sizes, fit, usable_components
from streamer.residency import MAPS
from streamer.retrieval import ReducedIndex
from streamer.store import Store

__all__ = ["IndexBuilder"]

_LOG = logging.getLogger(__name__)

_Block = TypeVar("_Block", bound=tuple[NDArray[np.int64], NDArray[np.float32]])


class IndexBuilder:
    """Makes the next generation of a store's index.

    Parameters
    ----------
    store : Store
    settings : IndexSettings
    budget : int
        Memory, bytes.
    progress : callable
        Called with ``(stage, rows done, rows to do)``.
    should_stop : callable
        Asked before each block; True raises `Interrupted`. The published generation stays as it is.
    """

    def __init__(
        self, store: Store, settings: IndexSettings, budget: int, progress: Progress, should_stop: Callable[[], bool]
    ) -> None:
        self._store = store
        self._settings = settings
        self._budget = budget
        self._progress = progress
        self._should_stop = should_stop
        self._folder = store.path / "index"
        approximate = settings.kind != "exact"
        self._wanted = Manifest(
            kind=settings.kind,
            output=store.spec.indexed,
            fingerprint=store.spec.fingerprint,
            rows=len(store),
            newest_id=store.catalog.newest_id(),
            dimension=0,
            components=settings.components if approximate else 0,
            whiten=settings.whiten and approximate,
            parts=settings.parts_for(len(store)),
            parts_asked=settings.parts if approximate else None,
            seed=settings.seed,
            effort=0,
            effort_asked=settings.effort if approximate else None,
            candidates=settings.candidates if approximate else 0,
            recall_asked=settings.recall if approximate else 1.0,
            recall_at_10=None,
        )

    def is_due(self, generation: Generation | None, rebuild_fraction: float) -> bool:
        """Whether a new generation is worth its while.

        Parameters
        ----------
        generation : Generation or None
            The published one.
        rebuild_fraction : float
            Images that are newer than it are searched one by one, beside it; those that are gone are in its way.
            More than this share of the indexed ones, and it is due.
        """
        if generation is None:
            return True
        for file, what in generation.faults():
            _LOG.warning("%s: %s: the index is made anew", file, what)
            return True
        wanted, built = self._wanted, generation.manifest
        as_asked = replace(built, dimension=0, effort=0, recall_at_10=None, files={})
        # An index of other rows may have other parts: those that are chosen go by the number of rows.
        if replace(as_asked, rows=wanted.rows, newest_id=wanted.newest_id, parts=wanted.parts) != wanted:
            return True
        older, newer = self._store.catalog.count_since(built.newest_id)
        if newer:
            _LOG.info("%d images are newer than the index and are searched beside it", newer)
        return newer + built.rows - older > rebuild_fraction * built.rows

    def reduce(self) -> None:
        """Fit PCA into a new draft."""
        wanted, store = self._wanted, self._store
        length = store.feature_length(wanted.output)
        target = self._settings.block_rows(self._budget, store.spec.outputs, resident_bytes(), wanted.rows)
        sizes = block_sizes(wanted.rows, target, usable_components(wanted.components, wanted.rows, length))
        _LOG.info("fitting PCA on %d rows of %d, %d at a time", wanted.rows, length, target)
        rows = self._counted("reduce", store.blocks(wanted.output, sizes))
        reducer = fit((features for _, features in rows), wanted.rows, length, wanted.components, wanted.whiten)
        reducer.save(Draft.begin(self._folder).reducer_path)

    def build(self) -> Generation:
        """Build the index on the fitted PCA, and publish it."""
        wanted, store = self._wanted, self._store
        if wanted.kind == "exact":
            return Draft.begin(self._folder).publish(wanted)
        draft, reducer = self._draft()
        rows = self._counted("index", located_blocks(store, wanted.output))
        make_candidates(wanted, draft, reducer, rows, self._check_stop)
        MAPS.bound(self._budget)
        with ReducedIndex(wanted.kind, draft.path) as index:
            tuned = calibrate(
                store,
                index,
                candidates=wanted.candidates,
                recall=wanted.recall_asked,
                effort=wanted.effort_asked,
            )
        if tuned.recall < wanted.recall_asked:
            _LOG.warning(
                "recall@10 is %.3f, not %.3f as search.recall asks: raise search.candidates or reduce.components",
                *(tuned.recall, wanted.recall_asked),
            )
        dimension, recall = len(reducer.components), round(tuned.recall, 4)
        return draft.publish(replace(wanted, dimension=dimension, effort=tuned.effort, recall_at_10=recall))

    def _draft(self) -> tuple[Draft, Reducer]:
        """The draft that `reduce` has begun; else one that takes over the published reducer."""
        draft = Draft.existing(self._folder)
        if draft is not None:
            return draft, self._checked(Reducer.load(draft.reducer_path))
        try:
            current = current_generation(self._folder)
        except IndexMissingError:
            current = None
        if current is None or current.manifest.kind == "exact":
            raise IndexMissingError(f"{self._store.path}: no PCA has been fitted; run 'streamer reduce' first")
        reducer = self._checked(Reducer.load(current.path / "reducer.npz"))
        draft = Draft.begin(self._folder)
        reducer.save(draft.reducer_path)
        return draft, reducer

    def _checked(self, reducer: Reducer) -> Reducer:
        if (reducer.asked, reducer.whiten) != (self._wanted.components, self._wanted.whiten):
            raise IndexMissingError(
                f"{self._store.path}: PCA was fitted for {reducer.asked} components with whiten: {reducer.whiten}, "
                f"and the config asks for {self._wanted.components} and {self._wanted.whiten}; run 'streamer reduce'"
            )
        return reducer

    def _counted(self, stage: str, blocks: Iterable[_Block]) -> Iterator[_Block]:
        done = 0
        for block in blocks:
            self._check_stop(stage)
            yield block
            done += len(block[0])
            self._progress(stage, done, self._wanted.rows)

    def _check_stop(self, stage: str = "index") -> None:
        if self._should_stop():
            raise Interrupted(f"stopped in the {stage} stage; the features are committed, the old index answers")
