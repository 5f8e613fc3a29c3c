"""Random histories of a library: after every run, the store equals a fresh build of the same tree."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streamer.config import load_config
from streamer.errors import StreamerError
from streamer.images.drawn import draw_pictures
from streamer.pipeline import run
from streamer.searcher import Searcher
from streamer.store import Store
from streamer.upkeep import check, compact
from tests.end_to_end.test_crash import wait_for_files
from tests.end_to_end.test_pipeline import features_by_key

NAMES = [f"{folder}{name}.jpg" for folder in ("", "a/", "a/b/", "c/") for name in ("x", "y", "z")]
HISTORIES, NIGHTS = (int(os.environ.get(name, default)) for name, default in (("HISTORIES", 2), ("NIGHTS", 10)))
PICTURES = 10

# What people do by day: ten pictures in twelve places, so some are copies, and one is broken.
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "move", "swap", "delete", "touch", "move folder"]),
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.integers(0, PICTURES - 1),
    ),
    max_size=5,
)
# What happens to a night before it ends well.
MISHAPS = st.sampled_from(["none", "none", "none", "killed at 0", "killed at 1", "killed at 3", "unmounted", "compact"])


class Library:
    """A library, its store, and what can befall them."""

    def __init__(self, folder: Path, pictures: Sequence[Path]) -> None:
        self.folder, self.pictures = folder, pictures
        self.library, self.store = folder / "library", folder / "photos.store"
        self.library.mkdir()
        self.clock = itertools.count(1_700_000_000)
        self.config = folder / "a.yaml"
        text = {
            "store": "photos.store",
            "source": {"folder": "library", "max_removed": 1.0, "allow_empty": True},
            "backbone": {"name": "vgg16_compact"},
            "memory": {"budget": "8GiB"},
            "index": {"rebuild_fraction": 0.8},
        }
        self.config.write_text(yaml.safe_dump(text))

    def present(self) -> list[Path]:
        return sorted(path for path in self.library.rglob("*") if path.is_file())

    def tick(self, path: Path) -> None:
        now = next(self.clock)
        os.utime(path, (now, now))

    def change(self, what: str, name: str, other: str, picture: int) -> None:
        path, target = self.library / name, self.library / other
        path.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        if what == "put":
            shutil.copyfile(self.pictures[picture], path)
            self.tick(path)
        elif what == "move folder":
            if path.parent != self.library and not (self.library / "d").exists():
                path.parent.rename(self.library / "d")
        elif path.is_file():
            if what == "move":
                path.replace(target)
            elif what == "swap" and target.is_file() and target != path:
                path.rename(self.library / "aside")
                target.rename(path)
                (self.library / "aside").rename(target)
            elif what == "delete":
                path.unlink()
            elif what == "touch":
                self.tick(path)

    def mishap(self, what: str) -> None:
        before = features_by_key(self.store)
        if what == "unmounted":
            self.library.rename(self.folder / "away")
            with pytest.raises(StreamerError, match="does not exist"):
                run(load_config(self.config))
            self.library.mkdir()
            if before:
                with pytest.raises(StreamerError, match="holds no images"):
                    run(load_config(self.config, ["source.allow_empty=false"]))
            self.library.rmdir()
            (self.folder / "away").rename(self.library)
        elif what == "compact":
            compact(self.store)
        if what in ("unmounted", "compact"):
            assert features_by_key(self.store) == before
        if what.startswith("killed"):
            features = self.store / "features"
            present = len(list(features.iterdir()))
            sets = ["--set", "run.commit_seconds=0.0001", "--set", "memory.budget=1GiB"]
            process = subprocess.Popen([sys.executable, "-m", "streamer", "run", str(self.config), "--quiet", *sets])
            wait_for_files(process, features, present + int(what[-1]))
            process.kill()
            process.wait()
            assert check(self.store).faults == []

    def night(self) -> None:
        report = run(load_config(self.config))
        images = report.images
        assert images["seen"] == len(self.present())
        kept = sum(images[name] for name in ("added", "updated", "moved", "unchanged"))
        assert kept + images["failed"] == images["seen"]
        with tempfile.TemporaryDirectory() as folder:
            fresh = load_config(self.config, [f"store={folder}/fresh.store"])
            anew = run(fresh)
            assert anew.images["failed"] == images["failed"]
            assert features_by_key(self.store) == features_by_key(fresh.store)
            assert hits(self.store) == hits(fresh.store)
        assert check(self.store).faults == []


def hits(path: Path) -> list[tuple[str, str, float]]:
    """Of one query: keys, labels and scores, by way of the index and what is newer."""
    with Store(path) as store:
        length = store.feature_length(store.spec.indexed)
    query = np.random.default_rng(0).random(length, dtype=np.float32)
    with Searcher(path) as searcher:
        return [(hit.key, hit.label, hit.score) for hit in searcher.nearest([query], 30)[0]]


@pytest.mark.slow
def test_any_history_ends_as_a_fresh_build(tmp_path: Path) -> None:
    draw_pictures(tmp_path, classes=3, per_class=3, side=64, seed=5)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(sorted(tmp_path.rglob("*_000.jpg"))[0].read_bytes()[:300])
    pictures = (*sorted(path for path in tmp_path.rglob("*.jpg") if path != broken), broken)
    assert len(pictures) == PICTURES
    beside = 0

    @settings(
        max_examples=HISTORIES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # a history takes seconds: to shrink one that fails would take many minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.tuples(CHANGES, MISHAPS), min_size=NIGHTS, max_size=NIGHTS))
    def live(history: list[tuple[list[tuple[str, str, str, int]], str]]) -> None:
        nonlocal beside
        with tempfile.TemporaryDirectory(prefix="history-") as folder:
            library = Library(Path(folder), pictures)
            for place, name in enumerate(NAMES[:6]):
                library.change("put", name, name, place)
            library.night()
            for changes, mishap in history:
                for each in changes:
                    library.change(*each)
                library.mishap(mishap)
                library.night()
                with Searcher(library.store) as searcher:
                    if searcher.generation is not None:
                        beside += searcher.store.catalog.count_since(searcher.generation.manifest.newest_id)[1] > 0

    live()
    # Nights with images beside the index: the histories were what they should be.
    assert beside > NIGHTS * HISTORIES // 4
