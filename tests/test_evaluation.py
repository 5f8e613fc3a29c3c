"""The measures against naive ones, and the command on stores whose answers are known."""

from __future__ import annotations

import colorsys
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamer.cli import main
from streamer.config import Config
from streamer.errors import IndexMissingError, StreamerError
from streamer.evaluation import Evaluation, evaluate, expected_by_chance, precision
from streamer.images.drawn import draw_pictures
from streamer.images.histogram import hsv, hsv_histogram
from streamer.pipeline import run
from streamer.searcher import Searcher
from streamer.store import CatalogWriter, Store
from tests.conftest import publish_index, write_features

Make = Callable[..., Config]


def test_precision_by_its_definition() -> None:
    relevant = np.array([1, 0, 1, 1, 0, 0, 1], dtype=bool)
    assert precision(relevant) == pytest.approx((1.0, 3 / 5, np.mean([1 / 1, 2 / 3, 3 / 4, 4 / 7])))
    assert precision(np.array([0, 0, 1], dtype=bool)) == pytest.approx((0.0, 1 / 5, 1 / 3))


def test_what_chance_gives_is_what_random_orders_give() -> None:
    random = np.random.default_rng(0)
    sizes, others = np.array([1, 3, 12]), 40
    measured = [
        np.mean([precision(random.permutation(np.arange(others) < size)) for _ in range(4000)], axis=0)
        for size in sizes
    ]
    expected = expected_by_chance(sizes, others)
    np.testing.assert_allclose(np.mean(measured, axis=0), [expected.p_at_1, expected.p_at_5, expected.map], atol=0.01)


def test_hsv_is_the_standard_library_s() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    pixels[:4] = [[0, 0, 0], [255, 255, 255], [7, 7, 7], [255, 0, 0]]
    expected = [colorsys.rgb_to_hsv(*(pixel / 255)) for pixel in pixels]
    np.testing.assert_allclose(hsv(pixels), expected, atol=1e-6)


def test_histograms_of_one_colour_meet_only_that_colour() -> None:
    red, blue = (np.full((8, 8, 3), colour, np.uint8) for colour in ((250, 5, 5), (5, 5, 250)))
    assert hsv_histogram(red).shape == (128,) and hsv_histogram(red) @ hsv_histogram(blue) == 0
    half = np.concatenate([red, blue])
    assert hsv_histogram(half) @ hsv_histogram(red) == pytest.approx(np.sqrt(0.5))


def naive(store: Path, exclude: tuple[str, ...] = (), metric: str = "cosine") -> np.ndarray:
    """P@1, P@5 and mAP, photo by photo."""
    with Store(store) as opened:
        ids, rows = (np.concatenate(each) for each in zip(*opened.blocks(opened.spec.indexed, 7), strict=True))
        entries = opened.entries(ids.tolist())
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    photos = [(entries[number].label, row) for number, row in zip(ids, rows, strict=True)]
    photos = [each for each in photos if each[0] and each[0] not in exclude]
    found = []
    for place, (label, row) in enumerate(photos):  # of unit vectors, the order by distance is that by angle
        others = [
            (float(np.linalg.norm(row - other)), other_label)
            for at, (other_label, other) in enumerate(photos)
            if at != place
        ]
        relevant = np.array([other == label for _, other in sorted(others, key=lambda each: each[0])])
        if relevant.any():
            ranks = [rank for rank, right in enumerate(relevant, start=1) if right]
            average = np.mean([relevant[:rank].mean() for rank in ranks])
            found.append((relevant[0], relevant[:5].mean(), average))
    return np.mean(found, axis=0)


def measured(config: Config, **options: object) -> Evaluation:
    with Searcher(config.store) as searcher:
        return evaluate(searcher, **options)  # type: ignore[arg-type]


@pytest.fixture
def drawn(make_config: Make, tmp_path: Path) -> Config:
    draw_pictures(tmp_path / "pictures", classes=4, per_class=8, side=64, seed=5)
    return make_config(tmp_path / "pictures")


def test_figures_are_the_naive_ones(drawn: Config) -> None:
    run(drawn)
    found = measured(drawn)
    assert found.exact is not None and (found.queries, found.notes) == (32, [])
    figures = [found.exact.p_at_1, found.exact.p_at_5, found.exact.map]
    np.testing.assert_allclose(figures, naive(drawn.store), atol=1e-6)
    # 200 candidates of 32 photos are all of them: the index answers as exact search does.
    assert found.recall_at_k == 1.0
    np.testing.assert_allclose([found.p_at_1, found.p_at_5], figures[:2], atol=1e-6)
    assert found.baselines["random"].p_at_1 == pytest.approx(7 / 31)
    assert 0 < found.baselines["colour_histogram"].map < 1
    assert len(found.best) == len(found.worst) == 4
    assert found.best[0].average_precision >= found.worst[0].average_precision
    assert all(each.query not in [hit.path for hit in each.hits] for each in found.best)


