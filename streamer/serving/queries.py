"""A query's way through the server: a file is decoded by a worker, looked at by the network, and searched with.

Each stage has a thread of its own, or processes; what waits for one at the same time goes through it together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamer.images.decode_pool import DecodeProcesses, DecodeTimeoutError
from streamer.images.gate import ByteGate, GateClosedError
from streamer.images.pixels import DecodeLimits
from streamer.records import Decoded, ImageRef
from streamer.serving.batching import BatchThread, OverloadedError
from streamer.serving.plan import ServePlan
from streamer.serving.refusal import Refusal
from streamer.serving.searching import Answered, Asked, NeighbourDesk
from streamer.serving.settings import ServeSettings

__all__ = ["Queries", "Timing"]

# Time for a second picture to come up with the first: next to what the network takes.
_WINDOW_SECONDS = 0.002
_SEARCHED_TOGETHER = 64

T = TypeVar("T")


@dataclass
class Timing:
    """Seconds that the stages of one query took, those it shared with others included; the rest it waited."""

    decode: float = 0.0
    network: float = 0.0
    search: float = 0.0


class Queries:
    """Decoding, network and search, running.

    Parameters
    ----------
    path : Path
        The store's folder.
    plan : ServePlan
    settings : ServeSettings
    gate : ByteGate
        Shared by all that decodes.
    """

    def __init__(self, path: Path, plan: ServePlan, settings: ServeSettings, gate: ByteGate) -> None:
        self._settings = settings
        self._extractor = plan.extractor
        self._closing = ExitStack()
        try:
            self._open(path, plan, settings, gate)
        except BaseException:
            self._closing.close()
            raise

    def _open(self, path: Path, plan: ServePlan, settings: ServeSettings, gate: ByteGate) -> None:
        waiting = settings.max_searches
        self._desks: list[NeighbourDesk] = []
        threads: list[BatchThread[Asked, Answered]] = []
        for name in ("by-index", "scan"):  # no look at every row is in the way of the quick ones
            desk = NeighbourDesk(path, settings.device, plan.search_bytes)
            self._desks.append(desk)
            self._closing.callback(desk.close)
            thread: BatchThread[Asked, Answered] = BatchThread(
                f"search-{name}", desk.answer, most_together=_SEARCHED_TOGETHER, most_waiting=waiting
            )
            self._closing.callback(thread.close)
            threads.append(thread)
        self._by_index, self._scanning = threads
        if plan.extractor is None:
            return
        self._closing.callback(plan.extractor.close)
        self._network: BatchThread[NDArray[np.uint8], tuple[NDArray[np.float32], float]] = BatchThread(
            "network",
            self._looked_at,
            most_together=plan.extractor.plan.batch,
            most_waiting=waiting,
            window_seconds=_WINDOW_SECONDS,
        )
        self._closing.callback(self._network.close)
        limits = DecodeLimits(
            plan.extractor.settings.max_pixels, plan.extractor.settings.max_file_bytes, plan.decode_bytes
        )
        size = plan.extractor.network.input_size
        self._decoder = DecodeProcesses(plan.workers, size, limits, gate, settings.decode_seconds, plan.share_bytes)
        self._decoding = ThreadPoolExecutor(plan.workers, thread_name_prefix="decode-upload")
        self._closing.callback(self._decoding.shutdown, wait=True, cancel_futures=True)
        self._closing.callback(self._decoder.close)

    def load(self) -> None:
        """Load network and index, so that no question has to wait for them."""
        if self._extractor is not None:
            self._decoder.start()
            self._extractor.start()
        self._desks[0].warm_up()  # no question has come yet; the other desk has nothing to load

    def close(self) -> None:
        """End all threads and processes; what was asked of them is answered first."""
        self._closing.close()

    async def features(self, path: Path, timing: Timing) -> NDArray[np.float32]:
        """Features of the indexed output of a picture: shape (d,), float32.

        Raises
        ------
        Refusal
            The picture cannot be read, takes too long, or too much else is to be done.
        """
        if self._extractor is None:
            raise Refusal(
                422, "the features of this library were computed elsewhere; search from one of its photos instead"
            )
        ref = ImageRef("upload", str(path), 0, 0, "")
        pixels = await self._within(asyncio.wrap_future(self._decoding.submit(self._decoded, ref, timing)))
        features: NDArray[np.float32]
        features, timing.network = await self._within(self._asked(self._network, pixels))
        if not np.isfinite(features).all():
            raise Refusal(422, "the network gave features that are not finite numbers; try another picture")
        return features

    async def search(self, asked: Asked, timing: Timing) -> Answered:
        """Find the photos nearest to features, or to a photo of the library.

        Raises
        ------
        Refusal
            There is no such photo, or too much else is to be done.
        """
        answered: Answered = await self._within(self._asked(self._scanning if asked.exact else self._by_index, asked))
        timing.search = answered.seconds
        return answered

    def _asked(self, thread: BatchThread[Any, T], question: Any) -> Future[T]:
        try:
            return thread.ask(question)
        except OverloadedError:
            raise Refusal(503, "too many searches at the same time; try again in a moment", retry_seconds=1) from None

    async def _within(self, future: Any) -> Any:
        wrapped = asyncio.wrap_future(future) if isinstance(future, Future) else future
        try:
            return await asyncio.wait_for(wrapped, self._settings.answer_seconds)
        except asyncio.TimeoutError:
            raise Refusal(503, "this took too long; try again in a moment", retry_seconds=5) from None

    def _decoded(self, ref: ImageRef, timing: Timing) -> NDArray[np.uint8]:
        began = time.perf_counter()
        try:
            found = self._decoder.decode(ref)
        except DecodeTimeoutError:
            raise Refusal(
                408, f"the picture took more than {self._settings.decode_seconds:g} s to decode; try a smaller copy"
            ) from None
        except GateClosedError:
            raise Refusal(503, "the server is ending", retry_seconds=5) from None
        finally:
            timing.decode = time.perf_counter() - began
        if not isinstance(found, Decoded):
            reason = getattr(found, "reason", "it could not be read")
            raise Refusal(422, f"the picture cannot be read: {reason}")
        return found.pixels

    def _looked_at(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.float32], float]]:
        """Features of pictures, and how long they took together."""
        assert self._extractor is not None
        began = time.perf_counter()
        output = self._extractor.network.outputs[0].name
        features = self._extractor.start().extract(np.stack(pictures))[output]
        seconds = time.perf_counter() - began
        return [(row.reshape(-1), seconds) for row in features]
