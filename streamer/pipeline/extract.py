"""The extract stage: a listing of the source and a store in, the same store up to date out."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable

from streamer.config import Source as SourceChoice
from streamer.config import format_bytes
from streamer.errors import Interrupted, StreamerError
from streamer.extraction import Extractor
from streamer.files import require_space
from streamer.memory import MemoryWatch, give_back_memory
from streamer.records import ImageRef, Progress, Rejected
from streamer.report import Report
from streamer.store import Changes, StoreWriter, find_changes

__all__ = ["ExtractStage"]

_LOG = logging.getLogger(__name__)

# Of an image, in shard and catalog, beside its features.
_NAMES_BYTES = 600


class ExtractStage:
    """Extracts what is new or changed, drops what is gone.

    Parameters
    ----------
    source : SourceChoice
        Where the listing comes from, and how much of it may be gone.
    writer : StoreWriter
    extractor : Extractor
        Closed when the last image is through.
    report : Report
        Filled with counts, rate, and what is left to do.
    progress : callable
        Called with ``("extract", done, total)``.
    should_stop, out_of_time : callable
        Asked after each batch.
    """

    def __init__(
        self,
        source: SourceChoice,
        writer: StoreWriter,
        extractor: Extractor,
        report: Report,
        progress: Progress,
        should_stop: Callable[[], bool],
        out_of_time: Callable[[], bool],
    ) -> None:
        self.source = source
        self.writer = writer
        self.extractor = extractor
        self.report = report
        self.progress = progress
        self.should_stop = should_stop
        self.out_of_time = out_of_time

    def run(self, listing: Iterable[ImageRef | Rejected], watch: MemoryWatch) -> None:
        """Bring the store up to date with the listing.

        Raises
        ------
        StreamerError
            If more of the library is gone than the source allows; nothing was changed.
        StoreWriteError
            If there is no space for what is to be extracted.
        Interrupted
            `should_stop` said so. Everything extracted is committed.
        """
        began = time.monotonic()
        writer, images = self.writer, self.report.images
        changes = find_changes(listing, writer.catalog, self.extractor.limits)
        try:
            images |= {"seen": changes.seen, "unchanged": changes.unchanged}
            self._refuse_to_drop(changes)
            self._require_space(changes)
            missing = changes.missing_count()
            writer.apply(changes)
            _LOG.info(
                "%d images: %d to look at, %d unchanged, %d gone, %d that failed before",
                *(changes.seen, changes.pending_count, changes.unchanged, missing, changes.known_bad),
            )
            done = self._append(changes, watch) if changes.pending_count else 0
            self.report.engine, self.report.device = self.extractor.engine_name, self.extractor.device
            self.extractor.close()
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

    def _append(self, changes: Changes, watch: MemoryWatch) -> int:
        """Extract what is pending, until it is done or the run is to end; how many images it was."""
        writer, extractor = self.writer, self.extractor
        _LOG.info("plan within %s: %s", format_bytes(extractor.settings.budget_bytes), extractor.summary)
        done = 0
        found = extractor.features(changes.pending(), watch, writer.knows, writer.spec.augmentation)
        with contextlib.closing(found) as batches:
            for batch in batches:
                writer.append(batch)
                done += len(batch.originals) + len(batch.rejected) + len(batch.known)
                self.progress("extract", done, changes.pending_count)
                if self.should_stop() or self.out_of_time():
                    break
        return done

    def _require_space(self, changes: Changes) -> None:
        writer = self.writer
        images = changes.pending_count - self._likely_moved(changes)
        row_bytes = writer.compressed_share() * writer.spec.row_bytes + _NAMES_BYTES
        n_bytes = int(images * (1 + writer.spec.copies) * row_bytes)
        require_space(writer.path, n_bytes, f"extracting {images} images")

    def _refuse_to_drop(self, changes: Changes) -> None:
        """A disk that is not mounted looks like an empty folder, one of two that are joined like half a library."""
        source, gone = self.source, changes.missing_count()
        held = self.writer.catalog.count("images")
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
        """The images of an array are all of one size, which tells nothing of where they went."""
        return 0 if self.source.kind in ("stl10", "array") else changes.likely_moved()
