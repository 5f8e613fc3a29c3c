"""Death before every single durable step of a writing run: nothing committed is lost, the next run ends the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import StoreMissingError
from streamer.index import current_generation
from streamer.store import Store, StoreWriter
from tests.conftest import feature_batch, spec
from tests.store import crash_script

ROOT = Path(__file__).parents[2]
BATCH = 16


def script(*runs: tuple[Path, int]) -> list[int]:
    """Run the script on stores, to die before these steps; returns the exit codes."""
    pairs = [str(part) for run in runs for part in run]
    command = [sys.executable, "-m", "tests.store.crash_script", *pairs]
    # One thread: a process that forks should have no others.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    codes = [int(code) for code in done.stdout.split()]
    assert len(codes) == len(runs) and set(codes) <= {0, crash_script.DIED}, done.stderr
    return codes


def contents(path: Path) -> tuple[dict[str, bytes], list[str], list[str]]:
    """Features by key, failures, and keys in the published index."""
    with Store(path) as store:
        rows = {}
        for ids, features in store.blocks("fc2", 2):
            entries = store.entries(ids.tolist())
            rows |= {entries[number].key: row.tobytes() for number, row in zip(ids.tolist(), features, strict=True)}
        failures = [each.key for each in store.failures()]
        generation = current_generation(path / "index")
        indexed = store.entries(generation.ids().tolist()).values() if generation else ()
        return rows, failures, sorted(each.key for each in indexed)


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    """A store of an earlier night: some photos will be unchanged, some changed, one gone, one broken."""
    path = tmp_path / "before.store"
    with StoreWriter(path, spec(), engine="t", limits="l") as writer:
        for number in (0, 2, 3, 4):
            key = f"{number:02d}.jpg"
            writer.append(feature_batch([key], crash_script.features(f"{key} 1"), mtime_ns=1))
            writer.commit()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [True, False], ids=["a first run", "a later night"])
def test_death_before_every_step(seeded: Path, tmp_path: Path, fresh: bool) -> None:
    def copy(name: str) -> Path:
        path = tmp_path / name
        if not fresh:
            shutil.copytree(seeded, path)
        return path

    whole = copy("whole.store")
    assert script((whole, 0)) == [0]
    expected = contents(whole)
    assert len(expected[0]) == 6 and expected[1] == ["04.jpg"] and expected[2] == sorted(expected[0])
    right = {key: {values} for key, values in expected[0].items()}
    if not fresh:
        for key, values in contents(seeded)[0].items():
            right.setdefault(key, set()).add(values)  # what an image held before is as right until it is replaced

    finished, first = False, 1
    while not finished:
        stores = {step: copy(f"{step}.store") for step in range(first, first + BATCH)}
        codes = script(*((store, step) for step, store in stores.items()))
        finished = 0 in codes
        for step, store in stores.items():
            try:
                rows, _, indexed = contents(store)
            except StoreMissingError:
                rows, indexed = {}, []
            assert all(values in right[key] for key, values in rows.items()), step
            assert set(indexed) <= set(rows), step
        assert script(*((store, 0) for store in stores.values())) == [0] * BATCH
        for step, store in stores.items():
            assert contents(store) == expected, step
            leftovers = [path.name for path in store.rglob("*.partial*")]
            assert leftovers == [], (step, leftovers)
            shutil.rmtree(store)
        first += BATCH
    assert first > 100  # the count of steps works: a run has more than a hundred


def test_the_script_writes_what_it_says(tmp_path: Path) -> None:
    assert script((tmp_path / "a.store", 0)) == [0]
    rows, _, _ = contents(tmp_path / "a.store")
    np.testing.assert_array_equal(np.frombuffer(rows["02.jpg"], np.float32), crash_script.features("02.jpg 1")[0])
