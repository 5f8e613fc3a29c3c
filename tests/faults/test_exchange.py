"""Death, a full disk and a failing one at changes to the disk all over exports and imports.

A sample of the changes; `scripts/torture.py` goes through many more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import shim

ROOT = Path(__file__).parents[2]
STRIDE = 11

pytestmark = pytest.mark.skipif(bool(shim.missing()), reason=shim.missing() or "-")


@pytest.mark.slow
def test_an_export_is_whole_or_not_there_and_an_import_goes_on_to_the_same_end(tmp_path: Path) -> None:
    library = shim.build(tmp_path)
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-m", "tests.faults.exchange", str(STRIDE), str(tmp_path / "work")]
    done = subprocess.run(command, cwd=ROOT, env=shim.environment(library), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == 4 * len(shim.KINDS)
    for outcome in outcomes:
        # The faults were real ones: most of them stopped the work.
        assert outcome["changes"] > 20 and outcome["refused"] >= max(2, 0.5 * outcome["tried"]), outcome
