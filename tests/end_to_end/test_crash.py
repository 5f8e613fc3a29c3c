"""A run that is killed loses nothing that was committed, and the next one ends as if nothing had happened."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.config import Config
from streamer.images.drawn import draw_pictures
from streamer.pipeline import run
from streamer.searcher import Searcher
from streamer.store import Store
from tests.end_to_end.test_pipeline import features_by_key

KILLS = 10


def start(config: Path, store: Path) -> subprocess.Popen[bytes]:
    """Begin a run in a process of its own, with a commit after each batch."""
    overrides = [f"store={store}", "run.commit_seconds=0.01", "memory.budget=1GiB"]
    sets = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "streamer", "run", str(config), "--quiet", *sets]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_files(process: subprocess.Popen[bytes], folder: Path, count: int) -> None:
    """Wait until the run has written that many files into a folder, whole ones or not, or has ended."""
    while process.poll() is None and (not folder.is_dir() or len(list(folder.iterdir())) <= count):
        time.sleep(0.001)


@pytest.mark.slow
def test_kill_at_random_moments(make_config: Callable[..., Config], tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    draw_pictures(pictures, classes=6, per_class=12, side=64, seed=5)
    whole = make_config(pictures)
    run(whole)
    expected = features_by_key(whole.store)
    paths = sorted(pictures.rglob("*.jpg"))[::7]
    with Searcher(whole.store) as searcher:
        hits = [result.hits for result in searcher.search(paths)]

    steps = len(expected) // 8
    moments = random.Random(11)
    committed = []
    for number in range(KILLS):
        store = tmp_path / f"killed{number}.store"
        process = start(tmp_path / "config.yaml", store)
        try:
            wait_for_files(process, store / "features", moments.randrange(steps // 2))
            time.sleep(moments.uniform(0, 0.01))
        finally:
            process.kill()
            process.wait()
        before: dict[str, bytes] = {}
        if (store / "catalog.sqlite").exists():
            before = features_by_key(store)
            assert before.items() <= expected.items()  # what is committed is whole and right
        committed.append(len(before))
        report = run(make_config(pictures, f"store={store}"))
        assert report.images["added"] == len(expected) - len(before)
        assert report.images["unchanged"] == len(before)
        assert features_by_key(store) == expected
        if number < 2:  # the same features and the same seed: once or twice will do
            with Searcher(store) as searcher:
                assert [result.hits for result in searcher.search(paths)] == hits
        with Store(store) as opened:
            names = {f"{shard:06d}.h5" for shard, _, _ in opened.catalog.shards()}
        assert {path.name for path in (store / "features").iterdir()} == names
    # The moments were well chosen only if some fell into the extraction:
    assert sum(0 < count < len(expected) for count in committed) >= 2, committed
