"""Giving space back: live rows of small and holey shards are copied to new ones, and the old ones removed."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from streamer.files import require_space
from streamer.store.catalog import Catalog
from streamer.store.catalog_writer import CatalogWriter
from streamer.store.reader import ShardReader
from streamer.store.shard import SealedShard, ShardWriter, shard_path
from streamer.store.spec import FeatureSpec
from streamer.store.writer import publish_view, sweep, writing

__all__ = ["Compaction", "compact_shards"]

_LOG = logging.getLogger(__name__)

_BLOCK_BYTES = 8 * 2**20
# Replaced shards that stay until the end, for the searches that still read them, unless they are more than this.
_KEPT_BYTES = 4 * 2**30


@dataclass
class Compaction:
    """What a compaction did: shards and bytes before and after, and rows that were dropped."""

    shards_before: int = 0
    shards_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    dropped_rows: int = 0


def compact_shards(
    path: Path,
    catalog: CatalogWriter,
    *,
    shard_bytes: int = 256 * 2**20,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Compaction:
    """Merge small shards and drop dead rows. Hold the `StoreLock` meanwhile.

    Ids stay, and with them the index. Each new shard is sealed, made real by one transaction that also forgets the old
    ones, and only then are their files removed, at the end where there is room: a crash leaves the old or the new. A
    search that has an old one open goes on with it; one that has just looked up a place in it looks again. What is
    written is compressed as the newest shard is.

    Parameters
    ----------
    path : Path
        The store's folder.
    catalog : Catalog
        Opened for writing.
    shard_bytes : int
        A new shard is sealed when it holds this much.
    progress, should_stop : callable
        Called with shards done and to do; asked after each shard.

    Returns
    -------
    Compaction

    Raises
    ------
    StoreCorruptError
        If a shard cannot be read. Nothing is lost that was there.
    StoreWriteError
        If the disk is full or fails.
    """
    before = catalog.shards()
    wanted = [number for number, rows, n_bytes in before if catalog.rows.dead_in(number) or n_bytes < shard_bytes // 2]
    if len(wanted) == 1 and not catalog.rows.dead_in(wanted[0]):
        wanted = []  # nothing to merge it with
    replaced = 0
    result = Compaction(len(before), 0, sum(each[2] for each in before), 0, sum(map(catalog.rows.dead_in, wanted)))
    with contextlib.closing(ShardReader(path / "features", catalog.spec)) as reader:
        for done, group in _groups(catalog, wanted, shard_bytes):
            if should_stop():
                break
            _merge(path, catalog, reader, group)
            replaced += sum(n_bytes for number, _, n_bytes in before if number in group)
            if replaced >= _KEPT_BYTES:
                _remove_replaced(path, catalog, reader)
                replaced = 0
            progress(done, len(wanted))
        _remove_replaced(path, catalog, reader)
    after = catalog.shards()
    result.shards_after, result.bytes_after = len(after), sum(each[2] for each in after)
    return result


def _remove_replaced(path: Path, catalog: CatalogWriter, reader: ShardReader) -> None:
    """Only once ``features.h5`` shows the new shards: HDF5 takes a missing one for rows without a value."""
    reader.close()
    publish_view(path, catalog)
    with writing(path):
        sweep(path / "features", catalog)


def _groups(catalog: Catalog, shards: list[int], shard_bytes: int) -> Iterator[tuple[int, list[int]]]:
    """Cut the shards into groups of which each makes a shard of `shard_bytes`, or a little more."""
    group: list[int] = []
    live_bytes = 0.0
    sealed = catalog.sealed()
    for done, number in enumerate(shards, start=1):
        each = sealed[number]
        group.append(number)
        live_bytes += each.n_bytes * (1 - catalog.rows.dead_in(number) / max(1, each.rows))
        if live_bytes >= shard_bytes or done == len(shards):
            yield done, group
            group, live_bytes = [], 0.0


def _merge(path: Path, catalog: CatalogWriter, reader: ShardReader, group: list[int]) -> None:
    """Copy the live rows of some shards into a new one, and forget them."""
    features = path / "features"
    sealed = catalog.sealed()
    compression = sealed[max(sealed)].compression
    require_space(path, sum(_bytes_as(sealed[number], compression, catalog.spec) for number in group), "compacting")
    outputs = catalog.spec.outputs
    row_bytes = 4 * sum(int(np.prod(shape)) for shape in outputs.values())  # in memory, whatever they are on disk
    block_rows = max(1, _BLOCK_BYTES // row_bytes)
    target = catalog.next_shard()
    contents: list[bytes] = []
    copies: list[int] = []
    writer: ShardWriter | None = None
    try:
        for number in group:
            live = (next(names) for _, names in groupby(catalog.rows.of_shard(number), key=itemgetter(0)))
            while block := list(itertools.islice(live, block_rows)):
                rows = np.array([row for row, *_ in block], dtype=np.int64)
                shards = np.full(len(rows), number, dtype=np.int64)
                values = {output: reader.rows(output, shards, rows) for output in outputs}
                _, digests, numbers, keys, labels = map(list, zip(*block, strict=True))
                with writing(path):
                    if writer is None:
                        place, engine = shard_path(features, target), catalog.engines(group)
                        writer = ShardWriter(place, catalog.spec, engine, compression)
                    writer.append(keys, labels, digests, numbers, values)
                contents += digests
                copies += numbers
        with writing(path):
            new = writer.seal() if writer is not None else None
        with catalog.transaction():
            if new is not None:
                catalog.add_shard(target, new, catalog.engines(group), contents, copies)
            for number in group:
                catalog.drop_shard(number)
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    _LOG.info("shards %s are now %s", ", ".join(map(str, group)), target if writer is not None else "none")


def _bytes_as(sealed: SealedShard, compression: str, spec: FeatureSpec) -> int:
    """What a shard comes to when it is written with this compression, or a little more."""
    if compression == "none" and sealed.compression != "none":
        return sealed.n_bytes + sealed.rows * spec.row_bytes
    return sealed.n_bytes
