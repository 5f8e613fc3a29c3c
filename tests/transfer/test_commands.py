"""`streamer train` and `streamer predict` on drawn pictures, through a real network."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from streamer.backbones.fetch import bundled_path
from streamer.config.schema import Images
from streamer.store import Store
from streamer.transfer import Head, train
from tests.test_cli import streamer, streamer_json


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 80 drawn pictures in 4 classes by the compact network. Do not write to it: copy it."""
    from streamer import load_config, run
    from streamer.images.drawn import draw_pictures

    folder = tmp_path_factory.mktemp("library")
    draw_pictures(folder / "pictures", classes=4, per_class=20, side=64, seed=1)
    text = "store: a.store\nsource: {folder: pictures}\nbackbone: {name: vgg16_compact}\nmemory: {budget: 8GiB}\n"
    text += "images: {max_pixels: 5000000}\n"
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    run(load_config(folder / "config.yaml"), ["extract"])
    return folder


def test_from_a_store_to_predictions(capsys: pytest.CaptureFixture[str], library: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    store = shutil.copytree(library / "a.store", tmp_path / "a.store")
    code, data = streamer_json(capsys, "train", store, "--report", tmp_path / "report", "--epochs", 10)
    assert code == 0 and data["test_accuracy"] > 0.7 > data["before_accuracy"]
    head = Path(data["head"])
    assert head == store / "heads" / "block4_pool-gem-3x3-linear.npz" and head.is_file()
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == data
    for name in ("before_and_after", "confusion", "learning_curve"):
        with Image.open(tmp_path / "report" / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) > 200
    assert streamer(capsys, "check", store)[0] == 0

    photos = sorted((library / "pictures").rglob("*.jpg"))[:30:10]
    torn = tmp_path / "torn.jpg"
    torn.write_text("no picture")
    arguments = ("predict", head, photos[0], torn, *photos[1:], "--top", 2, "--csv", tmp_path / "out.csv")
    code, data = streamer_json(capsys, *arguments, "--memory", "8GiB")
    assert (code, data["head"]) == (3, str(head))
    assert [each["image"] for each in data["predictions"]] == [str(each) for each in (photos[0], torn, *photos[1:])]
    assert set(data["predictions"][1]) == {"image", "error"}
    first = data["predictions"][0]
    assert set(first) == {"image", "label", "probability", "top"} and len(first["top"]) == 2
    assert first["top"][0] == {"label": first["label"], "probability": first["probability"]}
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(each) for each in photos] and rows[0]["label"] == first["label"]

    code, data = streamer_json(capsys, "predict", head, library / "pictures", "--memory", "8GiB")
    streamed = {Path(each["image"]).name: each for each in data["predictions"]}
    code_stored, stored = streamer_json(capsys, "predict", head, "--store", store)
    assert code == code_stored == 0 and len(stored["predictions"]) == len(streamed) == 80
    for each in stored["predictions"]:
        other = streamed[Path(each["image"]).name]
        assert each["label"] == other["label"] and each["probability"] == pytest.approx(other["probability"], abs=1e-3)


def test_a_head_from_another_backbone_is_refused_with_the_difference(
    capsys: pytest.CaptureFixture[str], library: Path, tmp_path: Path
) -> None:
    code, data = streamer_json(capsys, "train", library / "a.store", "--head", tmp_path / "h.npz", "--epochs", 1)
    assert (code, data["head"]) == (0, str(tmp_path / "h.npz"))
    head = Head.load(tmp_path / "h.npz")
    photo = next((library / "pictures").rglob("*.jpg"))
    for change, difference in (
        ({"weights_sha256": "0" * 64}, "weights_sha256 is"),
        ({"decoding": "other-9"}, "decoding is .* here and other-9 there"),
    ):
        spec = dataclasses.replace(head.spec, **change)
        dataclasses.replace(head, spec=spec).save(tmp_path / "other.npz")
        for asked in ([photo], ["--store", library / "a.store"]):
            code, _, err = streamer(capsys, "predict", tmp_path / "other.npz", *asked)
            assert code == 2
            assert "trained on other features" in err
            assert re.search(difference, err)
    spec = dataclasses.replace(head.spec, outputs={"fc2": head.shape})
    dataclasses.replace(head, spec=spec).save(tmp_path / "other.npz")
    code, _, err = streamer(capsys, "predict", tmp_path / "other.npz", "--store", library / "a.store")
    assert code == 2 and "the head takes fc2, and the store has block4_pool:gem:3x3" in err


@pytest.fixture(scope="module")
def head(library: Path) -> Path:
    """A head trained on the library."""
    with Store(library / "a.store") as store:
        train(store, epochs=1).head.save(library / "head.npz")
    return library / "head.npz"


def test_pictures_are_held_to_the_limits_of_the_store(
    capsys: pytest.CaptureFixture[str], library: Path, head: Path, tmp_path: Path
) -> None:
    photo = next((library / "pictures").rglob("*.jpg"))
    loaded = Head.load(head)
    assert (loaded.images.max_pixels, loaded.images.max_file) == (5_000_000, 256 * 2**20)
    dataclasses.replace(loaded, images=Images(max_pixels=1000)).save(tmp_path / "strict.npz")
    code, data = streamer_json(capsys, "predict", tmp_path / "strict.npz", photo)
    assert code == 3 and "is more than the limit of 1000" in data["predictions"][0]["error"]


