"""extract -> reduce -> index: the one place where the rooms are wired together."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TypeVar

from streamer.backbones import Output
from streamer.config import Config, format_bytes
from streamer.config import Source as SourceChoice
from streamer.errors import (
    ConfigError,
    ExitCode,
    FingerprintMismatchError,
    IndexMissingError,
    Interrupted,
    StoreMissingError,
    StreamerError,
    exit_code_of,
)
from streamer.extraction import Extractor, ExtractSettings, Network
from streamer.files import require_space
from streamer.images import FolderSource, Labels, Stl10Source, labelled, read_labels
from streamer.index import annoy_installed, current_generation, require_annoy
from streamer.indexing import IndexBuilder, IndexSettings
from streamer.memory import MemoryWatch, budget_bytes, give_back_memory, resident_bytes
from streamer.records import Augmentation, ImageRef, Progress, Rejected
from streamer.report import Report
from streamer.runlog import call_on_failure, keep_report, log_to
from streamer.store import (
    Changes,
    FeatureSpec,
    RunRecord,
    Store,
    StoreLock,
    StoreWriter,
    find_changes,
    recorded,
    require_compression,
    writing,
    writing_bytes,
)

__all__ = ["run"]

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

# Of an image, in shard and catalog, beside its features.
_NAMES_BYTES = 600

STAGES = ("extract", "reduce", "index")


def run(
    config: Config,
    stages: Sequence[str] = STAGES,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Bring a store up to date with its source.

    Parameters
    ----------
    config : Config
    stages : sequence of {"extract", "reduce", "index"}
        Which to run. With all three, PCA and index are made anew only when the images or their settings have changed;
        a stage asked for by itself is always done.
    progress : callable, optional
        Called with ``(stage, done, total)``.
    should_stop : callable, optional
        Asked after each batch; True ends the run cleanly.

    Returns
    -------
    Report

    Raises
    ------
    ConfigError, WeightsError, EngineUnavailableError
        What is asked for cannot be done here.
    BudgetTooSmallError
        It cannot be done within the memory budget; nothing was started.
    StoreMissingError
        There is no store, and "extract" is not among the stages.
    StoreLockedError
        Another run is writing to this store.
    Interrupted
        `should_stop` said so. Everything extracted is committed.
    """
    if "extract" not in stages:
        Store(config.store).close()  # says so when there is none
    job = _Job(config, progress or (lambda stage, done, total: None), should_stop)
    try:
        with job.planned(stages) as extractor, StoreLock(config.store), log_to(config.log_file):
            return job.run(stages, extractor)
    except Exception as error:
        if exit_code_of(error) != ExitCode.INTERRUPTED:
            facts = {"exit_code": exit_code_of(error), "message": error, "store": config.store, "log": config.log_file}
            call_on_failure(config.run.on_failure, facts)
        raise


