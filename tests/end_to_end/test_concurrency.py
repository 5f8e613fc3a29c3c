"""Searches while runs publish one generation after another, and compact moves rows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.config import Config
from streamer.images.drawn import draw_pictures
from streamer.pipeline import run
from streamer.upkeep import check, compact

ROOT = Path(__file__).parents[2]
RUNS = 10
CHANGING = 5


@pytest.mark.slow
def test_a_thousand_searches_while_ten_runs_publish(
    make_config: Callable[..., Config], pictures: Path, tmp_path: Path
) -> None:
    library = tmp_path / "library"
    shutil.copytree(pictures, library)
    draw_pictures(tmp_path / "new", classes=1, per_class=CHANGING * (RUNS + 1), side=64, seed=3)
    new = sorted((tmp_path / "new").rglob("*.jpg"))

    def change(number: int) -> None:
        for place, source in enumerate(new[number * CHANGING : (number + 1) * CHANGING]):
            shutil.copy(source, library / f"new{place}.jpg")

    change(0)
    config = make_config(library, "backbone={name: vgg16_compact}", "index.rebuild_fraction=0")
    assert run(config).generation == 1
    stop = tmp_path / "stop"
    arguments = [str(config.store), str(40 + CHANGING), str(stop)]
    reader = subprocess.Popen(
        [sys.executable, "-m", "tests.end_to_end.reader", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for number in range(1, RUNS + 1):
            change(number)
            report = run(config)
            assert (report.images["updated"], report.generation) == (CHANGING, number + 1)
            if number % 3 == 0:
                compact(config.store)
        stop.touch()
        out, error = reader.communicate(timeout=300)
    finally:
        reader.kill()
    assert reader.returncode == 0, error[-4000:]
    searches, generations = map(int, out.split())
    assert searches >= 1000 and generations >= 3
    assert check(config.store).faults == []
    assert sorted(path.name for path in (config.store / "index").iterdir()) == ["000010", "000011", "CURRENT"]
