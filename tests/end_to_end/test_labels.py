"""Labels from a CSV file, from the config to the store."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from streamer import run
from streamer.config import Config
from streamer.errors import ConfigError
from streamer.extraction import Extractor
from streamer.store import Store


def labels_of(config: Config) -> dict[str, str]:
    with Store(config.store) as store:
        return {each.key: each.label for each in store.entries(store.images()[:, 0].tolist()).values()}


def test_labels_follow_the_file_without_a_second_extraction(
    make_config: Callable[..., Config],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "photos"
    for number, path in enumerate(sorted(pictures.rglob("*.*"))[:4]):
        (folder / "box").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "box" / f"{number}{path.suffix}")
    keys = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    config = make_config(folder)
    assert run(config, ["extract"]).images["added"] == 4
    assert labels_of(config) == dict.fromkeys(keys, "box")

    monkeypatch.setattr(Extractor, "features", lambda *_: pytest.fail("nothing is to be read again"))
    table = tmp_path / "labels.csv"
    for labels in (["cat", "dog", "cat", ""], ["dog", "dog", "cow", ""]):
        lines = [f"{key},{label}\n" for key, label in zip(keys, labels, strict=True) if label]
        table.write_text("key,label\n" + "".join(lines), encoding="utf-8")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            report = run(make_config(folder, f"labels={table}"), ["extract"])
        assert (report.images["unchanged"], report.images["updated"]) == (4, 0)
        assert labels_of(config) == dict(zip(keys, labels, strict=True))
        with h5py.File(config.store / "features.h5") as file:
            assert file["label"].asstr()[:].tolist() == labels
        told = [each.getMessage() for each in caplog.records if each.name == "streamer.images.labels"]
        assert told == [f"{table}: 1 of the 4 images are not in it and have no label: '{keys[3]}'"]
    assert run(config, ["extract"]).images["unchanged"] == 4
    assert labels_of(config) == dict.fromkeys(keys, "box")


def test_a_file_of_labels_that_is_wrong_changes_nothing(
    make_config: Callable[..., Config], pictures: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    config = make_config(pictures, f"labels={table}")
    for text, said in (("key\na.jpg\n", "the first line is 'key'"), ("key,label\na.jpg,b\n", "none of its 1 keys")):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            run(config, ["extract"])
        assert not list(config.store.glob("features/*.h5"))
