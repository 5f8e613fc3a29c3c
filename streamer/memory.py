"""The memory budget: bytes in, a plan out; and a watch over what is really used.

The budget bounds the resident size of the whole process tree. The plan is made before work starts, from figures that
were measured; while work goes on, the tree's resident size is sampled, and the look-ahead shrinks when it nears
the bound.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from streamer.config import format_bytes
from streamer.errors import BudgetTooSmallError

__all__ = [
    "BlockPlan",
    "ExtractPlan",
    "MemoryWatch",
    "budget_bytes",
    "give_back_memory",
    "plan_blocks",
    "plan_extract",
    "resident_bytes",
    "total_bytes",
]

_LOG = logging.getLogger(__name__)

MIB = 2**20

# Python, numpy and this package's own imports (h5py, Pillow, pydantic, click, yaml, psutil, sqlite3, tqdm) were
# measured at 54 MB together; scikit-learn adds 94.
_PACKAGE_BYTES = 54 * MIB
_SKLEARN_BYTES = 100 * MIB
# A photo of 12 megapixels in a JPEG file, being decoded: file, Pillow's reduced image, the resized one.
_DECODE_BYTES_PER_THREAD = 24 * MIB
_MAX_DECODE_BYTES = 512 * MIB
_HDF5_BYTES = 8 * MIB
_MAX_BLOCK_ROWS = 4096
_IMAGES_PER_WORKER = 4
# Estimates are good to some 10 %.
_COMFORT = 0.9


@dataclass(frozen=True)
class ExtractPlan:
    """How extraction keeps within the budget.

    Attributes
    ----------
    engine : int
        Which of the ways to run the network, by its place in the list that was offered.
    batch : int
        Images in one forward pass.
    decode_threads : int
    lookahead_images : int
        Images decoded ahead of the network.
    decode_processes : int
        Processes that may take over from the threads where these cannot feed the network.
    decode_bytes : int
        What all decoding together may hold at one time, in bytes.
    expected_bytes : int
        Resident size that all this should come to.
    """

    engine: int
    batch: int
    decode_threads: int
    decode_processes: int
    lookahead_images: int
    decode_bytes: int
    expected_bytes: int

    def __str__(self) -> str:
        return (
            f"batch {self.batch}, {self.decode_threads} decode threads"
            + (f" or {self.decode_processes} processes" if self.decode_processes else "")
            + f", {self.lookahead_images} images ahead, "
            f"{format_bytes(self.decode_bytes)} for decoding, {format_bytes(self.expected_bytes)} expected"
        )


def total_bytes() -> int:
    """The machine's memory, bytes."""
    return int(psutil.virtual_memory().total)


def budget_bytes(configured: int | None) -> int:
    """The budget in force: the configured one, or a quarter of the machine's memory."""
    return configured if configured is not None else total_bytes() // 4


