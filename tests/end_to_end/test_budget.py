"""The memory budget is kept by the real thing, under a hard limit that the kernel enforces."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from streamer.config import Config, parse_bytes
from streamer.errors import StoreMissingError
from streamer.images.drawn import draw_pictures
from streamer.pipeline.configured import chosen_network
from streamer.records import FeatureBatch, ImageRef
from streamer.store import Store, StoreWriter
from tests.memory_group import memory_group

MIB = 2**20


def streamer(config: Path, command: str, budget: str, *overrides: str) -> list[str]:
    sets = [part for override in (f"memory.budget={budget}", *overrides) for part in ("--set", override)]
    return [sys.executable, "-m", "streamer", command, str(config), "--json", *sets]


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["256MiB", "512MiB"])
def test_a_whole_run_of_vgg16_keeps_within_its_budget(
    make_config: Callable[..., Config], tmp_path: Path, budget: str
) -> None:
    draw_pictures(tmp_path / "pictures", classes=4, per_class=10, side=512, seed=3)
    make_config(tmp_path / "pictures")
    with memory_group(parse_bytes(budget)) as group:
        done = group.run(streamer(tmp_path / "config.yaml", "run", budget, "backbone.input_size=224"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["images"]["added"] == 40
    assert report["peak_rss_bytes"] <= report["memory_budget_bytes"] == parse_bytes(budget)


@pytest.mark.slow
def test_pca_and_index_of_unpooled_maps_keep_within_the_budget(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """25,088 features a row: a naive PCA of 400 rows takes 300 MB for its matrix alone."""
    overrides = (
        *("backbone.input_size=224", "backbone.outputs=[{layer: block5_pool}]", "reduce.components=128"),
        *("search.candidates=40", "search.recall=0.5"),  # reading 100 kB for each candidate takes minutes
    )
    config = make_config(tmp_path, *overrides)
    network = chosen_network(config)
    random = np.random.default_rng(0)
    with StoreWriter(config.store, network.spec(), engine="test", limits="") as writer:
        for start in range(0, 400, 50):
            refs = tuple(ImageRef(f"{number:05d}.jpg", "", 1, 1, "") for number in range(start, start + 50))
            maps = np.maximum(random.normal(size=(50, 7, 7, 512)), 0).astype(np.float32)
            contents = tuple(ref.key.encode().rjust(16) for ref in refs)
            writer.append(FeatureBatch(refs, contents, {"block5_pool": maps}))
    with memory_group(768 * MIB) as group:
        for stage in ("reduce", "index"):
            done = group.run(streamer(tmp_path / "config.yaml", stage, "768MiB", *overrides))
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["peak_rss_bytes"] <= 768 * MIB


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(make_config: Callable[..., Config], tmp_path: Path) -> None:
    """Samples of one long run: a short run's peak is the moment of loading the weights, which varies by 13 MB."""
    draw_pictures(tmp_path / "pictures", classes=10, per_class=500, side=64, seed=3)
    config = make_config(tmp_path / "pictures")
    resident: list[tuple[int, int]] = []
    command = streamer(tmp_path / "config.yaml", "extract", "1GiB", "run.commit_seconds=0.5")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while process.poll() is None:
            with contextlib.suppress(psutil.Error, StoreMissingError), Store(config.store) as store:
                resident.append((len(store), psutil.Process(process.pid).memory_info().rss))
            time.sleep(0.1)
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    assert report["images"]["added"] == 5000
    early = [size for rows, size in resident if 0 < rows <= 500]
    late = [size for rows, size in resident if rows > 500]
    assert early and len(late) > 20
    assert max(late) < 1.05 * max(early)


def test_a_limit_that_is_broken_kills() -> None:
    """The tests above mean nothing unless the group's limit is enforced."""
    with memory_group(64 * MIB) as group:
        done = group.run([sys.executable, "-c", "x = bytearray(200 * 2**20); print(len(x))"])
    assert done.returncode != 0 and "209715200" not in done.stdout