class _Job:
    def __init__(self, config: Config, progress: Progress, should_stop: Callable[[], bool]) -> None:
        self.config = config
        self.progress = progress
        self.should_stop = should_stop
        self.budget = budget_bytes(config.memory.budget)
        self.report = Report(store=str(config.store), memory_budget_bytes=self.budget)
        self.began = time.monotonic()

    @cached_property
    def settings(self) -> ExtractSettings:
        config = self.config
        return ExtractSettings(
            engine=config.engine,
            device=config.device,
            budget_bytes=self.budget,
            gpu_fraction=config.memory.gpu_fraction,
            threads=config.run.threads,
            max_pixels=config.images.max_pixels,
            max_file_bytes=config.images.max_file,
        )

    @cached_property
    def index(self) -> IndexSettings:
        config = self.config
        if config.index.kind == "annoy":
            require_annoy()
        kind = config.index.kind or ("annoy" if annoy_installed() else "ivf")
        return IndexSettings(
            kind=kind,
            components=config.reduce.components,
            whiten=config.reduce.whiten,
            parts=config.index.trees if kind == "annoy" else config.index.clusters,
            effort=config.index.search_k if kind == "annoy" else config.index.probes,
            seed=config.index.seed,
            candidates=config.search.candidates,
            recall=config.search.recall,
        )

    def out_of_time(self) -> bool:
        limit = self.config.run.max_minutes
        return limit is not None and time.monotonic() - self.began >= 60 * limit

    @contextlib.contextmanager
    def planned(self, stages: Sequence[str]) -> Iterator[Extractor | None]:
        """Refuse now what would run out of memory hours later, or never be right; nothing is made yet.

        There is a network only where something is to be extracted: the other stages take features as they are.
        """
        with contextlib.ExitStack() as opened:
            try:
                extractor = None
                if "extract" in stages:
                    extractor = opened.enter_context(self._extractor())
                self._check_plan(stages, extractor)
            except Exception:
                if (self.config.store / "catalog.sqlite").is_file():  # then somebody will look there for what happened
                    with StoreLock(self.config.store), log_to(self.config.log_file), self._told(stages):
                        raise
                raise
            yield extractor

    def _extractor(self) -> Extractor:
        self._source()
        _ = self._labels
        compression = self.config.storage.compression
        require_compression(compression, "storage.compression")
        network = _network(self.config)
        held = writing_bytes(_stored(network, self.config), compression)
        return Extractor(network, self.settings, writing_bytes=held)

    def _check_plan(self, stages: Sequence[str], extractor: Extractor | None) -> None:
        held = resident_bytes()
        if extractor is not None:
            held += extractor.kept_bytes
        if "reduce" in stages and self.index.kind != "exact":
            self.index.block_rows(self.budget, self._spec(extractor).outputs, held)

    def _spec(self, extractor: Extractor | None) -> FeatureSpec:
        """What is to be extracted, or what is there."""
        if extractor is not None:
            return _stored(extractor.network, self.config)
        with Store(self.config.store) as store:
            return store.spec

    def run(self, stages: Sequence[str], extractor: Extractor | None) -> Report:
        with self._told(stages) as record:
            with MemoryWatch(self.budget) as watch, self._writer(extractor) as writer:
                record.begin()
                self._stages(stages, writer, extractor, watch)
                self.report.seconds["total"] = round(time.monotonic() - self.began, 3)
                self.report.peak_rss_bytes = watch.sample()
                with writing(self.config.store):
                    keep_report(self.config.store / "reports", self.report.to_dict())
            record.exit_code = self.report.exit_code
            _LOG.info("done with exit code %d: %s", record.exit_code, json.dumps(self.report.to_dict()))
        return self.report

    @contextlib.contextmanager
    def _told(self, stages: Sequence[str]) -> Iterator[RunRecord]:
        """Say in log and catalog what began and how it ended."""
        command = "run" if tuple(stages) == STAGES else stages[-1]
        source = self.config.source
        _LOG.info("streamer %s: %s%s", command, f"{source.place} to " if source else "", self.config.store)
        try:
            with recorded(self.config.store, command) as record:
                yield record
        except BaseException as error:
            _LOG.error("failed with exit code %d: %s", exit_code_of(error), str(error) or type(error).__name__)
            raise

    def _stages(
        self, stages: Sequence[str], writer: StoreWriter, extractor: Extractor | None, watch: MemoryWatch
    ) -> None:
        writer.catalog.set_settings({"search": self.config.search.model_dump(), "extract": asdict(self.settings)})
        if extractor is not None:
            self.report.engine, self.report.device = extractor.engine_name, extractor.device
            self._timed("extract", lambda: self._extract(writer, extractor, watch))
        with Store(self.config.store) as store:
            self.report.images["failed"] = store.catalog.count("failures")
            with writing(self.config.store):
                self._index(stages, store)

    def _index(self, stages: Sequence[str], store: Store) -> None:
        alone = len(stages) == 1
        asked = self.config.index
        for name, value in {"trees": asked.trees, "search_k": asked.search_k}.items():
            if value is not None and self.index.kind != "annoy":
                _LOG.warning(
                    "index.%s: %d is of no effect: the annoy package is not installed, and the index is of kind %s; "
                    "install annoy, or set index.kind: %s and leave it out",
                    *(name, value, self.index.kind, self.index.kind),
                )
        try:
            current = current_generation(store.path / "index")
        except IndexMissingError as error:
            _LOG.warning("the index is damaged and will be made anew: %s", error)
            current = None
        builder = IndexBuilder(store, self.index, self.budget, self.progress, self.should_stop)
        if not alone and not builder.is_due(current, self.config.index.rebuild_fraction):
            _LOG.info("the index is good as it is")
        elif len(store) == 0:
            if alone and "extract" not in stages:
                raise StreamerError(f"{self.config.store}: holds no images; run 'streamer extract' first")
            _LOG.warning("there are no images to index")
        elif not alone and self.out_of_time():
            _LOG.warning("run.max_minutes are over: the index is made anew by the next run, and searches look further")
        else:
            if "reduce" in stages and self.index.kind != "exact":
                self._timed("reduce", builder.reduce)
            if "index" in stages:
                current = self._timed("index", builder.build)
        self.report.generation = current.number if current else 0

    def _timed(self, stage: str, work: Callable[[], _T]) -> _T:
        began = time.monotonic()
        try:
            return work()
        finally:
            self.report.seconds[stage] = round(time.monotonic() - began, 3)

    def _writer(self, extractor: Extractor | None) -> StoreWriter:
        return StoreWriter(
            self.config.store,
            self._spec(extractor),
            engine=extractor.engine_name if extractor is not None else "",
            limits=extractor.limits if extractor is not None else "",
            compression=self.config.storage.compression,
            commit_seconds=self.config.run.commit_seconds,
            commit_bytes=self.config.run.commit_size,
        )

    # -- extract ------------------------------------------------------------------------------------------------------

    def _extract(self, writer: StoreWriter, extractor: Extractor, watch: MemoryWatch) -> None:
        began = time.monotonic()
        changes = find_changes(self._listing(), writer.catalog, extractor.limits)
        images = self.report.images
        try:
            images |= {"seen": changes.seen, "unchanged": changes.unchanged}
            self._refuse_to_drop(changes, writer)
            self._require_space(changes, writer)
            missing = changes.missing_count()
            writer.apply(changes)
            _LOG.info(
                "%d images: %d to look at, %d unchanged, %d gone, %d that failed before",
                *(changes.seen, changes.pending_count, changes.unchanged, missing, changes.known_bad),
            )
            done = 0
            if changes.pending_count:
                _LOG.info("plan within %s: %s", format_bytes(self.budget), extractor.summary)
                found = extractor.features(changes.pending(), watch, writer.knows, writer.spec.augmentation)
                with contextlib.closing(found) as batches:
                    for batch in batches:
                        writer.append(batch)
                        done += len(batch.originals) + len(batch.rejected) + len(batch.known)
                        self.progress("extract", done, changes.pending_count)
                        if self.should_stop() or self.out_of_time():
                            break
            self.report.engine, self.report.device = extractor.engine_name, extractor.device
            extractor.close()
            give_back_memory()
            self.report.remaining = changes.pending_count - done
            if self.report.remaining:
                writer.commit()
                images["removed"] = sum(1 for _ in changes.removed())
            else:
                writer.finish()
                images["removed"] = changes.missing_count()
            writer.publish_view()
        finally:
            changes.close()
            images |= {name: writer.counts[name] for name in ("added", "updated", "moved")}
            images["unchanged"] += writer.counts["unchanged"]
        extracted = writer.counts["added"] + writer.counts["updated"]
        self.report.images_per_second = round(extracted / (time.monotonic() - began), 3)
        if self.report.remaining:
            what = f"{done} of {changes.pending_count} images"
            if self.should_stop():
                raise Interrupted(f"stopped after {what}; all of them are committed, the next run goes on from there")
            _LOG.warning("run.max_minutes are over after %s; the next run goes on from there", what)

    def _require_space(self, changes: Changes, writer: StoreWriter) -> None:
        images = changes.pending_count - self._likely_moved(changes)
        share = writer.compressed_share()
        row_bytes = share * writer.spec.row_bytes + _NAMES_BYTES
        n_bytes = int(images * (1 + writer.spec.copies) * row_bytes)
        require_space(self.config.store, n_bytes, f"extracting {images} images")

    def _refuse_to_drop(self, changes: Changes, writer: StoreWriter) -> None:
        """A disk that is not mounted looks like an empty folder, one of two that are joined like half a library."""
        source, gone = self._wanted_source, changes.missing_count()
        held = writer.catalog.count("images")
        if changes.seen == 0 and gone and not source.allow_empty:
            raise StreamerError(
                f"{source.place}: holds no images at all, but the store holds {held}: nothing was changed. Is the "
                "disk mounted? If the images are really gone, run once with --set source.allow_empty=true"
            )
        lost = gone - self._likely_moved(changes)
        if lost > source.max_removed * held and changes.seen:
            raise StreamerError(
                f"{source.place}: {lost} of the {held} images in the store are gone, more than source.max_removed "
                f"allows ({source.max_removed:.0%}): nothing was changed. Is part of the library not mounted? If the "
                "images are really gone, run once with --set source.max_removed=1"
            )

    def _likely_moved(self, changes: Changes) -> int:
        """The images of a file in STL-10's format are all of one size, which tells nothing of where they went."""
        return 0 if self._wanted_source.stl10 else changes.likely_moved()

    @property
    def _wanted_source(self) -> SourceChoice:
        if self.config.source is None:
            raise ConfigError(
                "'source' is missing (where the photos are, for example {folder: ~/Pictures}); without it, only "
                "'streamer reduce CONFIG' and 'streamer index CONFIG' have something to work on"
            )
        return self.config.source

    @cached_property
    def _labels(self) -> Labels | None:
        return None if self.config.labels is None else read_labels(self.config.labels)

    def _listing(self) -> Iterable[ImageRef | Rejected]:
        return self._source() if self._labels is None else labelled(self._source(), self._labels)

    def _source(self) -> FolderSource | Stl10Source:
        source = self._wanted_source
        folder, exclude = source.folder, list(source.exclude)
        if folder is None:
            return Stl10Source(source.place)
        if self.config.store.is_relative_to(folder):
            inner = self.config.store.relative_to(folder).as_posix()
            if inner == ".":
                raise ConfigError(f"store: {folder} is the source folder itself; give the store a folder of its own")
            exclude.append(f"{inner}/**")
        try:
            return FolderSource(folder, exclude)
        except ValueError as error:
            raise ConfigError(f"source.exclude: {error}") from None


