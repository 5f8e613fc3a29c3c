"""The whole way through, with a real network: from a folder of pictures to hits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer.backbones.fetch import imagenet_path
from streamer.config import Config
from streamer.errors import (
    BudgetTooSmallError,
    ConfigError,
    FingerprintMismatchError,
    IndexMissingError,
    Interrupted,
    StreamerError,
    WeightsError,
)
from streamer.images import opened
from streamer.images.drawn import draw_pictures
from streamer.index import current_generation
from streamer.pipeline import run
from streamer.searcher import Searcher
from streamer.store import Store
from tests.images.hostile import write_hostile_files

Make = Callable[..., Config]


def features_by_key(path: Path) -> dict[str, bytes]:
    """Key -> the bytes of its features."""
    with Store(path) as store:
        return {
            entry.key: store.rows(store.spec.indexed, np.array([entry.shard]), np.array([entry.row])).tobytes()
            for ids, _ in store.blocks(store.spec.indexed, 64)
            for entry in store.entries(ids.tolist()).values()
        }


@pytest.fixture
def library(pictures: Path, tmp_path: Path) -> Path:
    """A copy of the drawn pictures that a test may change."""
    return Path(shutil.copytree(pictures, tmp_path / "library"))


def test_every_picture_finds_itself_first(make_config: Make, pictures: Path) -> None:
    config = make_config(pictures)
    report = run(config)
    assert report.images == {
        "seen": 40, "added": 40, "updated": 0, "moved": 0, "removed": 0, "unchanged": 0, "failed": 0,
    }  # fmt: skip
    assert (report.exit_code, report.generation) == (0, 1)
    assert report.peak_rss_bytes > 0 and report.seconds["total"] >= report.seconds["extract"] > 0
    paths = sorted(pictures.rglob("*.jpg"))
    with Searcher(config.store) as searcher:
        for path, result in zip(paths, searcher.search(paths, k=3), strict=True):
            first = result.hits[0]
            assert (first.key, first.rank, len(result.hits)) == (path.relative_to(pictures).as_posix(), 1, 3)
            assert first.score >= 0.999
            assert first.label == path.parent.name
            assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)
        found = searcher.search(paths, k=10)
        exact = searcher.search(paths, k=10, exact=True)
    assert [result.hits for result in found] == [result.hits for result in exact]


def test_a_second_run_extracts_nothing_and_keeps_the_generation(
    make_config: Make, library: Path, no_engine: Callable[[], None]
) -> None:
    config = make_config(library)
    run(config)
    before = features_by_key(config.store)
    no_engine()
    report = run(config)
    assert (report.images["unchanged"], report.images["added"], report.generation) == (40, 0, 1)
    assert features_by_key(config.store) == before
    assert len(list((config.store / "reports").iterdir())) == 2


def test_new_changed_and_vanished_files(make_config: Make, library: Path) -> None:
    config = make_config(library)
    run(config)
    before = features_by_key(config.store)
    paths = sorted(library.rglob("*.jpg"))
    gone, changed = paths[0], paths[7]
    query = library.parent / "query.jpg"
    gone.rename(query)
    draw_pictures(library.parent / "more", classes=1, per_class=3, side=64, seed=99)
    fresh = sorted((library.parent / "more").rglob("*.jpg"))
    shutil.copy(fresh[0], changed)
    shutil.copy(fresh[1], library / "new.jpg")
    report = run(config)
    assert {name: count for name, count in report.images.items() if count} == {
        "seen": 40, "added": 1, "updated": 1, "removed": 1, "unchanged": 38,
    }  # fmt: skip
    assert report.generation == 1  # three images in forty are searched beside the index
    after = features_by_key(config.store)
    changed_key, gone_key = (path.relative_to(library).as_posix() for path in (changed, gone))
    assert set(after) == set(before) - {gone_key} | {"new.jpg"}
    assert {key for key in before.keys() & after.keys() if before[key] != after[key]} == {changed_key}
    with Searcher(config.store) as searcher:
        result, other = searcher.search([query, fresh[0]], k=40)
    assert gone_key not in {hit.key for hit in result.hits} and len(result.hits) == 40
    assert (other.hits[0].key, other.hits[0].score) == (changed_key, 1.0)
    with h5py.File(config.store / "features.h5", "r") as view:
        live = dict(
            zip(
                view["key"].asstr()[:][view["live"][:]],
                view["features/block5_pool:gem"][:][view["live"][:]],
                strict=True,
            )
        )
    assert {key: row.tobytes() for key, row in live.items()} == after


def test_vanished_files_are_not_found_even_before_the_index_is_made_anew(make_config: Make, library: Path) -> None:
    config = make_config(library)
    run(config)
    query, *_ = sorted(library.rglob("*.jpg"))
    query = query.rename(library.parent / "query.jpg")
    run(config, ["extract"])
    with Searcher(config.store) as searcher:
        (result,) = searcher.search([query], k=40)
    assert searcher.generation is not None and searcher.generation.manifest.rows == 40
    assert len(result.hits) == 39 and query.stem not in {Path(hit.key).stem for hit in result.hits}


def test_one_stage_at_a_time_equals_a_run(make_config: Make, pictures: Path, tmp_path: Path) -> None:
    whole = make_config(pictures)
    run(whole)
    staged = make_config(pictures, f"store={tmp_path / 'staged.store'}")
    for stage in ("extract", "reduce", "index"):
        run(staged, [stage])
    assert features_by_key(whole.store) == features_by_key(staged.store)
    for name in ("annoy.ann", "vectors.npy", "images.npy", "reducer.npz"):
        ours, theirs = (config.store / "index" / "000001" / name for config in (whole, staged))
        assert ours.exists() == theirs.exists()
        if ours.exists():
            assert ours.read_bytes() == theirs.read_bytes()


def test_index_alone_takes_over_the_published_pca(make_config: Make, pictures: Path) -> None:
    run(make_config(pictures))
    config = make_config(pictures, "index.seed=5")
    report = run(config, ["index"])
    assert report.generation == 2
    generation = current_generation(config.store / "index")
    assert generation is not None and generation.manifest.seed == 5
    before = config.store / "index" / "000001"
    assert (generation.path / "reducer.npz").read_bytes() == (before / "reducer.npz").read_bytes()


def test_index_alone_refuses_a_pca_of_other_settings(make_config: Make, pictures: Path) -> None:
    run(make_config(pictures))
    with pytest.raises(IndexMissingError, match=r"fitted for 256 components .* asks for 8"):
        run(make_config(pictures, "reduce.components=8"), ["index"])
    run(make_config(pictures, "reduce.components=8"), ["reduce"])
    assert run(make_config(pictures, "reduce.components=8"), ["index"]).generation == 2


def test_other_settings_of_the_index_rebuild_it_without_extraction(
    make_config: Make, pictures: Path, no_engine: Callable[[], None]
) -> None:
    run(make_config(pictures))
    no_engine()
    for number, override in enumerate(("reduce.components=8", "index.trees=3", "reduce.whiten=true"), start=2):
        assert run(make_config(pictures, override)).generation == number


def test_exact_kind_needs_no_annoy_and_no_pca(make_config: Make, pictures: Path) -> None:
    config = make_config(pictures, "index.kind=exact")
    run(config)
    assert sorted(path.name for path in (config.store / "index" / "000001").iterdir()) == ["manifest.json"]
    with Searcher(config.store) as searcher:
        (result,) = searcher.search([next(pictures.rglob("*.jpg"))])
    assert result.hits[0].score == 1.0 and len(result.hits) == 10


def test_a_store_keeps_the_backbone_that_was_chosen_for_it(
    make_config: Make, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights that came to the machine since must not turn a library away from its store."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    config = make_config(pictures, "backbone={}")
    run(config)
    assert "streamer weights fetch vgg16" in caplog.text
    with Store(config.store) as store:
        assert (store.spec.backbone, store.spec.weights) == ("vgg16_compact", "bundled")
    weights = imagenet_path("vgg16", top=False)
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert run(config).images["unchanged"] == len(list(pictures.rglob("*.jpg")))
    shutil.rmtree(config.store)
    with pytest.raises(WeightsError, match=r"vgg16.*\.h5"):
        run(config)


def test_hostile_files_do_no_harm_and_are_named(
    make_config: Make, library: Path, no_engine: Callable[[], None]
) -> None:
    config = make_config(library, "images.max_file=64MiB")
    run(config)
    good = features_by_key(config.store)
    expected = write_hostile_files(library / "hostile")
    shutil.rmtree(config.store)
    report = run(config)
    bad = {name: reason for name, reason in expected.items() if reason is not None}
    fine = {name for name, reason in expected.items() if reason is None}
    assert len(bad) >= 15
    assert (report.images["failed"], report.exit_code) == (len(bad), 3)
    with Store(config.store) as store:
        found = {each.key.removeprefix("hostile/"): each.reason for each in store.failures()}
    assert set(found) == set(bad)
    for name, reason in bad.items():
        assert reason in found[name], name
    after = features_by_key(config.store)
    assert {key: after[key] for key in good} == good
    assert {key.removeprefix("hostile/") for key in set(after) - set(good)} == fine
    # Tried again only when they change:
    no_engine()
    again = run(config)
    assert (again.images["failed"], again.images["unchanged"], again.exit_code) == (len(bad), len(after), 3)


def test_a_run_that_is_stopped_goes_on_where_it_was(make_config: Make, pictures: Path, tmp_path: Path) -> None:
    whole = make_config(pictures)
    run(whole)
    config = make_config(pictures, f"store={tmp_path / 'stopped.store'}", "run.commit_seconds=0.001")
    asked = iter([False, True])
    with pytest.raises(Interrupted, match="stopped after") as stopped:
        run(config, should_stop=lambda: next(asked, True))
    assert stopped.value.exit_code == 130
    with Store(config.store) as store:
        done = len(store)
        last = store.catalog.last_run()
    assert 0 < done < 40
    assert last is not None and last.exit_code == 130
    report = run(config)
    assert (report.images["added"], report.images["unchanged"]) == (40 - done, done)
    assert features_by_key(config.store) == features_by_key(whole.store)


def test_several_outputs_in_one_pass(make_config: Make, pictures: Path) -> None:
    outputs = "[{layer: block5_pool, pooling: avg}, {layer: block5_pool}, {layer: block4_conv2, pooling: max}]"
    config = make_config(pictures, f"backbone.outputs={outputs}")
    run(config)
    with Store(config.store) as store:
        assert store.spec.outputs == {"block5_pool:avg": (512,), "block5_pool": (1, 1, 512), "block4_conv2:max": (512,)}
        pooled = np.concatenate([rows for _, rows in store.blocks("block5_pool:avg", 7)])
        maps = np.concatenate([rows for _, rows in store.blocks("block5_pool", 7)])
    np.testing.assert_allclose(pooled, maps, rtol=1e-6)  # a map of one place is its own mean


def test_other_features_are_not_mixed_in(make_config: Make, pictures: Path) -> None:
    run(make_config(pictures))
    with pytest.raises(FingerprintMismatchError, match="outputs is"):
        run(make_config(pictures, "backbone.outputs=[{layer: block4_pool, pooling: avg}]"))
    with pytest.raises(FingerprintMismatchError, match="weights_sha256 is"):
        run(make_config(pictures, "backbone.seed=1"))


def test_outputs_in_another_order_are_other_features(make_config: Make, pictures: Path) -> None:
    """The first output is the one indexed; two dicts compare equal in any order, fingerprints do not."""
    outputs = ["{layer: block5_pool, pooling: avg}", "{layer: block4_pool, pooling: avg}"]
    run(make_config(pictures, f"backbone.outputs=[{', '.join(outputs)}]"), ["extract"])
    with pytest.raises(FingerprintMismatchError, match="outputs is"):
        run(make_config(pictures, f"backbone.outputs=[{', '.join(reversed(outputs))}]"), ["extract"])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_file_without_permission_is_tried_again(make_config: Make, library: Path) -> None:
    check_tried_again(make_config, library, lambda path: path.chmod(0), lambda path: path.chmod(0o644))


def test_a_file_that_was_away_is_tried_again(make_config: Make, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hiccups in the night must neither drop a photo nor have it passed over for good."""

    def fail(path: Path) -> None:
        really_open = os.open

        def open_(name: str, *rest: int) -> int:
            if name == str(path):
                raise OSError(5, "Input/output error")
            return really_open(name, *rest)

        monkeypatch.setattr(opened.os, "open", open_)

    check_tried_again(make_config, library, fail, lambda path: monkeypatch.undo())


