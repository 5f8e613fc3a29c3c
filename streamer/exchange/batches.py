"""Rows of somebody else's array as batches of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StreamerError
from streamer.exchange.keys import Names, checked_names
from streamer.exchange.npy_rows import NpyRows
from streamer.records import FeatureBatch, ImageRef, Known, Rejected
from streamer.store import ForeignFile

__all__ = ["import_batches"]

_BLOCK_BYTES = 8 * 2**20
_MOST_ROWS = 4096
# The content of an image is the digest of its file; of a row that came without one, of the row itself.
_CONTENT_PREFIX = b"streamer: imported float32 features\0"


def import_batches(
    rows: NpyRows | ForeignFile, names: Names, output: str, knows: Callable[[bytes], bool]
) -> Iterator[FeatureBatch]:
    """Rows with their names, as the store takes them.

    Parameters
    ----------
    rows : NpyRows or ForeignFile
        Of shape (n, ...), floats or integers. Converted to float32.
    names : Names
        Of n rows.
    output : str
        What the features are called.
    knows : callable
        Whether the store has features with this digest. Equal rows are one content.

    Yields
    ------
    FeatureBatch
        A row that is not finite, as float32, is among its rejected.

    Raises
    ------
    StreamerError
        If the rows or their names change meanwhile.
    """
    row_bytes = max(4, rows.dtype.itemsize) * int(np.prod(rows.shape[1:]))
    named = checked_names(names)
    for stored in rows.blocks(max(1, min(_MOST_ROWS, _BLOCK_BYTES // row_bytes))):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is named below
            values = np.ascontiguousarray(stored, dtype=np.float32)
        lines = list(islice(named, len(values)))
        if len(lines) != len(values):
            raise StreamerError("the names of the rows changed while they were read; import again")
        yield _batch(stored, values, lines, names, output, knows)


def _batch(
    stored: NDArray[np.generic],
    values: NDArray[np.float32],
    lines: list[tuple[int, str, str]],
    names: Names,
    output: str,
    knows: Callable[[bytes], bool],
) -> FeatureBatch:
    finite = [bool(np.isfinite(row).all()) for row in values]
    refs: list[ImageRef] = []
    contents: list[bytes] = []
    rejected: list[Rejected] = []
    known: list[Known] = []
    kept: list[int] = []
    here: set[bytes] = set()
    for place, (line, key, label) in enumerate(lines):
        ref = ImageRef(key, key, values[place].nbytes, 0, label)
        if not finite[place]:
            rejected.append(Rejected(ref, f"{names.place(line)}: {_not_finite(stored[place], values[place])}"))
            continue
        content = blake2b(_CONTENT_PREFIX + values[place].tobytes(), digest_size=16).digest()
        if content in here or knows(content):
            known.append(Known(ref, content))
            continue
        here.add(content)
        refs.append(ref)
        contents.append(content)
        kept.append(place)
    features = values if len(kept) == len(values) else values[kept]
    return FeatureBatch(tuple(refs), tuple(contents), {output: features}, tuple(rejected), tuple(known))


def _not_finite(stored: NDArray[np.generic], values: NDArray[np.float32]) -> str:
    place = int(np.argmin(np.isfinite(values).reshape(-1)))
    value = stored.reshape(-1)[place]
    why = "float32 cannot hold that" if np.isfinite(value) else "not a finite number"
    return f"value {place + 1} of {values.size} is {value}: {why}"
