"""Random histories of a library: after every run, the store equals a fresh build of the same tree."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

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
HISTORIES, STEPS = (int(os.environ.get(name, default)) for name, default in (("HISTORIES", 5), ("HISTORY_STEPS", 14)))


class History(RuleBasedStateMachine):
    """A library and its store. `PICTURES` is set by the test: distinct pictures, and one that is broken."""

    PICTURES: tuple[Path, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="history-"))
        self.library, self.store = self.folder / "library", self.folder / "photos.store"
        self.library.mkdir()
        self.clock = itertools.count(1_700_000_000)
        self.config = self.folder / "a.yaml"
        text = {
            "store": "photos.store",
            "source": {"folder": "library", "max_removed": 1.0, "allow_empty": True},
            "backbone": {"name": "vgg16_compact"},
            "memory": {"budget": "8GiB"},
            "index": {"rebuild_fraction": 0.3},
        }
        self.config.write_text(yaml.safe_dump(text))

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def put(self, name: str, picture: int) -> None:
        path = self.library / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.PICTURES[picture], path)
        self.tick(path)

    def tick(self, path: Path) -> None:
        now = next(self.clock)
        os.utime(path, (now, now))

    def present(self) -> list[Path]:
        return sorted(path for path in self.library.rglob("*") if path.is_file())

    @initialize()
    def first_night(self) -> None:
        for place, name in enumerate(NAMES[:5]):
            self.put(name, place)
        self.night()

    @rule(name=st.sampled_from(NAMES), picture=st.integers(0, 9))
    def add_or_edit(self, name: str, picture: int) -> None:
        """Twelve places and ten pictures: some are the same bytes as others, and one is broken."""
        self.put(name, picture)

    @precondition(lambda self: self.present())
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def move(self, data: st.DataObject, name: str) -> None:
        path = data.draw(st.sampled_from(self.present()))
        target = self.library / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)

    @precondition(lambda self: self.present())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.present())).unlink()

    @precondition(lambda self: self.present())
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        self.tick(data.draw(st.sampled_from(self.present())))

    @rule(old=st.sampled_from(["a", "c"]), new=st.sampled_from(["d", "e"]))
    def move_folder(self, old: str, new: str) -> None:
        if (self.library / old).exists() and not (self.library / new).exists():
            (self.library / old).rename(self.library / new)

    @rule()
    def unmounted(self) -> None:
        before = features_by_key(self.store)
        self.library.rename(self.folder / "away")
        with pytest.raises(StreamerError, match="does not exist"):
            run(load_config(self.config))
        self.library.mkdir()
        with pytest.raises(StreamerError, match="holds no images") if before else _nothing():
            run(load_config(self.config, ["source.allow_empty=false"]))
        self.library.rmdir()
        (self.folder / "away").rename(self.library)
        assert features_by_key(self.store) == before

    @rule(files=st.integers(0, 4))
    def killed(self, files: int) -> None:
        """A run of its own that is killed when it has written so many files more."""
        features = self.store / "features"
        present = len(list(features.iterdir()))
        sets = ["--set", "run.commit_seconds=0.0001", "--set", "memory.budget=1GiB"]
        process = subprocess.Popen([sys.executable, "-m", "streamer", "run", str(self.config), "--quiet", *sets])
        wait_for_files(process, features, present + files)
        process.kill()
        process.wait()
        assert check(self.store).faults == []

    @rule()
    def compacted(self) -> None:
        before = features_by_key(self.store)
        compact(self.store)
        assert features_by_key(self.store) == before

    @rule()
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


class _nothing:  # noqa: N801 - stands where a context manager does
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


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
    assert len(pictures) == 10

    class Machine(History):
        PICTURES = pictures

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
