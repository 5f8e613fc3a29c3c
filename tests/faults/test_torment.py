"""Death, a full disk and a failing one at changes to the disk all over each writing operation.

A prime stride reaches every kind of change in two minutes; `scripts/torture.py` goes through all of them, one by one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import shim

ROOT = Path(__file__).parents[2]
STRIDE = 29

pytestmark = pytest.mark.skipif(bool(shim.missing()), reason=shim.missing() or "-")


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(shim.KINDS))
def test_nothing_committed_is_lost_and_the_next_run_ends_the_same(kind: str, tmp_path: Path) -> None:
    library = shim.build(tmp_path)
    command = [sys.executable, "-m", "tests.faults.torment", kind, str(STRIDE), str(tmp_path / "stores")]
    done = subprocess.run(command, cwd=ROOT, env=shim.environment(library), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == 8
    for outcome in outcomes:
        # Each has this many changes at least, and most of them stopped the work: the faults were real ones.
        assert outcome["changes"] > 40 and outcome["refused"] >= 0.5 * outcome["tried"], outcome
