"""Everything that a served store needs, opened together and closed together."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from streamer.errors import IndexMissingError
from streamer.images.gate import ByteGate, hand_back_freed_buffers
from streamer.images.pixels import DecodeLimits
from streamer.index import current_generation
from streamer.serving.grouping import Groups, find_groups
from streamer.serving.jobs import Jobs
from streamer.serving.library import Library
from streamer.serving.mapping import LibraryMap, draw_map
from streamer.serving.photos import PhotoShelf
from streamer.serving.plan import plan_serving
from streamer.serving.queries import Queries
from streamer.serving.settings import ServeSettings
from streamer.serving.uploads import Uploads

__all__ = ["Service"]

_GROUPINGS_KEPT = 4
# One that is asked for, and those of commits that came while it was drawn: less than a megabyte each.
_MAPS_KEPT = 3


class Service:
    """A store that is served.

    Parameters
    ----------
    path : Path
        The store's folder.
    settings : ServeSettings

    Attributes
    ----------
    ready : threading.Event
        Set when network and index are loaded.

    Raises
    ------
    StoreMissingError, StoreCorruptError
        There is no readable store.
    BudgetTooSmallError
        The server does not fit into its memory budget.
    ConfigError, WeightsError
        The network that made the features cannot be had.
    """

    def __init__(self, path: Path, settings: ServeSettings) -> None:
        hand_back_freed_buffers()
        self.path = path
        self.settings = settings
        self.ready = threading.Event()
        self._closing = ExitStack()
        try:
            self.library = Library(path)
            self._closing.callback(self.library.close)
            self.spec = self.library.store.spec
            self.plan = plan_serving(self.library.store, settings)
            gate = ByteGate(self.plan.decode_bytes)
            limits = DecodeLimits(settings.max_pixels, 2**30, self.plan.decode_bytes)
            self.uploads = Uploads(path, settings.body_seconds)
            self._closing.callback(self.uploads.close)
            self.queries = Queries(path, self.plan, settings, gate)
            self._closing.callback(self.queries.close)
            self.shelf = PhotoShelf(path, self.plan, settings, limits, gate)
            self._closing.callback(self.shelf.close)
            self.maps: Jobs[LibraryMap] = Jobs("map", most_kept=_MAPS_KEPT, most_waiting=_MAPS_KEPT - 1)
            self._closing.callback(self.maps.close)
            self.groupings: Jobs[Groups] = Jobs("duplicates", most_kept=_GROUPINGS_KEPT)
            self._closing.callback(self.groupings.close)
            self._closing.callback(gate.close)
        except BaseException:
            self._closing.close()
            raise

    def load(self) -> None:
        """Load network and index; from then on questions are answered."""
        self.shelf.load()
        self.queries.load()
        self.ready.set()

    def close(self) -> None:
        """End all threads and processes, and close the store."""
        self.ready.clear()
        self._closing.close()

    def generation(self) -> tuple[int, str, float | None]:
        """Number, kind and recall of the published index; 0, exact and None where every photo is looked at."""
        try:
            found = current_generation(self.path / "index")
        except IndexMissingError:
            found = None
        if found is None:
            return 0, "exact", None
        return found.number, found.manifest.kind, found.manifest.recall_at_10

    def drawn_map(self, labels: tuple[str, ...]) -> LibraryMap:
        """The map, worked out now; on a thread of its own."""
        return draw_map(self.path, labels)

    def grouped(self, threshold: float, should_stop: object) -> Groups:
        """Near-duplicates, worked out now; on a thread of their own."""
        assert callable(should_stop)
        return find_groups(self.path, self.settings.device, self.plan.search_bytes, threshold, should_stop)
