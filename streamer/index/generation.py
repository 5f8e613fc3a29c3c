"""Generations of the index: each a folder made in private, then published whole by one rename.

``index/000003/`` holds ``manifest.json``, ``images.npy`` (position -> image) and, by kind, ``reducer.npz`` and
``annoy.ann``, or ``reducer.npz`` and the files of an inverted file. ``index/CURRENT`` names the published one. A reader
opens what CURRENT names; its files are never written to again, and the generation before stays on disk for readers
that still have it open.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import IndexMissingError
from streamer.files import PARTIAL, digest_of, fsync_file, fsync_folder, remove_tree, rename, replace_text
from streamer.index.arrays import writing_array

__all__ = ["Draft", "Generation", "Manifest", "current_generation", "published_number"]

_KEEP = 2
_FILES: dict[str, set[str]] = {
    "exact": set(),
    "annoy": {"images.npy", "reducer.npz", "annoy.ann"},
    "ivf": {"images.npy", "reducer.npz", "centroids.npy", "starts.npy", "vectors.npy"},
}
# Read in a quarter of a second before a search. Larger files are read whole by each run and by `streamer check`.
_QUICKLY_READ_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Manifest:
    """What a generation was made from, and how it answers.

    Attributes
    ----------
    kind : str
        ``annoy``, ``ivf`` or ``exact``.
    output : str
        The feature it indexes.
    fingerprint : str
        Of that feature.
    rows, newest_id : int
        Images in it, and the highest of their ids. As ids are never reused, these two together say which images.
    dimension : int
        Length of the reduced vectors; 0 where there are none.
    components, whiten : int, bool
        As the config asked for.
    parts, parts_asked : int, int or None
        Annoy's trees, or the clusters of an inverted file; None for auto.
    seed : int
    effort, effort_asked : int, int or None
        What a search looks at: nodes of Annoy's forest (its ``search_k``), or clusters (``probes``).
    candidates : int
        How many candidates the recall was measured with.
    recall_asked, recall_at_10 : float, float or None
        Recall that was asked for, and the recall measured on sampled rows against exact search; None where the kind is
        exact.
    files : mapping of str to (int, str)
        Size in bytes and BLAKE2b-128 digest, hexadecimal, of each file of the generation but the manifest.
    """

    kind: str
    output: str
    fingerprint: str
    rows: int
    newest_id: int
    dimension: int
    components: int
    whiten: bool
    parts: int
    parts_asked: int | None
    seed: int
    effort: int
    effort_asked: int | None
    candidates: int
    recall_asked: float
    recall_at_10: float | None
    files: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Draft:
    """A generation in the making: ``index/000004.partial/``.

    Parameters
    ----------
    folder : Path
        ``index/`` of a store.
    number : int
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self._folder = folder
        self.path = folder / f"{number:06d}{PARTIAL}"

    @classmethod
    def begin(cls, folder: Path) -> Draft:
        """Start a new one; what a crash left, half made or complete but never published, is removed."""
        number = _last_number(folder)
        for stale in folder.iterdir():
            if stale.name.endswith(PARTIAL) or (stale.name.isdigit() and int(stale.name) > number):
                remove_tree(stale)
        draft = cls(folder, number + 1)
        draft.path.mkdir(exist_ok=True)
        return draft

    @classmethod
    def existing(cls, folder: Path) -> Draft | None:
        """The one that ``streamer reduce`` has begun, if any; what an interrupted build left in it is removed."""
        draft = cls(folder, _last_number(folder) + 1)
        if not draft.reducer_path.is_file():
            return None
        for file in draft.path.iterdir():
            if file != draft.reducer_path:
                file.unlink()
        return draft

    @property
    def reducer_path(self) -> Path:
        return self.path / "reducer.npz"

    def writing_images(self, count: int) -> contextlib.AbstractContextManager[Callable[[NDArray[np.int64]], None]]:
        """Write ``images.npy``: gives a function that appends blocks of (id, shard, row), shape (n, 3), int64."""
        return writing_array(self.path / "images.npy", "<i8", (count, 3))

    def publish(self, manifest: Manifest) -> Generation:
        """Complete it, give it its name and point CURRENT at it; generations but the newest two go."""
        files = {}
        for file in sorted(self.path.iterdir()):
            fsync_file(file)
            size, digest = digest_of(file)
            files[file.name] = (size, digest.hex())
        manifest = replace(manifest, files=files)
        replace_text(self.path / "manifest.json", json.dumps(asdict(manifest), indent=1) + "\n")
        fsync_folder(self.path)
        target = self._folder / f"{self.number:06d}"
        rename(self.path, target)
        replace_text(self._folder / "CURRENT", target.name + "\n")
        for folder in sorted(self._folder.iterdir()):
            if folder.name.isdigit() and int(folder.name) <= self.number - _KEEP:
                remove_tree(folder)
        return Generation(target)