def check_tried_again(
    make_config: Make, library: Path, fail: Callable[[Path], None], mend: Callable[[Path], None]
) -> None:
    config = make_config(library)
    run(config)
    before = features_by_key(config.store)
    path = sorted(library.rglob("*.jpg"))[3]
    os.utime(path)  # it changed, as far as one can see
    fail(path)
    report = run(config)
    assert (report.images["failed"], report.exit_code) == (1, 3)
    assert features_by_key(config.store) == before  # what was known of it is still found
    mend(path)
    report = run(config)
    assert (report.images["failed"], report.images["unchanged"]) == (0, 40)  # its bytes are what they were
    assert features_by_key(config.store) == before


@pytest.mark.parametrize("damage", ["CURRENT", "manifest", "gone"])
def test_a_damaged_index_is_made_anew(make_config: Make, pictures: Path, damage: str) -> None:
    config = make_config(pictures)
    run(config)
    index = config.store / "index"
    if damage == "CURRENT":
        (index / "CURRENT").write_bytes(b"\x00\x00")
    elif damage == "manifest":
        (index / "000001" / "manifest.json").write_text('{"of": "another release"}')
    else:
        shutil.rmtree(index / "000001")
    report = run(config)
    assert report.generation >= 1 and report.images["unchanged"] == 40
    with Searcher(config.store) as searcher:
        (result,) = searcher.search([next(pictures.rglob("*.jpg"))])
    assert result.hits[0].score == 1.0