def plan_extract(
    budget: int,
    *,
    engines: Sequence[tuple[int, int, int]],
    pixel_bytes: int,
    feature_bytes: int,
    threads: int | None,
    max_batch: int,
    processes: int = 0,
    process_bytes: int = 0,
    writing_bytes: int = 0,
) -> ExtractPlan:
    """Fit extraction into a budget.

    Parameters
    ----------
    budget : int
        Bytes.
    engines : sequence of (int, int, int)
        The ways to run the network, fastest first: what the engine holds whatever the batch (libraries, weights, work
        space), what each image of a batch adds, and how many images it computes at the same time.
    pixel_bytes, feature_bytes : int
        Size of one image as the network takes it, and of all its features.
    threads : int or None
        Decoding threads; None is one a core.
    max_batch : int
        No more images than this make the engine faster.
    processes, process_bytes : int
        How many decoding processes would be of use, and what each holds. They get at most half of what is left.
    writing_bytes : int
        What HDF5's filters hold while features are written, beside its own buffers.

    Returns
    -------
    ExtractPlan
        With the fastest engine that fits.

    Raises
    ------
    BudgetTooSmallError
        If none can take even one image at a time.
    """
    threads = threads or min(os.cpu_count() or 1, 16)

    def expected(engine: int, batch: int, decode_bytes: int) -> int:
        base, per_image, _ = engines[engine]
        held = batch * (per_image + 3 * pixel_bytes + 2 * feature_bytes)
        return _PACKAGE_BYTES + base + _HDF5_BYTES + writing_bytes + decode_bytes + held

    def smallest(engine: int) -> int:
        return expected(engine, min(max_batch, engines[engine][2]), _DECODE_BYTES_PER_THREAD)

    fitting = [engine for engine in range(len(engines)) if smallest(engine) <= budget]
    if not fitting:
        minimum = _rounded_up(min(map(smallest, range(len(engines)))))
        raise BudgetTooSmallError(
            f"memory.budget of {format_bytes(budget)} is too small: this network with this engine needs "
            f"{format_bytes(minimum)}; set memory.budget={minimum // MIB}MiB, or choose a smaller backbone or layer",
            minimum,
        )
    engine = fitting[0]
    workers = min(max_batch, engines[engine][2])
    threads = max(1, min(threads, (budget - expected(engine, workers, 0)) // _DECODE_BYTES_PER_THREAD))
    decode_bytes = threads * _DECODE_BYTES_PER_THREAD
    # Enough images for the workers not to wait long for the last of a batch, if need be up to the bound itself.
    batch = workers
    while batch < max_batch and expected(engine, batch + 1, decode_bytes) <= (
        budget if batch < _IMAGES_PER_WORKER * workers else _COMFORT * budget
    ):
        batch += 1
    # What is left serves the rare huge image, up to a limit; and two batches' worth of pixels wait for the network.
    spare = max(0, int(_COMFORT * budget) - expected(engine, batch, decode_bytes))
    processes = min(processes, spare // 2 // process_bytes) if processes else 0
    decode_bytes += min(spare - processes * process_bytes, _MAX_DECODE_BYTES)
    return ExtractPlan(
        engine=engine,
        batch=batch,
        decode_threads=threads,
        decode_processes=processes,
        lookahead_images=2 * batch + max(threads, 2 * processes),
        decode_bytes=decode_bytes,
        expected_bytes=expected(engine, batch, decode_bytes) + processes * process_bytes,
    )


@dataclass(frozen=True)
class BlockPlan:
    """How many rows PCA and the index take at a time."""

    rows: int
    expected_bytes: int


def plan_blocks(
    budget: int,
    *,
    held_bytes: int,
    row_bytes: int,
    minimum_rows: int,
    fit_bytes: Callable[[int], int],
    refuse: bool = True,
) -> BlockPlan:
    """Fit the out-of-core PCA into a budget.

    Parameters
    ----------
    budget : int
        Bytes.
    held_bytes : int
        What the process holds already.
    row_bytes : int
        Size of one row of features, float32.
    minimum_rows : int
        The number of components: a block may not be smaller.
    fit_bytes : callable
        Block rows -> bytes that fitting on such a block takes.
    refuse : bool
        Raise when it does not fit; otherwise warn and take the smallest block. After hours of extraction is too late to
        refuse.

    Raises
    ------
    BudgetTooSmallError
        If not even the smallest block fits.
    """

    def expected(rows: int) -> int:
        return held_bytes + _SKLEARN_BYTES + 2 * rows * row_bytes + fit_bytes(rows)

    minimum = max(1, minimum_rows)
    if expected(minimum) > budget:
        rounded = _rounded_up(expected(minimum))
        message = (
            f"memory.budget of {format_bytes(budget)} is too small to fit PCA with {minimum_rows} components: it takes "
            f"{format_bytes(rounded)}; set memory.budget={rounded // MIB}MiB, lower reduce.components, "
            "or pool the layer"
        )
        if refuse:
            raise BudgetTooSmallError(message, rounded)
        _LOG.warning("%s", message)
    rows = minimum
    while rows * 2 <= _MAX_BLOCK_ROWS and expected(rows * 2) <= budget:
        rows *= 2
    return BlockPlan(rows, expected(rows))


def _rounded_up(size: int) -> int:
    step = 16 * MIB
    return -(-size // step) * step


def give_back_memory() -> None:
    """Return freed memory to the system where the allocator keeps it: glibc does, others do it by themselves."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # musl has none
            trim(0)


def resident_bytes() -> int:
    """Resident size of this process and its children, bytes."""
    process = psutil.Process()
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            total += child.memory_info().rss
    return int(total)


def _reset_high_water_mark() -> bool:
    """Have the kernel start over with this process' peak; whether it did (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _high_water_mark() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class MemoryWatch:
    """Sample the resident size in the background, keep its peak, and say how far ahead it is wise to decode.

    Parameters
    ----------
    budget : int
        Bytes.
    interval_seconds : float
        Time between samples.
    """

    def __init__(self, budget: int, interval_seconds: float = 0.2) -> None:
        self.budget = budget
        self.peak_bytes = resident_bytes()
        self._current = self.peak_bytes
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-watch", daemon=True)
        self._warned = False
        self._high_water = False

    def __enter__(self) -> MemoryWatch:
        self._high_water = _reset_high_water_mark()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()

    def sample(self) -> int:
        """Sample now; returns the peak so far, bytes. On Linux no peak of this process is missed between samples."""
        self._note(resident_bytes())
        if self._high_water:
            self.peak_bytes = max(self.peak_bytes, _high_water_mark())
        return self.peak_bytes

    def lookahead(self, planned: int) -> int:
        """Images to decode ahead right now: all that were planned below 85 % of the budget, one when it is full."""
        pressure = (self._current / self.budget - 0.85) / 0.15
        return max(1, round(planned * (1 - min(1.0, max(0.0, pressure)))))

    def _note(self, size: int) -> None:
        self._current = size
        self.peak_bytes = max(self.peak_bytes, size)
        if size > self.budget and not self._warned:
            self._warned = True
            _LOG.warning(
                "%s resident, more than memory.budget of %s: please report this with your config",
                format_bytes(size),
                format_bytes(self.budget),
            )

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            self._note(resident_bytes())