def _network(config: Config) -> Network:
    with contextlib.suppress(StoreMissingError), Store(config.store) as store:
        if store.spec.imported:
            raise FingerprintMismatchError(
                f"{config.store}: holds features that were imported ({store.spec.indexed}); photos cannot be turned "
                "into such features here: give the config another 'store:', or bring more by 'streamer import'"
            )
    choice = config.backbone
    outputs = (
        None if choice.outputs is None else [Output(each.layer, each.pooling, each.grid) for each in choice.outputs]
    )
    size = None if choice.input_size is None else (choice.input_size, choice.input_size)
    name: str = choice.name
    weights = choice.weights
    left_open = name == weights == "auto"
    if left_open:
        # Weights that came to this machine since must not turn a library of photos away from its store.
        with contextlib.suppress(StoreMissingError), Store(config.store) as store:
            name, weights = store.spec.backbone, store.spec.weights
    return Network.choose(name, outputs, size, weights, choice.seed, config.precision, download=not left_open)


def _stored(network: Network, config: Config) -> FeatureSpec:
    """What is stored of the network's features."""
    augmentation = None
    if config.augment.copies:
        from streamer.images.augment import AUGMENT_RECIPE

        augmentation = Augmentation(**config.augment.model_dump(), recipe=AUGMENT_RECIPE)
    return replace(network.spec(), dtype=config.storage.dtype, augmentation=augmentation)
