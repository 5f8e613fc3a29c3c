"""The network at work: decoded in parallel, run in batches, within one memory plan."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

import numpy as np

from streamer.engines import Engine, EngineMode, choose_device, choose_engine, engine_modes, forward, open_engine
from streamer.errors import EngineUnavailableError
from streamer.extraction.network import Network
from streamer.images.batches import batches
from streamer.images.feeding import usable_cores
from streamer.memory import ExtractPlan, MemoryWatch, plan_extract
from streamer.objects import RemoteLimits
from streamer.records import Augmentation, Decoded, FeatureBatch, ImageRef, Known, Rejected

__all__ = ["ExtractSettings", "Extractor"]

_LOG = logging.getLogger(__name__)

# Larger batches made no engine faster on a CPU; a GPU wants enough work at once.
_MAX_BATCH = {"cpu": 8, "gpu": 128}
# More than the images that can be between decoding and the store: three batches on a GPU.
_UNDER_WAY = 1024


@dataclass(frozen=True)
class ExtractSettings:
    """How to run a network, without a word on which.

    Attributes
    ----------
    engine, device : str
        ``auto`` or a name.
    budget_bytes : int
    gpu_fraction : float or None
        Share of the GPU's memory to take.
    threads : int or None
        Decoding threads; None is one a core.
    max_pixels, max_file_bytes : int
        Images above are rejected.
    """

    engine: str
    device: str
    budget_bytes: int
    gpu_fraction: float | None
    threads: int | None
    max_pixels: int
    max_file_bytes: int


class Extractor:
    """Turns image references into features. The engine is started with the first image.

    Parameters
    ----------
    network : Network
    settings : ExtractSettings
    max_batch : int, optional
        Upper bound on the batch, for those who will extract only a few.
    held_bytes : int
        What is held beside the extraction: while features are written, while images are fetched, or by a server.
    remote : RemoteLimits, optional
        Fetch ahead the images that are not on this machine; without it, each is fetched when it is its turn.

    Raises
    ------
    EngineUnavailableError
        If the engine or device asked for is not there.
    """

    def __init__(
        self,
        network: Network,
        settings: ExtractSettings,
        max_batch: int | None = None,
        held_bytes: int = 0,
        remote: RemoteLimits | None = None,
    ) -> None:
        self.network = network
        self.settings = settings
        self.device = choose_device(settings.device)
        self._max_batch = min(max_batch or _MAX_BATCH[self.device], _MAX_BATCH[self.device])
        self._held_bytes = held_bytes
        self._remote = remote
        self._engine: Engine | None = None

    @cached_property
    def _modes(self) -> list[EngineMode]:
        """The ways to run the network, fastest first."""
        network = self.network
        return engine_modes(
            self.settings.engine,
            network.backbone,
            network.outputs,
            network.input_size,
            device=self.device,
            precision=network.precision,
        )

    @cached_property
    def plan(self) -> ExtractPlan:
        """How to keep within the budget.

        Raises
        ------
        BudgetTooSmallError
            If not even one image at a time fits into it.
        """
        from streamer.images.decode_pool import WORKER_BYTES

        network = self.network
        return plan_extract(
            self.settings.budget_bytes,
            engines=[(mode.cost.base_bytes, mode.cost.per_image_bytes, mode.workers) for mode in self._modes],
            pixel_bytes=3 * network.input_size[0] * network.input_size[1],
            feature_bytes=4 * sum(int(np.prod(shape)) for shape in network.spec().outputs.values()),
            threads=self.settings.threads,
            max_batch=self._max_batch,
            processes=usable_cores() if self.device == "gpu" else 0,  # on a CPU, the network needs the cores
            process_bytes=WORKER_BYTES,
            writing_bytes=self._held_bytes,
        )

    @property
    def summary(self) -> str:
        """The engine, its mode and the plan, in a line for people."""
        mode = self._modes[self.plan.engine]
        workers = f" on {mode.workers} workers" if mode.workers > 1 else ""
        return f"{self.engine_name} ({mode.name}){workers}, {self.device}; {self.plan}"

    @property
    def kept_bytes(self) -> int:
        """What the engine leaves behind in the process when it has been closed."""
        return self._modes[self.plan.engine].cost.kept_bytes

    def __enter__(self) -> Extractor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the network; it is loaded again when it is wanted again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @property
    def engine_name(self) -> str:
        """Name of the engine that runs, or would."""
        return self._engine.name if self._engine is not None else choose_engine(self.settings.engine, self.device)

    @property
    def limits(self) -> str:
        """What images are held to, as one word: an image that failed under other limits deserves another try."""
        return f"{self.settings.max_pixels}px,{self.settings.max_file_bytes}B,{self.plan.decode_bytes}B"

    def start(self) -> Engine:
        """Load the engine, if it is not loaded yet."""
        if self._engine is None:
            try:
                self._engine = self._open()
            except EngineUnavailableError as error:
                if self.device != "gpu" or self.settings.device != "auto":
                    raise
                _LOG.warning("there is a GPU, but %s; running on the CPU", error)
                self.device = "cpu"
                self.__dict__.pop("_modes", None)  # made for the GPU
                self.__dict__.pop("plan", None)
                self._engine = self._open()
        return self._engine

    def _open(self) -> Engine:
        return open_engine(
            self.settings.engine,
            self.network.backbone,
            self.network.outputs,
            self.network.weights,
            batch_size=self.plan.batch,
            input_size=self.network.input_size,
            device=self.device,
            gpu_memory_fraction=self.settings.gpu_fraction,
            mode=self._modes[self.plan.engine],
            precision=self.network.precision,
        )

    def features(
        self,
        refs: Iterable[ImageRef],
        watch: MemoryWatch | None = None,
        known: Callable[[bytes], bool] | None = None,
        augmentation: Augmentation | None = None,
    ) -> Generator[FeatureBatch, None, None]:
        """Decode, batch, and run forward.

        Parameters
        ----------
        refs : iterable of ImageRef
        watch : MemoryWatch, optional
            Shrinks the look-ahead when memory runs short.
        known : callable, optional
            Asked with the digest of an image's bytes, from any thread: True where they need no features.
        augmentation : Augmentation, optional
            Makes rows of copies of each image, too: before its own, so that they are stored when the image is.

        Yields
        ------
        FeatureBatch
            In the order of `refs`. An image whose features, or those of its copies, are not finite numbers is rejected.
        """
        from streamer.images.augment import augmented
        from streamer.images.decode import decode_stream
        from streamer.images.downloads import fetched_ahead
        from streamer.images.pixels import DecodeLimits

        if self.device == "gpu":
            self.start()  # which may turn out to be out of order, and then the plan is another
        plan, size = self.plan, self.network.input_size
        opened = contextlib.ExitStack()
        here: Iterable[ImageRef | Rejected] = refs
        if self._remote is not None:
            fetching = fetched_ahead(refs, self._remote, self.settings.max_file_bytes)
            here = opened.enter_context(contextlib.closing(fetching))
        decoded = decode_stream(
            here,
            size=size,
            threads=plan.decode_threads,
            processes=plan.decode_processes,
            lookahead_images=(lambda: watch.lookahead(plan.lookahead_images)) if watch else plan.lookahead_images,
            limits=DecodeLimits(self.settings.max_pixels, self.settings.max_file_bytes, plan.decode_bytes),
            known=known,
        )
        opened.enter_context(contextlib.closing(decoded))
        with opened:
            wanted = decoded if known is None else _once(decoded, known)
            stacked = batches(augmented(wanted, augmentation) if augmentation else wanted, plan.batch, size)
            spoilt: dict[bytes, str] = {}
            for batch in stacked:
                if batch.refs:  # a library that was only moved needs no network
                    for found in forward(self.start(), itertools.chain([batch], stacked)):
                        yield found.without(_not_finite(found), spoilt)
                else:
                    yield FeatureBatch((), (), {}, batch.rejected, batch.known)


def _once(
    decoded: Iterable[Decoded | Known | Rejected], known: Callable[[bytes], bool]
) -> Iterator[Decoded | Known | Rejected]:
    """Let the same bytes through once: the first may be on its way to the store and not known there yet."""
    recent: OrderedDict[bytes, None] = OrderedDict()
    for item in decoded:
        if not isinstance(item, Decoded):
            yield item
        elif item.content in recent or known(item.content):
            yield Known(item.ref, item.content)
        else:
            recent[item.content] = None
            if len(recent) > _UNDER_WAY:
                recent.popitem(last=False)
            yield item


def _not_finite(batch: FeatureBatch) -> dict[int, str]:
    """Rows that are not finite: a NaN in one of them would spoil the PCA of all."""
    good = np.ones(len(batch.refs), dtype=bool)
    for values in batch.features.values():
        good &= np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    reason = "the network gave features that are not finite numbers"
    return {int(row): reason for row in np.flatnonzero(~good)}
