"""A file in STL-10's format through the whole product."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from PIL import Image

from streamer.config import Config, load_config
from streamer.errors import StreamerError
from streamer.pipeline import run
from streamer.searcher import Searcher
from streamer.store import Store
from tests.end_to_end.test_pipeline import features_by_key
from tests.images.sources.test_stl10 import NAMES, images, write


def test_a_file_in_stl10_format_is_a_library_like_any_other(tmp_path: Path) -> None:
    """The same pictures as files give the same features; an image that is changed in place is extracted anew."""
    pixels = images(6)
    write(tmp_path, pixels, [1, 2, 3, 1, 2, 3], NAMES)
    folder = tmp_path / "files"
    for number, each in enumerate(pixels):
        (folder / NAMES[number % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(folder / NAMES[number % 3] / f"{number}.png")
    configs = {}
    for name, source in (("stl10", {"stl10": "train_X.bin"}), ("files", {"folder": "files"})):
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump({"store": f"{name}.store", "source": source, "backbone": {"name": "vgg16_compact"}})
        )
        configs[name] = load_config(path, ["memory.budget=8GiB"])
        assert run(configs[name]).images["added"] == 6
    ours, theirs = features_by_key(configs["stl10"].store), features_by_key(configs["files"].store)
    for number in range(6):
        assert ours[f"train_X/{number:07d}"] == theirs[f"{NAMES[number % 3]}/{number}.png"]
    assert run(configs["stl10"]).images["unchanged"] == 6
    pixels[4] = 255 - pixels[4]
    write(tmp_path, pixels, [1, 2, 3, 1, 2, 3], NAMES)
    counts = run(configs["stl10"]).images
    assert (counts["updated"], counts["unchanged"], counts["seen"]) == (1, 5, 6)
    with Searcher(configs["stl10"].store) as searcher:
        (result,) = searcher.search([f"{tmp_path / 'train_X.bin'}#4"], k=1)
    assert (result.hits[0].key, result.hits[0].label, result.hits[0].score) == ("train_X/0000004", "bird", 1.0)


def test_half_a_file_is_taken_for_a_mishap(tmp_path: Path) -> None:
    """Its images are all of one size, by which those that are gone would have passed for moved."""
    path = write(tmp_path, images(6))
    config = config_of(tmp_path)
    assert run(config).images["added"] == 6
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StreamerError, match=r"3 of the 6 images in the store are gone.*nothing was changed"):
        run(config)
    with Store(config.store) as store:
        assert len(store) == 6


def test_new_labels_are_noticed_without_new_images(tmp_path: Path) -> None:
    write(tmp_path, images(3), [1, 2, 3], NAMES)
    config = config_of(tmp_path, "train_X.bin")
    run(config)
    before = (tmp_path / "train_X.bin").stat().st_mtime_ns - 10**9
    labels = tmp_path / "train_y.bin"
    labels.write_bytes(bytes([3, 3, 3]))
    os.utime(labels, ns=(before, before))  # a copy that keeps the time of its original
    assert run(config).images["unchanged"] == 3
    with Store(config.store) as store:
        assert {entry.label for entry in store.entries(store.images()[:, 0].tolist()).values()} == {"car"}


def config_of(folder: Path, name: str = "unlabeled_X.bin") -> Config:
    path = folder / "a.yaml"
    path.write_text(
        yaml.safe_dump({"store": "a.store", "source": {"stl10": name}, "backbone": {"name": "vgg16_compact"}})
    )
    return load_config(path, ["memory.budget=8GiB"])
