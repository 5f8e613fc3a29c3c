"""The memory budget of a server: what it holds beside the network, and what the network may take."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from streamer.config import format_bytes
from streamer.errors import BudgetTooSmallError
from streamer.extraction import Extractor, ExtractSettings
from streamer.images.decode_pool import WORKER_BYTES
from streamer.memory import MIB, resident_bytes
from streamer.searcher import query_network
from streamer.serving.settings import ServeSettings
from streamer.store import Store

__all__ = ["UPLOAD_BUFFER_BYTES", "ServePlan", "plan_serving"]

UPLOAD_BUFFER_BYTES = 256 * 1024
"""What is held of an upload before it goes to a temporary file."""

# FastAPI, Starlette, uvicorn and asyncio: 31 MB were measured.
_SERVER_BYTES = 36 * MIB
# A connection's own buffers, and those of the request on it.
_REQUEST_BYTES = 128 * 1024
# Rows of a scan, a normalised copy and scores, for exact search, near-duplicates and map; candidates of an index.
_SEARCH_BYTES = 80 * MIB
# Names of the photos that are looked at, thumbnails in memory, answers that are remembered.
_KEPT_BYTES = 32 * MIB
# The maps' bound is a share of the whole budget (see `streamer.residency`); so much of it is counted as held.
_MAPS_SHARE = 1 / 8
_MOST_WORKERS = 2
# Where no network's plan says what decoding may hold.
_LEAST_DECODE_BYTES = 64 * MIB
_MOST_DECODE_BYTES = 512 * MIB


@dataclass(frozen=True)
class ServePlan:
    """How a server keeps within its budget.

    Attributes
    ----------
    budget_bytes : int
    search_bytes : int
        The budget that searches are told of: maps and blocks take their shares of it.
    workers : int
        Processes that decode what is sent.
        Those that make previews of photos are as many again.
    decode_bytes : int
        What all decoding together may hold.
    extractor : Extractor or None
        The network; None where features were imported.
    """

    budget_bytes: int
    search_bytes: int
    workers: int
    decode_bytes: int
    extractor: Extractor | None

    @property
    def share_bytes(self) -> int:
        """What one process holds of `decode_bytes` for a picture that is not known to take more."""
        return self.decode_bytes // (2 * self.workers)

    def __str__(self) -> str:
        network = self.extractor.summary if self.extractor is not None else "no network: features were imported"
        return (
            f"{format_bytes(self.budget_bytes)} for all: {network}; {2 * self.workers} decoding processes, "
            f"{format_bytes(self.decode_bytes)} for decoding"
        )


def plan_serving(store: Store, settings: ServeSettings) -> ServePlan:
    """Fit a server into its budget.

    Raises
    ------
    BudgetTooSmallError
        If it does not fit; names the smallest that would do.
    ConfigError, WeightsError
        If the network that made the features cannot be had.
    """
    kept = store.catalog.settings().get("extract")
    budget = settings.budget_bytes or int(kept["budget_bytes"] if kept else 2**30)
    workers = max(1, min(_MOST_WORKERS, os.cpu_count() or 1))
    maps = int(_MAPS_SHARE * budget)
    held = (
        _SERVER_BYTES
        + _SEARCH_BYTES
        + _KEPT_BYTES
        + maps
        + 2 * workers * WORKER_BYTES
        + settings.max_searches * UPLOAD_BUFFER_BYTES
        + settings.max_requests * _REQUEST_BYTES
    )
    if store.spec.imported or kept is None:
        # What is loaded already is in the resident size; a network's plan counts it for itself.
        held += resident_bytes()
        decode = min(budget - held, _MOST_DECODE_BYTES)
        if decode < _LEAST_DECODE_BYTES:
            # The maps grow with the budget, by their share of it.
            minimum = int((held - maps + _LEAST_DECODE_BYTES) / (1 - _MAPS_SHARE)) + MIB
            raise _too_small(store, budget, minimum)
        return ServePlan(budget, 8 * maps // 3, workers, decode, None)
    options = ExtractSettings(**kept)
    options = replace(
        options,
        budget_bytes=budget,
        device=settings.device or options.device,
        max_pixels=min(options.max_pixels, settings.max_pixels),
        max_file_bytes=settings.max_upload_bytes,
    )
    extractor = Extractor(query_network(store), options, held_bytes=held)
    try:
        plan = extractor.plan
    except BudgetTooSmallError as error:
        raise _too_small(store, budget, error.minimum_bytes) from error
    return ServePlan(budget, 8 * maps // 3, workers, plan.decode_bytes, extractor)


def _too_small(store: Store, budget: int, minimum: int) -> BudgetTooSmallError:
    return BudgetTooSmallError(
        f"{store.path}: {format_bytes(budget)} of memory are too little to serve it: network, decoding processes "
        f"and searches take {format_bytes(minimum)}; give --memory {-(-minimum // MIB)}MiB",
        minimum,
    )
