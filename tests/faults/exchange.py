"""Make changes to the disk of exports and imports fail: ``python -m tests.faults.exchange STRIDE FOLDER [KIND...]``.

As `tests.faults.torment` does with a store: each time in a forked process. After each fault what stands there is whole,
the old or the new; and done again without one, the work ends as if there had been none. Imports make many more changes
to the disk: of theirs, every 8th of those fails.

Prints one line of JSON for each operation and kind. Run with the environment of `tests.faults.shim`.
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import h5py
import numpy as np

from streamer.exchange import batches, export_features, import_features, importing
from streamer.files import PARTIAL
from streamer.store import Store, StoreWriter
from streamer.upkeep import check
from tests.conftest import write_features
from tests.faults.operations import LENGTH, Operation, copy
from tests.faults.shim import KINDS, Faults
from tests.faults.torment import REFUSED, attempt

_ROWS = 12
_BLOCK_ROWS = 4


@dataclass(frozen=True)
class Exchange:
    """An operation, and what must hold after it.

    Attributes
    ----------
    work : Operation
    strides : int
        Of how many strides along the changes one fails.
    held : callable
        What a place holds, row by row or file by file; empty where nothing stands.
    whole : bool
        Whether there is all or nothing. An import that is cut off leaves the rows that it has committed.
    """

    work: Operation
    strides: int
    held: Callable[[Path], dict[str, bytes]]
    whole: bool


def rows(version: int) -> np.ndarray:
    """Every other row is the same in all versions."""
    made = np.random.default_rng(0).normal(size=(_ROWS, LENGTH)).astype(np.float32)
    made[::2] += version
    return made


# -- out -------------------------------------------------------------------------------------------------------------


def export(stores: Path, name: str) -> Operation:
    """A second export over the first."""

    def first(path: Path) -> None:
        path.mkdir()
        export_features(stores / "1.store", path / name)

    return Operation(first, lambda path: export_features(stores / "2.store", path / name) and None)


def files(path: Path) -> dict[str, bytes]:
    """An exported folder; after death between two renames it is still under another name."""
    found = next((each for each in (path / "out", path / f"out.old{PARTIAL}") if each.exists()), path / "none")
    return {str(each.relative_to(found)): each.read_bytes() for each in found.rglob("*") if each.is_file()}


def datasets(path: Path) -> dict[str, bytes]:
    """An exported HDF5 file."""
    with h5py.File(path / "out.h5", "r") as file:
        return {"features": file["features/fc2"][:].tobytes(), "keys": repr(file["key"].asstr()[:].tolist()).encode()}


# -- in --------------------------------------------------------------------------------------------------------------


def take(inputs: Path, version: int, path: Path) -> None:
    """Import, with a commit after each block."""
    writer = functools.partial(StoreWriter, commit_bytes=1)
    with mock.patch.object(importing, "StoreWriter", writer), mock.patch.object(batches, "_MOST_ROWS", _BLOCK_ROWS):
        import_features(path, inputs / f"{version}.npy", keys=inputs / "keys.csv", name="fc2")


def features(path: Path) -> dict[str, bytes]:
    """Each row of a store, in which nothing is wrong."""
    if not (path / "catalog.sqlite").exists():
        return {}
    report = check(path)
    assert not report.faults, report.faults
    with Store(path) as store:
        blocks = list(store.blocks("fc2", 5))
        names = store.catalog.names([int(number) for ids, _ in blocks for number in ids])
    return {
        names[int(number)][0]: row.tobytes() for ids, block in blocks for number, row in zip(ids, block, strict=True)
    }


# -- all -------------------------------------------------------------------------------------------------------------


def operations(folder: Path) -> Iterator[tuple[str, Exchange]]:
    """What is tormented, with its inputs in a folder."""
    keys = [f"c{number % 3}/{number:04d}.jpg" for number in range(_ROWS)]
    (folder / "keys.csv").write_text("key\n" + "".join(f"{key}\n" for key in keys), encoding="utf-8")
    for version in (1, 2):
        np.save(folder / f"{version}.npy", rows(version))
        write_features(folder / f"{version}.store", rows(version), keys)
    yield "export a folder", Exchange(export(folder, "out"), 1, files, whole=True)
    yield "export a file", Exchange(export(folder, "out.h5"), 1, datasets, whole=True)
    new = Operation(lambda path: None, lambda path: take(folder, 1, path))
    yield "import", Exchange(new, 8, features, whole=False)
    again = Operation(lambda path: take(folder, 1, path), lambda path: take(folder, 2, path))
    yield "import over it", Exchange(again, 8, features, whole=False)


def torment(name: str, exchange: Exchange, kind: str, stride: int, folder: Path, faults: Faults) -> dict[str, object]:
    before = folder / "before"
    exchange.work.prepare(before)
    old = exchange.held(before) if before.exists() else {}
    done = copy(before, folder / "done")
    code, changes = attempt(exchange.work, done, 0, "kill", faults)
    assert code == 0, f"{name}: ended with {code}"
    new = exchange.held(done)
    assert new != old, f"{name}: changes nothing"
    tried = refused = 0
    # The kinds begin apart from each other: together they meet more of the changes.
    for number in range(1 + list(KINDS).index(kind) % stride, changes + 1, stride * exchange.strides):
        tried += 1
        path = copy(before, folder / str(number))
        code, _ = attempt(exchange.work, path, number, kind, faults)
        assert code in ((0, -9) if kind == "kill" else (0, REFUSED)), f"{name}, {kind} at {number}: ended with {code}"
        refused += code != 0
        found = exchange.held(path)
        if exchange.whole:
            assert found in (old, new), f"{name}, {kind} at {number}: neither the old nor the new"
        else:
            wrong = [key for key, row in found.items() if row not in (old.get(key), new[key])]
            assert not wrong and found.keys() >= old.keys(), f"{name}, {kind} at {number}: {wrong}, or some are gone"
        exchange.work.run(path)
        left = [each.name for each in path.rglob(f"*{PARTIAL}*")]
        assert exchange.held(path) == new and not left, f"{name}, {kind} at {number}: done again, it differs; {left}"
        shutil.rmtree(path)
    return {"operation": name, "kind": kind, "changes": changes, "tried": tried, "refused": refused}


def main(stride: str, place: str, *kinds: str) -> None:
    logging.disable(logging.CRITICAL)
    faults, folder = Faults(), Path(place)
    for name, exchange in operations(folder):
        for kind in kinds or KINDS:
            own = folder / f"{name} {kind}".replace(" ", "-")
            own.mkdir()
            sys.stdout.write(json.dumps(torment(name, exchange, kind, int(stride), own, faults)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