def test_a_query_in_other_features_is_refused(
    make_config: Make, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another way of decoding, or a weights file that was replaced, would rank noise without a word."""
    config = make_config(pictures)
    run(config)
    monkeypatch.setattr("streamer.images.pixels.DECODE_RECIPE", "another")
    with Searcher(config.store) as searcher, pytest.raises(FingerprintMismatchError, match="decoding is another here"):
        searcher.search([next(pictures.rglob("*.jpg"))])


def test_what_cannot_be_done_is_refused_before_anything_is_made(make_config: Make, pictures: Path) -> None:
    config = make_config(pictures, "memory.budget=16MiB")
    with pytest.raises(BudgetTooSmallError, match=r"set memory\.budget=\d+MiB"):
        run(config)
    with pytest.raises(ConfigError, match="no layer 'block9_pool'"):
        run(make_config(pictures, "backbone.outputs=[{layer: block9_pool}]"))
    assert not config.store.exists()


def test_a_missing_source_changes_nothing(make_config: Make, library: Path) -> None:
    """An unmounted disk must not empty the index."""
    config = make_config(library)
    run(config)
    library.rename(library.parent / "away")
    with pytest.raises(StreamerError, match="library"):
        run(config)
    library.mkdir()
    with pytest.raises(StreamerError, match="Is the disk mounted"):
        run(config)
    with Store(config.store) as store:
        assert len(store) == 40


def test_a_store_inside_its_source_is_not_indexed(make_config: Make, library: Path) -> None:
    config = make_config(library, f"store={library / 'photos.store'}")
    (library / "photos.store").mkdir()
    run(config)
    shutil.copy(next(library.rglob("*.jpg")), config.store / "reports" / "thumb.jpg")
    assert run(config).images["unchanged"] == 40
    with pytest.raises(ConfigError, match="the source folder itself"):
        run(make_config(library, f"store={library}"))


def test_an_empty_folder_makes_an_empty_store(make_config: Make, tmp_path: Path, no_engine: Callable[[], None]) -> None:
    (tmp_path / "empty").mkdir()
    no_engine()
    config = make_config(tmp_path / "empty")
    report = run(config)
    assert (report.images["seen"], report.generation, report.exit_code) == (0, 0, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_the_smallest_libraries(make_config: Make, library: Path, count: int) -> None:
    for path in sorted(library.rglob("*.jpg"))[count:]:
        path.unlink()
    config = make_config(library)
    run(config)
    with Searcher(config.store) as searcher:
        (result,) = searcher.search([next(library.rglob("*.jpg"))])
    assert len(result.hits) == count and result.hits[0].score == 1.0


def test_reports_are_kept(make_config: Make, pictures: Path) -> None:
    config = make_config(pictures)
    report = run(config)
    (kept,) = (config.store / "reports").iterdir()
    data = json.loads(kept.read_text())
    assert data == report.to_dict()
    assert list(data) == [
        "images", "seconds", "images_per_second", "peak_rss_bytes", "memory_budget_bytes",
        "engine", "device", "store", "generation", "remaining",
    ]  # fmt: skip
