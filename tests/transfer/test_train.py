"""Heads trained on stores, against scikit-learn in memory; and what makes training impossible."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from streamer.errors import (
    BudgetTooSmallError,
    ConfigError,
    FingerprintMismatchError,
    Interrupted,
    StoreCorruptError,
    StreamerError,
)
from streamer.images import Labels
from streamer.store import CatalogWriter, FeatureSpec, Store, StoreWriter
from streamer.transfer import Head, Predictor, TrainingReport, predict_stored, train, write_report
from streamer.transfer.experiment import _plan
from streamer.transfer.plan import TrainPlan
from tests.conftest import delete, feature_batch, spec, write_features
from tests.images.sources.test_stl10 import images, write
from tests.transfer.conftest import CLASSES, rows_of


def trained(path: Path, **options: object) -> TrainingReport:
    with Store(path) as store:
        return train(store, **{"epochs": 4, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingReport]:
    """A store like `path`, and a head trained on it."""
    path = tmp_path_factory.mktemp("trained") / "a.store"
    write_features(path, rows_of(400), shard_rows=90)
    return path, trained(path)


def test_a_linear_head_is_as_good_as_logistic_regression_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "hard.store"
    write_features(path, rows_of(1200, apart=1.2), shard_rows=400)
    report = trained(path, budget_bytes=200 * 2**20, epochs=8)
    with Store(path) as store:
        sides = [list(store.dataset(framework="numpy", split=side)) for side in ("train", "test")]
    (x, y), (test_x, test_y) = [[np.concatenate(each) for each in zip(*side, strict=True)] for side in sides]
    oracle = LogisticRegression().fit(x, y).score(test_x, test_y)
    assert 0.6 < oracle < 0.9
    assert report.test_accuracy > oracle - 0.02
    assert report.before_accuracy < 0.6
    assert report.rows["test"] == len(test_y) and report.after.rows == report.before.rows == len(test_y)
    said = report.head.probabilities(test_x)
    assert (said.argmax(axis=1) == test_y).mean() == pytest.approx(report.test_accuracy)
    # Real probabilities: as likely right as they say.
    assert said.max(axis=1).mean() == pytest.approx(report.test_accuracy, abs=0.06)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(path: Path, tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        trained(path, seed=seed, epochs=3).head.save(tmp_path / "h.npz")
        found.append((tmp_path / "h.npz").read_bytes())
    assert found[0] == found[1] != found[2]


def test_two_classes_give_two_probabilities(tmp_path: Path) -> None:
    rows = rows_of(300)
    write_features(tmp_path / "b.store", rows, [f"{'ab'[number % 3 > 0]}/{number}.jpg" for number in range(300)])
    report = trained(tmp_path / "b.store")
    assert report.head.layers[-1].kernel.shape == (8, 2)
    assert report.test_accuracy > 0.95
    assert report.head.probabilities(rows[:1])[0, 0] > 0.7


def test_what_is_reported_is_what_the_contract_names(done: tuple[Path, TrainingReport]) -> None:
    path, report = done
    data = report.to_dict("h.npz")
    names = ["head", "kind", "classes", "train_rows", "test_rows", "before_accuracy", "test_accuracy"]
    assert list(data)[:7] == names
    assert (data["head"], data["kind"], data["classes"], data["stopped"], data["notes"]) == (
        "h.npz",
        "linear",
        3,
        False,
        [],
    )
    assert data["train_rows"] + data["validation_rows"] + data["test_rows"] == 400
    assert data["test_accuracy"] > 0.95 > 0.8 > data["before_accuracy"]
    assert np.array(data["confusion"]).sum() == data["test_rows"]
    assert sum(each["support"] for each in data["per_class"]) == data["test_rows"]
    assert len(data["learning_curve"]) == data["epochs"] >= data["best_epoch"] >= 1
    assert report.head.facts["test_accuracy"] == data["test_accuracy"] and "seconds" not in report.head.facts
    with Store(path) as store:
        assert report.head.fingerprint == store.spec.fingerprint


def test_labels_from_a_file_and_what_does_not_fit(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Asked(Labels):
        def place(self, key: str) -> int | None:
            asked.append(key)
            return super().place(key)

    monkeypatch.setattr("streamer.images.labels.Labels", Asked)
    table = tmp_path / "labels.csv"
    lines = [f"c{number % 3}/{number:04d}.jpg,{'even' if number % 3 else 'odd'}" for number in range(300)]
    table.write_text("\n".join(["key,label", *lines, lines[0], "c9/gone.jpg,odd"]), encoding="utf-8")
    report = trained(path, labels=table, epochs=3)
    assert report.head.classes == ("even", "odd") and sum(report.rows.values()) == 300
    assert len(asked) == len(set(asked)) == 400  # it was seven times each
    first, second = report.notes
    assert "1 of its 301 keys are not in the store: 'c9/gone.jpg'" in first
    assert (
        second == "100 of 400 images have no label and are left out: 'c0/0300.jpg', 'c1/0301.jpg', 'c2/0302.jpg', ..."
    )
    table.write_text("key,label\nx.jpg,a\ny.jpg,b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"none of its 2 keys is an image of .*a\.store: it names 'x.jpg'"):
        trained(path, labels=table)


def test_a_label_is_left_out_where_that_is_asked_for(path: Path) -> None:
    report = trained(path, exclude=["c1"], epochs=3)
    assert report.head.classes == ("c0", "c2") and report.notes == ["133 images labelled 'c1' are left out"]
    with pytest.raises(StreamerError, match="no image has the label 'c7', which was to be left out: c0, c1, c2"):
        trained(path, exclude=["c7"])
    with pytest.raises(StreamerError, match="all 134 labelled images are 'c0'; a head tells"):
        trained(path, exclude=["c1", "c2"])
    with pytest.raises(StreamerError, match="all labels it has are left out: c2, c1, c0; leave out fewer"):
        trained(path, exclude=["c2", "c1", "c2", "c0"])  # it said that no image has a label


def test_a_class_with_a_single_picture_is_trained_on_and_not_averaged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_features(path, np.full((1, 8), -9, np.float32), ["rare/one.jpg"])
    with caplog.at_level(logging.WARNING):
        report = trained(path)
    assert "1 classes have no picture to test on" in caplog.text and "'rare'" in report.notes[0]
    assert report.to_dict("")["per_class"][3] == {
        "class": "rare",
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
    }
    assert report.averages()["recall"] > 0.95


def test_without_a_validation_side_the_last_epoch_counts(path: Path) -> None:
    report = trained(path, validation_share=0.0, epochs=4)
    assert (len(report.epochs), report.best_epoch, report.epochs[0].validation_accuracy) == (4, 4, None)
    assert "no images to validate on" in report.notes[0] and report.test_accuracy > 0.9


def test_what_cannot_be_trained_says_why(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no output 'fc9'; there are: fc2"):
        trained(path, output="fc9")
    with pytest.raises(ConfigError, match="pool 'gap' is for maps, and fc2 of 8 numbers is pooled already"):
        trained(path, pool="gap")
    with pytest.raises(StreamerError, match=r"of 400 labelled images 0 fall .*; give a --test-share above 0"):
        trained(path, test_share=0.0)
    with pytest.raises(BudgetTooSmallError):
        trained(path, budget_bytes=2**20)
    bare = tmp_path / "bare.store"
    write_features(bare, rows_of(9), [f"{number}.jpg" for number in range(9)])
    with pytest.raises(StreamerError, match="none of its 9 images has a label"):
        trained(bare)


@pytest.mark.parametrize(
    ("counts", "advice"),
    [
        ([1, 1, 1], "each of the 3 classes has a single image, .*; label another image of each class"),
        ([1, 1, 3], "2 of the 3 classes have a single image, .*; label another of each, or give a larger --test-share"),
    ],
)
def test_too_little_to_test_on_comes_with_advice_that_helps(tmp_path: Path, counts: list[int], advice: str) -> None:
    keys = [f"c{number}/{place}.jpg" for number, count in enumerate(counts) for place in range(count)]
    write_features(tmp_path / "a.store", rows_of(len(keys)), keys)
    with pytest.raises(StreamerError, match=f"of {len(keys)} labelled images [01] fall to the test, .*{advice}"):
        trained(tmp_path / "a.store")


def test_a_class_that_goes_as_training_begins_does_not_rename_the_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label is a place among the classes: when they were looked up again, those behind the one gone moved up."""

    def plan(*given: Any) -> TrainPlan:
        delete(path, [f"c0/{number:04d}.jpg" for number in range(0, 400, 3)])
        return _plan(*given)

    monkeypatch.setattr("streamer.transfer.experiment._plan", plan)
    report = trained(path)
    assert report.head.classes == ("c0", "c1", "c2") and report.test_accuracy > 0.9


