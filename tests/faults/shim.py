"""Compiling and loading the library that makes calls fail."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
KINDS = {"kill": 1, "full": 2, "broken": 3}


def missing() -> str:
    """Why faults cannot be injected here; empty when they can."""
    if sys.platform != "linux":
        return "faults are injected by LD_PRELOAD, on Linux only"
    return "" if shutil.which("cc") else "faults are injected by a small C library, and there is no C compiler (cc)"


def build(folder: Path) -> Path:
    """Compile the library into a folder."""
    library = folder / "faults.so"
    command = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """For a process whose calls are to fail. One thread: it forks."""
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return {**os.environ, **threads, "LD_PRELOAD": str(library), "FAULTS": str(library)}


class Faults:
    """The loaded library, in a process started with `environment`."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["FAULTS"])
        self._library.faults_count.restype = ctypes.c_long

    def arm(self, folder: Path, number: int, kind: str) -> None:
        """From now on count changes below `folder`, and let the one with this number fail (0: none)."""
        path = os.fsencode(folder.resolve())
        self._library.faults_arm(ctypes.c_char_p(path), ctypes.c_long(number), KINDS[kind])

    def disarm(self) -> int:
        """Stop; returns how many changes there were."""
        count: int = self._library.faults_count()
        self._library.faults_arm(b"", ctypes.c_long(0), 0)
        return count