def test_a_store_that_is_searched_by_distance_is_judged_by_distance(tmp_path: Path) -> None:
    """Answers by distance were held against cosines: exact search seemed to miss most of the nearest."""
    random = np.random.default_rng(0)
    rows = (random.normal(size=(90, 16)) * random.uniform(1, 100, (90, 1))).astype(np.float32)
    rows[7] = rows[8]
    write_features(tmp_path / "a.store", rows)
    with contextlib.closing(CatalogWriter(tmp_path / "a.store" / "catalog.sqlite")) as catalog:
        catalog.set_settings({"search": {"metric": "l2"}})
    publish_index(tmp_path / "a.store", "exact")
    with Searcher(tmp_path / "a.store") as searcher:
        found = evaluate(searcher, baselines=False)
        answer = searcher.nearest
        searcher.nearest = lambda queries, k: [hits[:4] for hits in answer(queries, k)]  # type: ignore[assignment]
        assert evaluate(searcher, baselines=False).recall_at_k == pytest.approx(0.3)
    assert found.recall_at_k == 1.0 and found.exact is not None
    figures = [found.exact.p_at_1, found.exact.p_at_5, found.exact.map]
    np.testing.assert_allclose(figures, naive(tmp_path / "a.store", metric="l2"), atol=1e-6)
    np.testing.assert_allclose([found.p_at_1, found.p_at_5], figures[:2], atol=1e-6)


def test_few_candidates_cost_recall_and_that_is_seen(drawn: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    run(drawn)
    with Searcher(drawn.store) as searcher:
        right = searcher.nearest
        monkeypatch.setattr(searcher, "nearest", lambda queries, k: [hits[:1] for hits in right(queries, k)])
        found = evaluate(searcher, baselines=False)
    assert found.recall_at_k < 0.2 and found.p_at_1 == 0.0
    assert found.exact is not None and found.exact.p_at_1 > 0


def test_excluded_single_and_missing_labels(drawn: Config, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    names = sorted(path.name for path in folder.iterdir())
    draw_pictures(tmp_path / "more", classes=1, per_class=3, side=64, seed=6)
    extra = sorted((tmp_path / "more").rglob("*.jpg"))
    (folder / "alone").mkdir()
    extra[0].rename(folder / "alone" / "one.jpg")
    extra[1].rename(folder / "no_label_1.jpg")
    extra[2].rename(folder / "no_label_2.jpg")
    run(drawn)
    for gone in sorted((folder / names[1]).iterdir())[:2]:
        gone.unlink()
    found = measured(drawn, exclude=(names[0],))
    assert found.exact is not None and found.queries == 24
    assert [note.split()[0] for note in found.notes] == ["8", "2", "1", "2"]
    np.testing.assert_allclose(
        [found.exact.p_at_1, found.exact.p_at_5, found.exact.map], naive(drawn.store, (names[0],)), atol=1e-6
    )
    np.testing.assert_allclose([found.p_at_1, found.p_at_5], naive(drawn.store, (names[0],))[:2], atol=1e-6)
    assert "colour_histogram" in found.baselines
    with pytest.raises(StreamerError, match="no photo has the label 'clutter'"):
        measured(drawn, exclude=(names[0], "clutter"))


def test_a_sample_is_drawn_once_and_for_all(drawn: Config) -> None:
    run(drawn)
    first, second = (measured(drawn, queries=5, baselines=False) for _ in range(2))
    assert first.queries == 5 and first.exact == second.exact
    assert list(first.baselines) == ["random"]


def test_without_labels_recall_is_all_there_is(make_config: Make, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "pictures", classes=1, per_class=5, side=64, seed=5)
    config = make_config(tmp_path / "pictures")
    run(config)
    found = measured(config)
    assert (found.queries, found.recall_at_k, found.exact, found.p_at_1, found.best) == (5, 1.0, None, None, [])
    assert "nothing to measure but recall" in found.notes[0]
    assert found.to_dict()["map"] is None


def test_what_cannot_be_measured_says_why(drawn: Config) -> None:
    run(drawn, ("extract",))
    with pytest.raises(IndexMissingError, match="streamer index"):
        measured(drawn)


def test_the_command(drawn: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(drawn)

    def command(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", str(drawn.store), *arguments])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    sheet = tmp_path / "sheet.png"
    table = command("--sheet", str(sheet))
    assert "32 photos asked for: recall@10 1.000" in table and "colour histogram" in table
    assert sheet.read_bytes().startswith(b"\x89PNG")
    data = json.loads(command("--json", "-k", "5"))
    assert set(data) == {
        *("queries", "recall_at_5", "queries_per_second", "p_at_1", "p_at_5", "map", "exact", "baselines", "notes")
    }
    assert set(data["baselines"]) == {"random", "colour_histogram"}
