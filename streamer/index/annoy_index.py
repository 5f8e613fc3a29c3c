"""Annoy: a forest of random hyperplanes, built on disk and read through a memory map."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import EngineUnavailableError, IndexMissingError, StoreWriteError
from streamer.files import fsync_file
from streamer.residency import MAPS

__all__ = ["AnnoyIndex", "annoy_installed", "build_annoy", "require_annoy"]

_BLOCK_BYTES = 4 * 2**20
_MOST_NODES = 2**31 - 1  # Annoy counts in C's int
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from streamer.index.annoy_process import main; main(*sys.argv[2:])"
)


def annoy_installed() -> bool:
    """Whether the annoy package can be imported."""
    try:
        import annoy  # noqa: F401
    except ImportError:
        return False
    return True


def require_annoy() -> None:
    """Raise `EngineUnavailableError`, saying what to do, unless annoy can be imported."""
    if not annoy_installed():
        raise EngineUnavailableError(
            "the annoy package is not installed; install it (pip needs a C++ compiler for it; conda has it as "
            "'python-annoy'), or set index.kind: ivf in the config (the default without annoy), or search with --exact"
        )


def _annoy(dimension: int) -> Any:
    require_annoy()
    import annoy

    return annoy.AnnoyIndex(dimension, "angular")


def build_annoy(path: Path, vectors: Iterable[NDArray[np.float32]], dimension: int, *, trees: int, seed: int) -> int:
    """Build an index file.

    Parameters
    ----------
    path : Path
        The file to write. Nodes go to it as they are made, through a memory map, by a process of its own.
    vectors : iterable of ndarray of shape (block, dimension), float32
        Their positions count from 0.
    dimension : int
    trees : int
    seed : int
        The same vectors and seed give the same file.

    Returns
    -------
    int
        Number of vectors.

    Raises
    ------
    EngineUnavailableError
        If annoy is not installed.
    StoreWriteError
        If the disk is full or fails.
    """
    require_annoy()
    arguments = [str(path), str(dimension), str(trees), str(seed)]
    command = [sys.executable, "-c", _START, json.dumps(sys.path), *arguments]
    # A group of its own: Ctrl-C in the terminal is for the parent.
    own_group: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    position = 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said, **own_group)  # noqa: S603 - ourselves
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended: its exit code says more
                for block in vectors:
                    process.stdin.write(np.ascontiguousarray(block, dtype=np.float32).tobytes())
                    position += len(block)
                process.stdin.close()
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if code:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise StoreWriteError(
                f"{path}: Annoy could not build its file (exit code {code}: {words[-1]}): the disk may be full. The "
                "index before stays as it is"
            )
    fsync_file(path)
    _verify(path, dimension, position)
    return position


def _node_bytes(dimension: int) -> int:
    """The number of its descendants, two numbers of children or a norm, and a vector, each of four bytes."""
    return 4 * (3 + dimension)


def _verify(path: Path, dimension: int, n_items: int) -> None:
    """Annoy says nothing when its file cannot grow; the nodes that it lost are all zero then."""
    node_bytes = _node_bytes(dimension)
    size = path.stat().st_size
    whole = size % node_bytes == 0 and size >= node_bytes * n_items
    with path.open("rb") as file:  # not through a map, all of which would be held
        while whole and (block := file.read(node_bytes * max(1, _BLOCK_BYTES // node_bytes))):
            whole = bool((np.frombuffer(block, np.int32)[:: 3 + dimension] >= 1).all())
    if not whole:
        raise StoreWriteError(f"{path}: the disk lost part of what was written; the index before stays as it is")


class AnnoyIndex:
    """An index file opened for reading; its pages are shared with every process that reads it.

    Parameters
    ----------
    path : Path
    dimension : int
        Length of the vectors.
    n_items : int
        How many it must hold.

    Raises
    ------
    IndexMissingError
        If the file is missing, damaged, or holds another number of vectors.
    """

    def __init__(self, path: Path, dimension: int, n_items: int) -> None:
        self._index = _annoy(dimension)
        self._path = path
        self._node_bytes = _node_bytes(dimension)
        self._in_use = threading.RLock()
        try:
            self._index.load(str(path))
        except OSError as error:
            raise IndexMissingError(f"{path}: the index does not open ({error}); run 'streamer index' again") from error
        if self._index.get_n_items() != n_items:
            found = self._index.get_n_items()
            self._index.unload()
            raise IndexMissingError(f"{path}: holds {found} vectors, not {n_items}; run 'streamer index' again")
        self.full_effort = min(_MOST_NODES, max(1, self._index.get_n_trees()) * n_items)
        self._leave = MAPS.join(self._let_go)

    def first_effort(self, count: int) -> int:
        """Nodes to look at; see `CandidateIndex`."""
        return 2 * count

    def candidates(
        self, queries: NDArray[np.float32], count: int, effort: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and cosines of the nearest vectors; see `CandidateIndex`."""
        positions = np.full((len(queries), count), -1, dtype=np.int64)
        distances = np.full((len(queries), count), np.inf, dtype=np.float32)
        looked_at = min(effort, self.full_effort)
        for row, query in enumerate(queries):
            with self._in_use:
                found, away = self._index.get_nns_by_vector(query, count, looked_at, include_distances=True)
            positions[row, : len(found)], distances[row, : len(away)] = found, away
            MAPS.touched(looked_at * self._node_bytes)
        # Annoy's angular distance is the Euclidean distance of the unit vectors: sqrt(2 - 2 cos).
        return positions, (1 - np.square(distances) / 2).astype(np.float32)

    def _let_go(self) -> bool:
        """Map the file anew, unless a search is looking at it, or it has been removed since and could not be."""
        if not self._in_use.acquire(blocking=False):
            return False
        try:
            if not self._path.is_file():
                return False
            self._index.unload()
            self._index.load(str(self._path))
        finally:
            self._in_use.release()
        return True

    def close(self) -> None:
        """Unmap the file."""
        self._leave()
        self._index.unload()