def test_a_training_side_without_an_image_is_told(tmp_path: Path) -> None:
    """What bears labels of two classes is never moved to the training side: numpy met an empty array."""
    batch = feature_batch([f"{'ab'[number % 2]}/{number}.jpg" for number in range(8)], rows_of(8))
    with StoreWriter(tmp_path / "a.store", spec(), engine="test", limits="") as writer:
        writer.append(replace(batch, contents=tuple(bytes([number // 2]) * 16 for number in range(8))))
    with pytest.raises(StreamerError, match="all labelled images fall to the test or to validation"):
        trained(tmp_path / "a.store", test_share=0.9, validation_share=0.0)


def test_values_that_are_no_numbers_are_named_and_zeros_are_fine(tmp_path: Path) -> None:
    rows = rows_of(200)
    rows[::7] = 0
    write_features(tmp_path / "zeros.store", rows)
    assert trained(tmp_path / "zeros.store", epochs=5).test_accuracy > 0.8
    rows[100, 3] = np.nan
    write_features(tmp_path / "nan.store", rows)
    with pytest.raises(StoreCorruptError, match=r"fc2 of 'c1/0100.jpg' holds values that are no finite numbers"):
        trained(tmp_path / "nan.store", epochs=5)


def test_a_shard_of_another_fingerprint_is_refused(path: Path) -> None:
    with h5py.File(path / "features" / "000002.h5", "r+") as file:
        (name,) = [name for name in file.attrs if "fingerprint" in name]
        file.attrs[name] = "0" * 32
    with pytest.raises(StoreCorruptError, match="000002"):
        trained(path)


def test_it_stops_when_asked_and_keeps_the_best_so_far(path: Path) -> None:
    epochs: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        epochs.append(stage)

    report = trained(path, progress=progress, should_stop=lambda: "epoch 3" in epochs)
    assert report.stopped and report.exit_code == 130 and len(report.epochs) == 2
    assert report.test_accuracy > 0.5
    with pytest.raises(Interrupted, match="no head was made"):
        trained(path, should_stop=lambda: True)


def test_a_store_is_predicted_from_its_features(done: tuple[Path, TrainingReport], tmp_path: Path) -> None:
    path, report = done
    report.head.save(tmp_path / "h.npz")
    head = Head.load(tmp_path / "h.npz")
    with Store(path) as store:
        found = list(predict_stored(head, store, top=2))
    assert [each.image for each in found] == [f"c{number % 3}/{number:04d}.jpg" for number in range(400)]
    assert np.mean([each.image.startswith(f"{each.top[0][0]}/") for each in found]) > 0.95
    assert all(len(each.top) == 2 and each.top[0][1] >= each.top[1][1] for each in found)


def test_a_stored_row_that_is_no_number_is_predicted_to_be_nothing(
    done: tuple[Path, TrainingReport], tmp_path: Path
) -> None:
    """Its class was the first there is, with a probability of NaN, which is no JSON."""
    rows = rows_of(20)
    rows[3, 2], rows[5, 0] = np.nan, np.inf
    write_features(tmp_path / "nan.store", rows)
    with Store(tmp_path / "nan.store") as store:
        found = list(predict_stored(done[1].head, store))
    assert [number for number, each in enumerate(found) if each.error is not None] == [3, 5]
    assert found[3].image == "c0/0003.jpg" and "no finite numbers" in found[3].to_dict()["error"]


def test_a_head_of_imported_features_takes_no_pictures_and_says_so(done: tuple[Path, TrainingReport]) -> None:
    head = replace(done[1].head, spec=FeatureSpec.of_imported("clip", (8,)))
    with pytest.raises(FingerprintMismatchError, match=r"imported \(clip\).*--store STORE"):
        Predictor(head)


def test_the_sheet_shows_pictures_out_of_a_file_in_stl10_format(path: Path, tmp_path: Path) -> None:
    """Their paths, `train_X.bin#7`, were taken for files that are gone."""
    file = write(tmp_path, images(2))
    with contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog:
        catalog.execute("UPDATE images SET path = ? || (id % 2)", [f"{file}#"])
    report = trained(path, epochs=1)
    with Store(path) as store:
        notes = write_report(report, store, tmp_path / "report", tmp_path / "h.npz")
    assert (tmp_path / "report" / "before_and_after.png").is_file()
    assert not any("before_and_after" in note for note in notes)


_DENSE = """
import sys, logging
import numpy as np
from streamer.store import Store
from streamer.transfer import train
for name in sys.argv[2:]:
    with Store(sys.argv[1]) as store:
        report = train(store, kind="dense", units=16, epochs=15, budget_bytes=2**32)
    assert report.test_accuracy > 0.9, report.test_accuracy
    assert report.before_accuracy < 0.8
    assert report.settings["units"] == 16 and report.epochs[-1].train_loss < report.epochs[0].train_loss
    report.head.save(name)
"""


def test_a_dense_head_is_trained_in_keras_and_answers_without_it(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("keras")
    names = [tmp_path / "a.npz", tmp_path / "b.npz"]
    done = subprocess.run(
        [sys.executable, "-c", _DENSE, str(path), *map(str, names)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert names[0].read_bytes() == names[1].read_bytes()
    head = Head.load(names[0])
    assert [layer.kernel.shape for layer in head.layers] == [(8, 16), (16, CLASSES)]
    assert head.skip is not None and head.skip.shape == (8, CLASSES) and head.skip.any()
    assert head.facts["settings"]["skip"] is True
    code = (
        "import sys; from streamer.store import Store; from streamer.transfer import Head, predict_stored\n"
        f"with Store({str(path)!r}) as store: found = list(predict_stored(Head.load({str(names[0])!r}), store))\n"
        "right = sum(each.image.startswith(each.top[0][0]) for each in found)\n"
        "assert right > 360 and not {'keras', 'tensorflow', 'sklearn'} & set(sys.modules), right"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_keras_the_error_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "keras" else find(name, *rest))
    with pytest.raises(StreamerError, match=r"Keras, which is not installed.*streamer\[keras\]"):
        trained(path, kind="dense", budget_bytes=2**33)
