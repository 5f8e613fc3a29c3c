"""A memory control group for tests: a hard limit that the kernel enforces, page cache included."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """Commands started in it together hold no more than `limit_bytes`; beyond, the kernel kills them."""

    def __init__(self, folder: Path, version: int) -> None:
        self._folder = folder
        self._version = version

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        # The group is joined by a small program that then becomes the command: preexec_fn is unsafe with threads.
        join = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
        tasks = self._folder / "cgroup.procs"
        return subprocess.run(
            [sys.executable, "-c", join, str(tasks), *command], capture_output=True, text=True, check=False
        )

    @property
    def peak_bytes(self) -> int:
        """The most that was held at once, page cache included."""
        name = "memory.max_usage_in_bytes" if self._version == 1 else "memory.peak"
        return int((self._folder / name).read_text())


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Make a group, or skip the test where that cannot be done."""
    version = 1 if (ROOT / "memory").is_dir() else 2
    folder = (ROOT / "memory" if version == 1 else ROOT) / f"streamer-test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if version == 1 else "memory.max")).write_text(str(limit_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"a memory control group cannot be made here: {error}")
    try:
        yield MemoryGroup(folder, version)
    finally:
        folder.rmdir()
