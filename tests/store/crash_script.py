"""A small writing run that dies before its n-th durable step: ``crash_script STORE N`` (0: never).

With more pairs of STORE and N, each is a process of its own, forked where the system can: starting Python anew for
every step would take most of the test's time. Prints the exit codes.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from streamer.index import Draft, Manifest
from streamer.records import Rejected
from streamer.store import Store, StoreLock, StoreWriter, find_changes
from tests.conftest import feature_batch, ref, spec

DIED = 9


def features(key: str) -> np.ndarray:
    return np.random.default_rng(list(key.encode())).normal(size=(1, 8)).astype(np.float32)


def main(path: Path) -> None:
    listing = [ref(f"{number:02d}.jpg", mtime_ns=1 + (number in (3, 4))) for number in range(1, 8)]
    with StoreLock(path), StoreWriter(path, spec(), engine="t", limits="l") as writer:
        number = writer.catalog.begin_run("run", os.getpid())
        changes = find_changes(listing, writer.catalog, "l")
        writer.apply(changes)
        for image in changes.pending():
            batch = feature_batch([image.key], features(f"{image.key} {image.mtime_ns}"), mtime_ns=image.mtime_ns)
            if image.key == "04.jpg":
                nothing = {"fc2": np.empty((0, 8), np.float32)}
                batch = type(batch)((), (), nothing, (Rejected(image, "broken"),))
            writer.append(batch)
            if int(image.key[:2]) % 2:
                writer.commit()
        changes.close()
        writer.commit()
        writer.publish_view()
        with Store(path) as store:
            draft = Draft.begin(path / "index")
            with draft.writing_ids(len(store)) as append:
                for block, _ in store.blocks("fc2", 3):
                    append(block)
            newest = store.catalog.newest_id()
            draft.publish(Manifest("exact", "fc2", "f", len(store), newest, 0, 0, False, 0, None, 0, 0, 0, 1.0, None))
        writer.catalog.end_run(number, 0, "")


def die_before(step: int) -> None:
    """Count every fsync, rename, removal and SQL write from here on, and die without a word before the n-th."""
    count = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os._exit(DIED)
            return function(*args, **kwargs)

        return call

    class Connection(sqlite3.Connection):
        execute = counted(sqlite3.Connection.execute)
        executemany = counted(sqlite3.Connection.executemany)

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=Connection, **kwargs)
    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    Path.mkdir = counted(Path.mkdir)  # type: ignore[method-assign]


def run_one(store: str, step: str) -> int:
    """Run in a process of its own; returns its exit code."""
    if not hasattr(os, "fork"):
        return subprocess.run([sys.executable, "-m", __spec__.name, "--here", store, step], check=False).returncode
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        here(store, step)
        os._exit(0)
    finally:  # the child must never return into its parent's work
        traceback.print_exc()
        os._exit(1)


def here(store: str, step: str) -> None:
    die_before(int(step))
    main(Path(store))


if __name__ == "__main__":
    if sys.argv[1] == "--here":
        here(*sys.argv[2:])
    else:
        codes = [run_one(*pair) for pair in zip(sys.argv[1::2], sys.argv[2::2], strict=True)]
        sys.stdout.write(" ".join(map(str, codes)) + "\n")
