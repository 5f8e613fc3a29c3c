"""One job: the plan before anything is made, the lock, the stages in their order, and the report at the end."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TypeVar

from streamer.config import Config
from streamer.errors import ExitCode, IndexMissingError, StreamerError, exit_code_of
from streamer.extraction import Extractor
from streamer.images import Labels, labelled
from streamer.index import current_generation
from streamer.indexing import IndexBuilder, IndexSettings
from streamer.memory import MemoryWatch, budget_bytes, resident_bytes
from streamer.pipeline.configured import (
    chosen_network,
    extract_settings,
    fetches,
    index_settings,
    labels_of,
    open_source,
    remote_limits,
    source_choice,
    stored,
)
from streamer.pipeline.extract import ExtractStage
from streamer.records import ImageRef, Progress, Rejected
from streamer.report import Report
from streamer.runlog import call_on_failure, keep_report, log_to
from streamer.store import (
    FeatureSpec,
    RunRecord,
    Store,
    StoreLock,
    StoreWriter,
    recorded,
    require_compression,
    writing,
    writing_bytes,
)

__all__ = ["STAGES", "run"]

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

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
    def index(self) -> IndexSettings:
        return index_settings(self.config)

    @cached_property
    def labels(self) -> Labels | None:
        return labels_of(self.config)

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
        open_source(self.config)
        _ = self.labels
        compression = self.config.storage.compression
        require_compression(compression, "storage.compression")
        network = chosen_network(self.config)
        remote = remote_limits(self.config) if fetches(self.config) else None
        held = writing_bytes(stored(network, self.config), compression) + (remote.lookahead_bytes if remote else 0)
        return Extractor(network, extract_settings(self.config), held_bytes=held, remote=remote)

    def _check_plan(self, stages: Sequence[str], extractor: Extractor | None) -> None:
        held = resident_bytes()
        if extractor is not None:
            held += extractor.kept_bytes
        if "reduce" in stages and self.index.kind != "exact":
            self.index.block_rows(self.budget, self._spec(extractor).outputs, held)

    def _spec(self, extractor: Extractor | None) -> FeatureSpec:
        """What is to be extracted, or what is there."""
        if extractor is not None:
            return stored(extractor.network, self.config)
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
        settings = {"search": self.config.search.model_dump(), "extract": asdict(extract_settings(self.config))}
        writer.catalog.set_settings(settings)
        if extractor is not None:
            self.report.engine, self.report.device = extractor.engine_name, extractor.device
            stage = ExtractStage(
                source_choice(self.config),
                *(writer, extractor, self.report, self.progress, self.should_stop, self.out_of_time),
            )
            self._timed("extract", lambda: stage.run(self._listing(), watch))
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

    def _listing(self) -> Iterable[ImageRef | Rejected]:
        source = open_source(self.config)
        return source if self.labels is None else labelled(source, self.labels)