def test_weights_that_lie_elsewhere_now_are_named_and_checked(
    capsys: pytest.CaptureFixture[str], library: Path, head: Path, tmp_path: Path
) -> None:
    photo = next((library / "pictures").rglob("*.jpg"))
    _, before = streamer_json(capsys, "predict", head, photo)
    loaded, moved = Head.load(head), tmp_path / "moved.h5"
    spec = dataclasses.replace(loaded.spec, weights=str(tmp_path / "gone.h5"))
    dataclasses.replace(loaded, spec=spec).save(tmp_path / "h.npz")
    shutil.copy(bundled_path("vgg16_compact"), moved)
    code, data = streamer_json(capsys, "predict", tmp_path / "h.npz", photo)
    assert code == 1 and re.search(r"gone\.h5 does not exist.*name the file with --weights FILE\.h5", data["error"])
    code, data = streamer_json(capsys, "predict", tmp_path / "h.npz", photo, "--weights", moved)
    assert code == 0 and data["predictions"] == before["predictions"]
    with moved.open("ab") as file:
        file.write(b"another")
    code, data = streamer_json(capsys, "predict", tmp_path / "h.npz", photo, "--weights", moved)
    assert code == 2 and re.search(r"the network with the weights .*moved\.h5 gives: weights_sha256 is", data["error"])
    code, data = streamer_json(capsys, "predict", head, "--store", library / "a.store", "--weights", moved)
    assert code == 2 and "is of no effect with --store" in data["error"]


def test_a_head_that_could_not_be_saved_is_not_trained(
    capsys: pytest.CaptureFixture[str], library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = library / "a.store"

    def read_only(*_: object, dir: Path, **__: object) -> None:  # noqa: A002 - as it is called there
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr("streamer.transfer.train", None)
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    code, data = streamer_json(capsys, "train", store)
    assert code == 1 and data["error"] == (
        f"{store / 'heads'}: nothing can be written there (Read-only file system), so it was not begun; name another "
        "place with --head OUT.npz"
    )
    monkeypatch.undo()
    monkeypatch.setattr("streamer.transfer.train", None)
    (tmp_path / "file").touch()
    code, data = streamer_json(capsys, "train", store, "--head", tmp_path / "file" / "h.npz")
    assert code == 1 and "(Not a directory)" in data["error"]
    code, data = streamer_json(
        capsys, "train", store, "--head", tmp_path / "h.npz", "--report", tmp_path / "file" / "r"
    )
    assert code == 1 and "name another folder with --report" in data["error"]


def test_wrong_use_has_its_codes(capsys: pytest.CaptureFixture[str], library: Path, tmp_path: Path) -> None:
    store = library / "a.store"
    assert streamer(capsys, "train", tmp_path / "none.store")[0] == 10
    assert streamer(capsys, "train", store, "--output", "fc9")[0] == 2
    assert streamer(capsys, "train", store, "--memory", "much")[0] == 2
    assert streamer(capsys, "train", store, "--test-share", 0.6, "--validation-share", 0.5)[0] == 2
    assert streamer(capsys, "train", store, "--labels", tmp_path / "none.csv")[0] == 2
    assert streamer(capsys, "train", store, "--seed", 2**64)[0] == 2
    assert streamer(capsys, "train", store, "--test-share", "nan")[0] == 2
    code, _, err = streamer(capsys, "train", store, "--head", tmp_path)
    assert code == 2 and "is a directory" in err  # it was found out when the head was trained
    for option, value in (("--units", 64), ("--device", "gpu")):
        code, _, err = streamer(capsys, "train", store, option, value)
        assert code == 2 and f"{option} {value}: is of no effect with --kind linear" in err
    for option, value in (("--memory", "2GiB"), ("--device", "cpu")):
        code, _, err = streamer(capsys, "predict", tmp_path / "none.npz", "--store", store, option, value)
        assert code == 2 and f"{option} {value}: is of no effect with --store" in err
    code, data = streamer_json(capsys, "train", store, "--memory", "10MiB")
    assert code == 12 and "--memory" in data["error"]
    code, data = streamer_json(capsys, "predict", tmp_path / "none.npz", "a.jpg")
    assert code == 1 and "no head here" in data["error"]
    assert streamer(capsys, "predict", tmp_path / "none.npz")[0] == 2
    assert streamer(capsys, "predict", tmp_path / "none.npz", "a.jpg", "--store", store)[0] == 2
    assert not (store / "heads").exists()


def test_without_matplotlib_the_sheet_is_drawn_and_a_note_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = ("--head", tmp_path / "h.npz", "--report", tmp_path / "report", "--epochs", 1)
    code, data = streamer_json(capsys, "train", library / "a.store", *arguments)
    assert code == 0 and any("streamer[plots]" in note for note in data["notes"])
    assert sorted(each.name for each in (tmp_path / "report").iterdir()) == ["before_and_after.png", "report.json"]


def test_a_spec_for_one_output_leaves_the_others_out(library: Path) -> None:
    with Store(library / "a.store") as store:
        spec = dataclasses.replace(store.spec, outputs={**store.spec.outputs, "fc2": (4096,)})
        assert list(spec.for_output("fc2").outputs) == ["fc2"]
        assert spec.for_output("fc2").differences(spec.for_output("fc2")) == []
