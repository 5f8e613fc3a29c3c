"""What every engine can do, and the stage of the route that runs one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from streamer.records import Batch, FeatureBatch

__all__ = ["Engine", "EngineCost", "EngineMode", "forward"]


@dataclass(frozen=True, slots=True)
class EngineCost:
    """What an engine holds in memory, for planning; estimates err on the high side.

    Attributes
    ----------
    base_bytes : int
        The engine's runtime with the weights, as they stand in the resident size of the process.
    per_image_bytes : int
        What each image of a batch adds while it is in the network.
    kept_bytes : int
        What is left of `base_bytes` when the engine has been closed: libraries are never unloaded.
    """

    base_bytes: int
    per_image_bytes: int
    kept_bytes: int

    def total_bytes(self, batch_size: int) -> int:
        """Return what the engine adds to the process, at its peak, with batches of `batch_size`."""
        return self.base_bytes + batch_size * self.per_image_bytes


@dataclass(frozen=True, slots=True)
class EngineMode:
    """One way to run an engine.

    Attributes
    ----------
    name : str
        Of the way itself, as the engine calls it.
    workers : int
        Images that are computed at the same time.
    cost : EngineCost
        What it holds in memory.
    """

    name: str
    workers: int
    cost: EngineCost


class Engine(ABC):
    """Runs one backbone with one set of weights. Not for use by several threads at once.

    The same images in a batch give the same bytes, however full the batch is. At another place in the batch, or with
    another batch size, they may differ by rounding: up to 2e-7 of the largest feature was seen.

    Attributes
    ----------
    name : str
        ``"keras"``, ...; written into the shards.
    device : {"cpu", "gpu"}
        Where it runs.
    batch_size : int
        The most images one call takes.
    input_size : tuple of int, (height, width)
        In pixels.
    outputs : mapping of str to tuple of int
        Shape of one image's features, by the output's name.
    """

    name: str
    device: str
    batch_size: int
    input_size: tuple[int, int]
    outputs: Mapping[str, tuple[int, ...]]

    def extract(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Compute the features of a batch.

        Parameters
        ----------
        pixels : ndarray of shape (n, height, width, 3), uint8
            RGB, 0-255; n may be anything from 0 to `batch_size`.

        Returns
        -------
        dict of str to ndarray of shape (n, ...), float32
            One entry for each of `outputs`. The arrays are the caller's to keep.
        """
        wanted = (*self.input_size, 3)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != wanted or len(pixels) > self.batch_size:
            raise ValueError(
                f"expected uint8 pixels of shape (up to {self.batch_size}, {', '.join(map(str, wanted))}), "
                f"got {pixels.dtype} {pixels.shape}"
            )
        if len(pixels) == 0:
            return {name: np.empty((0, *shape), np.float32) for name, shape in self.outputs.items()}
        return self._extract(pixels)

    @abstractmethod
    def _extract(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Compute the features of at least one image."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the network's memory; a second call does nothing."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def forward(engine: Engine, batches: Iterable[Batch], *, ahead: int | None = None) -> Iterator[FeatureBatch]:
    """Turn batches of pixels into batches of features, in order.

    A batch whose images were all rejected passes through without a forward pass.

    Parameters
    ----------
    engine : Engine
    batches : iterable of Batch
    ahead : int, optional
        Batches that are handed to the engine, which runs on a thread of its own, before the features of an earlier one
        are waited for: pixels are stacked and features stored while the device computes. Each holds a batch's pixels
        and features longer. By default 2 on a GPU (one to run, one to follow at once) and 0, without a thread, on the
        CPU, where the cores are busy either way.

    Yields
    ------
    FeatureBatch
        One for each of `batches`. Closing the stream early waits for the batch that is being computed.
    """
    if ahead is None:
        ahead = 2 if engine.device == "gpu" else 0
    if ahead == 0:
        for batch in batches:
            yield _with_features(batch, engine.extract(batch.pixels))
        return
    under_way: deque[tuple[Batch, Future[dict[str, NDArray[np.float32]]]]] = deque()
    thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
    try:
        for batch in batches:
            under_way.append((batch, thread.submit(engine.extract, batch.pixels)))
            if len(under_way) > ahead:
                yield _finished(*under_way.popleft())
        while under_way:
            yield _finished(*under_way.popleft())
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


def _finished(batch: Batch, features: Future[dict[str, NDArray[np.float32]]]) -> FeatureBatch:
    return _with_features(batch, features.result())


def _with_features(batch: Batch, features: dict[str, NDArray[np.float32]]) -> FeatureBatch:
    return FeatureBatch(batch.refs, batch.contents, features, batch.rejected, batch.known, batch.copies)
