"""Real photos, all the way: the Caltech-101 subset, where it is at hand."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.config import Config
from streamer.pipeline import run
from streamer.searcher import Searcher
from tests.conftest import SHARED_DATA

ARCHIVE = SHARED_DATA / "caltech101-subset.tar"


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason=f"needs the Caltech-101 subset as {ARCHIVE}")
def test_every_photo_is_a_row_and_finds_itself_first(make_config: Callable[..., Config], tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "photos", filter="data")
    folder = tmp_path / "photos" / "caltech101-subset"
    paths = sorted(folder.rglob("*.jpg"), key=lambda path: path.relative_to(folder).as_posix())
    config = make_config(folder, "backbone.input_size=32")
    report = run(config)
    assert len(paths) == 3179
    assert (report.images["seen"], report.images["added"], report.images["failed"]) == (3179, 3179, 0)
    with Searcher(config.store) as searcher:
        # Features of random weights are hard to tell apart, and how hard depends on the machine's rounding.
        assert searcher.generation is not None and (searcher.generation.manifest.recall_at_10 or 0) >= 0.95
        for start in range(0, len(paths), 500):
            part = paths[start : start + 500]
            for path, result in zip(part, searcher.search(part, k=2), strict=True):
                first, key = result.hits[0], path.relative_to(folder).as_posix()
                # The same photo may stand in two folders: equal scores are ranked by key.
                assert first.score >= 0.999
                assert key in [hit.key for hit in result.hits if hit.score == first.score]
