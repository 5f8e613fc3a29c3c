"""Making what finds candidates, of either kind, in the draft of a generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from streamer.files import require_space
from streamer.index import Draft, Manifest, Spool, build_annoy, write_ivf
from streamer.reduction import Reducer, fit_centroids
from streamer.store import Store

__all__ = ["located_blocks", "make_candidates"]

_BLOCK_BYTES = 8 * 2**20
_IMAGES_TOGETHER = 2**16
# Rows that k-means sees for each cluster, all batches together, and in one batch at the least.
_ROWS_A_CLUSTER = 300
_BATCH_ROWS = 4096

Located = tuple[NDArray[np.int64], NDArray[np.float32]]


def located_blocks(store: Store, output: str) -> Iterator[Located]:
    """``(images, features)``: id, shard and row of each image, shape (n, 3), and its features, shape (n, d)."""
    block_rows = max(1, _BLOCK_BYTES // (4 * store.feature_length(output)))
    for ids, shards, rows in store.catalog.places(iter(lambda: block_rows, None)):
        yield np.stack([ids, shards, rows], axis=1), store.rows(output, shards, rows)


def make_candidates(
    wanted: Manifest, draft: Draft, reducer: Reducer, blocks: Iterable[Located], check_stop: Callable[[], None]
) -> None:
    """Reduce the rows, and write the files of the index and ``images.npy`` in its order.

    Parameters
    ----------
    wanted : Manifest
    draft : Draft
    reducer : Reducer
    blocks : iterable
        As `located_blocks` gives them.
    check_stop : callable
        Called now and then; may raise.
    """
    dimension = len(reducer.components)
    make = _make_annoy if wanted.kind == "annoy" else _make_ivf
    # A node of Annoy is as large as a vector, and there are about 4.5 for each tree and `dimension` vectors; its file
    # grows in steps of a third. An inverted file is written twice.
    overhead = 1.35 * (1 + 4.5 * wanted.parts / dimension) if wanted.kind == "annoy" else 2.0
    bytes_needed = overhead * wanted.rows * 4 * (dimension + 3)
    # Annoy writes through a memory map: on a full disk that is not an error but the end of the process.
    require_space(draft.path.parent, int(bytes_needed), f"indexing {wanted.rows} images")
    make(wanted, draft, reducer, blocks, check_stop)


def _make_annoy(
    wanted: Manifest, draft: Draft, reducer: Reducer, blocks: Iterable[Located], check_stop: Callable[[], None]
) -> None:
    def vectors() -> Iterator[NDArray[np.float32]]:
        with draft.writing_images(wanted.rows) as append:
            for images, features in blocks:
                append(images)
                yield reducer.transform(features)

    path = draft.path / "annoy.ann"
    build_annoy(path, vectors(), len(reducer.components), trees=wanted.parts, seed=wanted.seed)


def _make_ivf(
    wanted: Manifest, draft: Draft, reducer: Reducer, blocks: Iterable[Located], check_stop: Callable[[], None]
) -> None:
    images = Spool(draft.path / "images.spool", 3, "<i8")
    spool = Spool(draft.path / "vectors.spool", len(reducer.components))
    spool.fill(_reduced(blocks, reducer, images))
    total = max(spool.count, min(10 * spool.count, _ROWS_A_CLUSTER * wanted.parts))

    def batches() -> Iterator[NDArray[np.float32]]:
        for batch in spool.batches(max(_BATCH_ROWS, 2 * wanted.parts), total, wanted.seed):
            check_stop()
            yield batch

    centroids = fit_centroids(batches(), wanted.parts, wanted.seed)
    order = write_ivf(draft.path, spool, centroids, check_stop)
    with draft.writing_images(wanted.rows) as append:
        for start in range(0, len(order), _IMAGES_TOGETHER):
            append(images.rows(order[start : start + _IMAGES_TOGETHER]))
    spool.path.unlink()
    images.path.unlink()


def _reduced(blocks: Iterable[Located], reducer: Reducer, images: Spool) -> Iterator[NDArray[np.float32]]:
    """Reduced vectors of all blocks; where they come from is noted on the way."""
    with images.filling() as append:
        for part, features in blocks:
            append(part)
            yield reducer.transform(features)
