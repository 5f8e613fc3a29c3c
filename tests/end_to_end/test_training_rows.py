"""Whole runs that store rows to train on: compressed, rounded, augmented."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamer.config import Config
from streamer.images.drawn import draw_pictures
from streamer.pipeline import run
from streamer.searcher import Searcher
from streamer.store import Store
from streamer.upkeep import check, compact
from tests.end_to_end.test_crash import wait_for_files
from tests.end_to_end.test_pipeline import features_by_key

Make = Callable[..., Config]
AUGMENT = ("augment.copies=3", "storage.compression=gzip", "backbone.outputs=[{layer: block5_conv3}]")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 pictures. Do not write to it."""
    folder = tmp_path_factory.mktemp("few")
    draw_pictures(folder, classes=3, per_class=3, side=64, seed=4)
    return folder


def copies_of(path: Path) -> dict[tuple[bytes, int], bytes]:
    """Features of each live augmented row, by content and copy."""
    with Store(path) as store:
        return {
            (content, copy): store.rows(store.spec.indexed, np.array([shard]), np.array([row])).tobytes()
            for content, copy, shard, row in store.augmented_places()
        }


def test_augmented_rows_are_there_and_the_photos_own_are_what_they_were(
    make_config: Make, few: Path, tmp_path: Path
) -> None:
    plain = make_config(few, f"store={tmp_path / 'plain.store'}", AUGMENT[2])
    run(plain, ["extract"])
    augmented = make_config(few, *AUGMENT)
    report = run(augmented)
    assert (report.images["added"], report.images["failed"]) == (9, 0)
    assert features_by_key(augmented.store) == features_by_key(plain.store)
    copies = copies_of(augmented.store)
    with Store(augmented.store) as store:
        assert store.info()["augmented"] == len(copies) == 3 * 9
        contents = {content for *_, content in store.catalog.known()}
    assert set(copies) == {(content, copy) for content in contents for copy in (1, 2, 3)}
    assert len(set(copies.values()) | set(features_by_key(augmented.store).values())) == 4 * 9
    with Searcher(augmented.store) as searcher:  # which sees the photos themselves only
        (found,) = searcher.search([sorted(few.rglob("*.jpg"))[4]], k=9)
    assert found.hits[0].score == 1 and len({hit.key for hit in found.hits}) == 9


def test_copies_do_not_hang_on_threads_or_batches_or_order(make_config: Make, few: Path, tmp_path: Path) -> None:
    stores = []
    for number, threads in enumerate((1, 3)):
        config = make_config(few, *AUGMENT, f"store={tmp_path / f'{number}.store'}", f"run.threads={threads}")
        run(config, ["extract"])
        stores.append(copies_of(config.store))
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(few.rglob("*.jpg"), reverse=True)):
        (renamed / f"{number:03d}.jpg").write_bytes(path.read_bytes())
    config = make_config(renamed, *AUGMENT, f"store={tmp_path / 'renamed.store'}")
    run(config, ["extract"])
    stores.append(copies_of(config.store))
    assert stores[0] == stores[1] and stores[0].keys() == stores[2].keys()
    for key, row in stores[0].items():  # at another place in a batch an engine may round otherwise
        expected = np.frombuffer(row, np.float32)
        np.testing.assert_allclose(np.frombuffer(stores[2][key], np.float32), expected, rtol=1e-4, atol=1e-5)


def test_a_killed_run_goes_on_to_the_same_rows(make_config: Make, few: Path, tmp_path: Path) -> None:
    augment = ("augment.copies=7", *AUGMENT[1:])
    whole = make_config(few, *augment)
    run(whole, ["extract"])
    store = tmp_path / "killed.store"
    overrides = (*augment, f"store={store}", "run.commit_seconds=0.001")
    sets = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "streamer", "extract", str(tmp_path / "config.yaml"), "--quiet", *sets]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_files(process, store / "features", 1)
    finally:
        process.kill()
        process.wait()
    before = features_by_key(store)
    with Store(store) as opened:
        assert opened.info()["augmented"] == 7 * len(before)  # a photo that is there has all its copies
    report = run(make_config(few, *overrides), ["extract"])
    assert report.images["added"] == 9 - len(before) > 0
    assert features_by_key(store) == features_by_key(whole.store)
    assert copies_of(store) == copies_of(whole.store)
    compact(store)
    with Store(store) as opened:
        assert sum(rows for _, rows, _ in opened.catalog.shards()) == 8 * 9
    assert copies_of(store) == copies_of(whole.store) and check(store).faults == []


def test_float16_is_searched_and_extracted_on(make_config: Make, few: Path, tmp_path: Path) -> None:
    config = make_config(few, "storage.dtype=float16", "storage.compression=lzf")
    run(config)
    exact = make_config(few, f"store={tmp_path / 'exact.store'}")
    run(exact)
    for key, row in features_by_key(exact.store).items():
        rounded = np.frombuffer(row, np.float32).astype(np.float16).astype(np.float32)
        assert features_by_key(config.store)[key] == rounded.tobytes()
    with Searcher(config.store) as searcher:
        (found,) = searcher.search([sorted(few.rglob("*.jpg"))[0]], k=3)
    assert found.hits[0].score == pytest.approx(1, abs=1e-6)
    assert run(make_config(few, "storage.dtype=float16"), ["extract"]).images["unchanged"] == 9  # and no longer lzf