class Generation:
    """A published generation.

    Parameters
    ----------
    path : Path
        ``index/000003``.

    Raises
    ------
    IndexMissingError
        If it is damaged or was made by a newer release.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name)
        try:
            self.manifest = Manifest(**json.loads((path / "manifest.json").read_text(encoding="utf-8")))
            if self.manifest.kind not in _FILES:
                raise ValueError(f"index of kind {self.manifest.kind!r}, made by a newer release?")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise IndexMissingError(
                f"{path}: the manifest cannot be read ({error}); have 'streamer check STORE --repair' fall back on the "
                "index before, or run 'streamer index CONFIG' again, or search with --exact"
            ) from error

    def faults(self, up_to_bytes: int | None = None) -> list[tuple[Path, str]]:
        """What is wrong with its files: each, and its fault.

        Parameters
        ----------
        up_to_bytes : int, optional
            Of larger files, only the size is looked at.
        """
        needed = _FILES[self.manifest.kind]
        found = [(self.path / "manifest.json", f"does not list {name}") for name in needed - set(self.manifest.files)]
        for name, (n_bytes, digest) in self.manifest.files.items():
            file = self.path / name
            try:
                size = file.stat().st_size
                if size != n_bytes:
                    found.append((file, f"{size} bytes, not the {n_bytes} that were written"))
                elif (up_to_bytes is None or size <= up_to_bytes) and digest_of(file)[1].hex() != digest:
                    found.append((file, "its checksum is not that of what was written"))
            except FileNotFoundError:
                found.append((file, "missing"))
            except OSError as error:
                found.append((file, f"cannot be read ({error.strerror})"))
        return found

    def verify(self) -> None:
        """Raise `IndexMissingError` where a file is damaged: Annoy trusts its file, and crashes over a wrong one."""
        for file, what in self.faults(_QUICKLY_READ_BYTES):
            raise IndexMissingError(
                f"{file}: {what}; have 'streamer check STORE --repair' fall back on the index before, or run "
                "'streamer index CONFIG' again, or search with --exact"
            )


def current_generation(folder: Path) -> Generation | None:
    """The published generation, or None before the first.

    Parameters
    ----------
    folder : Path
        ``index/`` of a store.
    """
    for _ in range(3):  # between reading CURRENT and opening, two newer ones may have been published
        number = published_number(folder)
        if number == 0:
            return None
        try:
            return Generation(folder / f"{number:06d}")
        except FileNotFoundError:
            continue
    raise IndexMissingError(
        f"{folder}: CURRENT names generation {number}, which is not there; run 'streamer index' again"
    )


def _last_number(folder: Path) -> int:
    """The published number; where CURRENT is damaged, the highest there is: no folder is written to twice."""
    try:
        return published_number(folder)
    except IndexMissingError:
        return max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0)


def published_number(folder: Path) -> int:
    """Number of the published generation, 0 before the first; by a look at one small file."""
    try:
        return int((folder / "CURRENT").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise IndexMissingError(
            f"{folder / 'CURRENT'}: cannot be read ({error}); run 'streamer index' again"
        ) from error
