"""Features in, a published index generation out: fit PCA, build the index, measure its recall, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamer.calibration import calibrate
from streamer.errors import IndexMissingError, Interrupted
from streamer.files import require_space
from streamer.index import Draft, Generation, Manifest, build_annoy, current_generation
from streamer.memory import plan_blocks, resident_bytes
from streamer.records import Progress
from streamer.reduction import Reducer, block_sizes, fit, fit_bytes, usable_components
from streamer.retrieval import ApproximateIndex
from streamer.store import Store

__all__ = ["IndexBuilder", "IndexSettings"]

_LOG = logging.getLogger(__name__)

_AUTO_TREES = 30
# The size of the file by that of the vectors: 1.2 to 1.6 were measured with 30 trees, and it grows in steps of a third.
_ANNOY_OVERHEAD = 2.2
_BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class IndexSettings:
    """How to index, without a word on what.

    Attributes
    ----------
    kind : {"annoy", "exact"}
    components, whiten : int, bool
        Of PCA.
    trees : int or None
        None chooses.
    seed : int
    candidates : int
        That a search will ask for.
    recall : float
        Recall@10 to reach.
    """

    kind: str
    components: int
    whiten: bool
    trees: int | None
    seed: int
    candidates: int
    recall: float

    def block_rows(
        self, budget: int, outputs: Mapping[str, tuple[int, ...]], held_bytes: int, n_rows: int | None = None
    ) -> int:
        """Rows that PCA can be fitted on at a time.

        Parameters
        ----------
        budget : int
            Bytes.
        outputs : mapping of str to tuple of int
            Shapes of the features; the first is indexed.
        held_bytes : int
            What the process will hold besides.
        n_rows : int, optional
            How many there are. Without it, nothing has been extracted yet, and a budget that is too small is refused.

        Raises
        ------
        BudgetTooSmallError
            If not even the smallest block fits and `n_rows` is not given.
        """
        length = int(np.prod(next(iter(outputs.values()))))
        components = usable_components(self.components, n_rows or 2**31, length)

        def largest(rows: int) -> int:
            """The largest block, as no small rest may be left over."""
            return max(block_sizes(n_rows, rows, components)) if n_rows else max(rows, 2 * components - 1)

        plan = plan_blocks(
            budget,
            held_bytes=held_bytes,
            row_bytes=4 * length,
            minimum_rows=components,
            fit_bytes=lambda rows: fit_bytes(largest(rows), components, length) + 8 * (largest(rows) - rows) * length,
            refuse=n_rows is None,
        )
        return plan.rows


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
        approximate = settings.kind == "annoy"
        self._wanted = Manifest(
            kind=settings.kind,
            output=store.spec.indexed,
            fingerprint=store.spec.fingerprint,
            rows=len(store),
            newest_id=store.catalog.newest_id(),
            dimension=0,
            components=settings.components if approximate else 0,
            whiten=settings.whiten and approximate,
            trees=(settings.trees or _AUTO_TREES) if approximate else 0,
            trees_asked=settings.trees if approximate else None,
            seed=settings.seed,
            search_k=0,
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
        as_asked = replace(built, dimension=0, search_k=0, recall_at_10=None, files={})
        if replace(as_asked, rows=wanted.rows, newest_id=wanted.newest_id) != wanted:
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
        rows = self._counted("reduce", (features for _, features in store.blocks(wanted.output, sizes)))
        reducer = fit(rows, wanted.rows, length, wanted.components, wanted.whiten)
        reducer.save(Draft.begin(self._folder).reducer_path)

    def build(self) -> Generation:
        """Build the index on the fitted PCA, and publish it."""
        wanted, store = self._wanted, self._store
        block_rows = max(1, _BLOCK_BYTES // (4 * store.feature_length(wanted.output)))
        if wanted.kind == "exact":
            draft = Draft.begin(self._folder)
            with draft.writing_ids(wanted.rows) as append:
                for block, *_ in store.catalog.places(iter(lambda: block_rows, None)):
                    append(block)
            return draft.publish(wanted)
        draft, reducer = self._draft()
        # Annoy writes through a memory map: on a full disk that is not an error but the end of the process.
        size = _ANNOY_OVERHEAD * wanted.rows * 4 * len(reducer.components)
        require_space(self._folder, int(size), f"indexing {wanted.rows} images")

        def vectors() -> Iterator[NDArray[np.float32]]:
            with draft.writing_ids(wanted.rows) as append:
                for block, features in store.blocks(wanted.output, block_rows):
                    append(block)
                    yield reducer.transform(features)

        dimension = len(reducer.components)
        build_annoy(
            draft.annoy_path, self._counted("index", vectors()), dimension, trees=wanted.trees, seed=wanted.seed
        )
        with ApproximateIndex(draft.reducer_path, draft.annoy_path, draft.ids()) as index:
            tuned = calibrate(
                store, index, trees=wanted.trees, candidates=wanted.candidates, recall=wanted.recall_asked
            )
        if tuned.recall < wanted.recall_asked:
            _LOG.warning(
                "recall@10 is %.3f, not %.3f as search.recall asks: raise search.candidates or reduce.components",
                *(tuned.recall, wanted.recall_asked),
            )
        measured = {"dimension": dimension, "search_k": tuned.search_k, "recall_at_10": round(tuned.recall, 4)}
        return draft.publish(Manifest(**{**asdict(wanted), **measured}))

    def _draft(self) -> tuple[Draft, Reducer]:
        """The draft that `reduce` has begun; else one that takes over the published reducer."""
        draft = Draft.existing(self._folder)
        if draft is not None:
            return draft, self._checked(Reducer.load(draft.reducer_path))
        try:
            current = current_generation(self._folder)
        except IndexMissingError:
            current = None
        if current is None or current.manifest.kind != "annoy":
            raise IndexMissingError(f"{self._store.path}: no PCA has been fitted; run 'streamer reduce' first")
        reducer = self._checked(Reducer.load(current.reducer_path))
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

    def _counted(self, stage: str, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        done = 0
        for block in blocks:
            if self._should_stop():
                raise Interrupted(f"stopped in the {stage} stage; the features are committed, the old index answers")
            yield block
            done += len(block)
            self._progress(stage, done, self._wanted.rows)
