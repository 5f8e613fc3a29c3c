"""Night after night over a library that people add to, edit, move and delete from."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from streamer.config import Config
from streamer.errors import StoreWriteError, StreamerError
from streamer.images.drawn import draw_pictures
from streamer.pipeline import run
from streamer.report import Report
from streamer.searcher import Searcher
from streamer.store import Store
from tests.end_to_end.test_pipeline import features_by_key

Night = Callable[..., Report]


@pytest.fixture
def library(tmp_path: Path, pictures: Path) -> Path:
    """A library that a test may change."""
    return Path(shutil.copytree(pictures, tmp_path / "library"))


@pytest.fixture
def night(make_config: Callable[..., Config], library: Path) -> Night:
    """Run over the library, with further settings."""

    def run_(*overrides: str) -> Report:
        return run(make_config(library, "backbone={name: vgg16_compact}", *overrides))

    return run_


def ids_by_key(store: Path) -> dict[str, int]:
    with Store(store) as opened:
        numbers = [number for ids, _ in opened.blocks(opened.spec.indexed, 64) for number in ids.tolist()]
        return {entry.key: entry.id for entry in opened.entries(numbers).values()}


def counted(report: Report) -> dict[str, int]:
    return {name: count for name, count in report.images.items() if count}


def rows_written(store: Path) -> int:
    with Store(store) as opened:
        return sum(rows for _, rows, _ in opened.catalog.shards())


def test_a_moved_image_keeps_its_features_and_its_place_in_the_index(
    night: Night, library: Path, tmp_path: Path, no_engine: Callable[[], None]
) -> None:
    store = Path(night().store)
    before, ids = features_by_key(store), ids_by_key(store)
    (library / "albums").mkdir()
    folders = sorted(path for path in library.iterdir() if path.name != "albums")
    folders[0].rename(library / "albums" / "holiday")
    moved = {
        key: key.replace(folders[0].name, "albums/holiday", 1) for key in before if key.startswith(folders[0].name)
    }
    no_engine()  # features are not made again
    assert counted(night()) == {"seen": 40, "moved": 10, "unchanged": 30}
    assert features_by_key(store) == {moved.get(key, key): row for key, row in before.items()}
    assert ids_by_key(store) == {moved.get(key, key): number for key, number in ids.items()}
    with Store(store) as opened:
        (entry,) = opened.entries([ids[next(iter(moved))]]).values()
        assert entry.label == "holiday" and Path(entry.path).is_file()
    with h5py.File(store / "features.h5") as view:
        assert set(view["key"].asstr()[:]) == set(features_by_key(store))
    assert counted(night()) == {"seen": 40, "unchanged": 40}


def test_the_same_bytes_are_extracted_once(night: Night, library: Path) -> None:
    paths = sorted(library.rglob("*.jpg"))
    for number in range(3):
        shutil.copy(paths[0], library / f"copy{number}.jpg")
    report = night()
    store = Path(report.store)
    assert counted(report) == {"seen": 43, "added": 43}
    assert rows_written(store) == 40
    shutil.copy(paths[0], library / "z.jpg")
    assert counted(night()) == {"seen": 44, "added": 1, "unchanged": 43}
    assert rows_written(store) == 40
    found = features_by_key(store)
    original = paths[0].relative_to(library).as_posix()
    assert found["z.jpg"] == found["copy1.jpg"] == found[original]
    with Searcher(store) as searcher:
        hits = searcher.search([paths[0]], k=6)[0].hits
    copies = sorted([original, "copy0.jpg", "copy1.jpg", "copy2.jpg", "z.jpg"])
    assert [hit.key for hit in hits[:5]] == copies and hits[5].score < 1
    with h5py.File(store / "features.h5") as view:
        assert len(view["copies/key"]) == 4 and set(view["copies/key"].asstr()[:]) < set(copies)
    for path in (paths[0], library / "copy0.jpg"):
        path.unlink()
    assert counted(night()) == {"seen": 42, "removed": 2, "unchanged": 42}
    assert found["z.jpg"] == features_by_key(store)["z.jpg"]


def test_what_comes_back_is_not_extracted_again(
    night: Night, library: Path, no_engine: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Path(night().store)
    before = features_by_key(store)
    away = library.parent / "away"
    first = sorted(library.iterdir())[0]
    first.rename(away)
    assert counted(night()) == {"seen": 30, "removed": 10, "unchanged": 30}
    assert len(features_by_key(store)) == 30
    night("index.rebuild_fraction=0")  # an index without them
    away.rename(first)
    no_engine()
    assert counted(night()) == {"seen": 40, "added": 10, "unchanged": 30}
    assert features_by_key(store) == before
    monkeypatch.undo()
    with Searcher(store) as searcher:
        for path in sorted(first.iterdir()):
            hits = searcher.search([path])[0].hits
            assert (hits[0].key, round(hits[0].score, 6)) == (path.relative_to(library).as_posix(), 1.0)


def test_images_that_change_places(night: Night, library: Path) -> None:
    """Two files swapped, one written over another, one touched: told by their content, whatever their dates say."""
    store = Path(night().store)
    before = features_by_key(store)
    a, b, c, d, e = sorted(library.rglob("*.jpg"))[:5]
    key = {path: path.relative_to(library).as_posix() for path in (a, b, c, d, e)}
    a.rename(library / "swap")
    b.rename(a)
    (library / "swap").rename(b)
    c.replace(d)
    for path in (a, b, e):
        os.utime(path)
    assert counted(night()) == {"seen": 39, "updated": 3, "removed": 1, "unchanged": 36}
    expected = {**before, key[a]: before[key[b]], key[b]: before[key[a]], key[d]: before[key[c]]}
    del expected[key[c]]
    assert features_by_key(store) == expected
    assert rows_written(store) == 40


def test_a_run_refuses_to_drop_a_large_part_of_the_library(night: Night, library: Path) -> None:
    store = Path(night().store)
    before = features_by_key(store)
    paths = sorted(library.rglob("*.jpg"))
    for path in paths[:13]:
        path.unlink()
    with pytest.raises(StreamerError, match=r"13 of the 40 images.*30%.*source\.max_removed=1") as refused:
        night()
    assert refused.value.exit_code == 1
    assert features_by_key(store) == before
    assert counted(night("source.max_removed='33 %'")) == {"seen": 27, "removed": 13, "unchanged": 27}


def test_an_empty_source_drops_nothing(night: Night, library: Path) -> None:
    """A disk that is not mounted is an empty folder, or none at all."""
    store = Path(night().store)
    before = features_by_key(store)
    away = library.rename(library.parent / "unmounted")
    with pytest.raises(StreamerError, match="does not exist"):
        night("source.max_removed=1", "source.allow_empty=true")
    library.mkdir()
    with pytest.raises(StreamerError, match=r"holds no images at all.*source\.allow_empty=true"):
        night("source.max_removed=1")
    assert features_by_key(store) == before
    library.rmdir()
    away.rename(library)
    assert counted(night()) == {"seen": 40, "unchanged": 40}
    shutil.rmtree(library)
    library.mkdir()
    assert counted(night("source.allow_empty=true")) == {"removed": 40}
    assert features_by_key(store) == {}


def test_newer_images_are_found_beside_the_index_until_it_is_worth_a_new_one(
    night: Night, library: Path, tmp_path: Path
) -> None:
    assert night().generation == 1
    store = tmp_path / "photos.store"
    draw_pictures(tmp_path / "more", classes=1, per_class=9, side=64, seed=77)
    fresh = sorted((tmp_path / "more").rglob("*.jpg"))
    for number, path in enumerate(fresh[:4]):
        shutil.copy(path, library / f"new{number}.jpg")
    assert night().generation == 1
    with Searcher(store) as searcher:
        assert searcher.generation is not None and searcher.generation.manifest.rows == 40
        answers = searcher.search(fresh[:4], k=44)
        exact = searcher.search(fresh[:4], k=44, exact=True)
        assert [result.hits[0].key for result in answers] == [f"new{number}.jpg" for number in range(4)]
        assert [result.hits for result in answers] == [result.hits for result in exact]
        shutil.copy(fresh[4], library / "new4.jpg")
        assert night().generation == 2  # five in forty are more than a tenth
        assert searcher.search([fresh[4]], k=1)[0].hits[0].key == "new4.jpg"  # by the old generation, still open


def test_what_moved_can_be_found_however_the_run_ends(
    night: Night, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stops early must not have dropped what it has not looked for yet."""
    store = Path(night().store)
    before = features_by_key(store)
    ids = set(ids_by_key(store).values())
    for folder in sorted(library.iterdir())[:3]:
        folder.rename(folder.with_name(f"z{folder.name}"))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0})())
        shutil.copy(next(library.rglob("*.jpg")), library / "copy.jpg")
        with pytest.raises(StoreWriteError):
            night()
    assert features_by_key(store) == before
    assert ids_by_key(store).keys() == before.keys()
    monkeypatch.setattr(sys.modules["streamer.images.batches"], "_MOST_OTHERS", 4)
    report = night("run.max_minutes=0.0001")
    assert report.remaining > 0 and len(features_by_key(store)) >= 40
    report = night()
    assert report.remaining == 0 and ids <= set(ids_by_key(store).values())
    after = features_by_key(store)
    assert len(after) == 41 and set(after.values()) == set(before.values())
    assert report.images["removed"] == 0


def test_a_photo_that_broke_as_the_library_moved_is_not_found_under_its_old_path(
    make_config: Callable[..., Config], library: Path
) -> None:
    network = "backbone={name: vgg16_compact}"
    config = make_config(library, network)
    run(config)
    other = library.rename(library.parent / "other")
    broken = sorted(other.rglob("*.jpg"))[0]
    broken.write_bytes(b"no picture")
    report = run(make_config(other, network))
    assert counted(report) == {"seen": 40, "unchanged": 39, "failed": 1}
    assert len(features_by_key(config.store)) == 39


def test_a_search_that_stays_open_takes_up_new_generations(night: Night, library: Path, tmp_path: Path) -> None:
    night()
    with Searcher(tmp_path / "photos.store") as searcher:
        path = sorted(library.rglob("*.jpg"))[0]
        searcher.search([path])
        for number in range(2, 5):
            shutil.copy(path, library / f"copy{number}.jpg")
            night("index.rebuild_fraction=0")
            hits = searcher.search([path], k=number)[0].hits
            assert searcher.generation is not None and searcher.generation.number == number
            assert f"copy{number}.jpg" in {hit.key for hit in hits}
