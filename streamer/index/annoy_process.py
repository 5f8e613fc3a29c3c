"""Building an Annoy file in a process of its own: ``PATH DIMENSION TREES SEED``, and vectors on standard input.

Annoy writes through a memory map, and a map on a disk that fills up ends the process that writes to it. This one can be
spared: it holds nothing but what Annoy has mapped.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = ["main"]

_BLOCK_BYTES = 2**20


def main(path: str, dimension: str, trees: str, seed: str) -> None:
    """Read vectors, float32, until there are no more; build the file."""
    import annoy

    length = int(dimension)
    index: Any = annoy.AnnoyIndex(length, "angular")
    index.on_disk_build(path)
    index.set_seed(int(seed))
    position = 0
    step = 4 * length * max(1, _BLOCK_BYTES // (4 * length))
    while data := sys.stdin.buffer.read(step):
        for vector in np.frombuffer(data, np.float32).reshape(-1, length):
            index.add_item(position, vector)
            position += 1
    # One job: with several, the order of the nodes depends on which thread came first.
    index.build(int(trees), n_jobs=1)
    index.unload()
