"""What a user may leave open, and what is made of it."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer.backbones import choose_backbone, fetch_weights, get_backbone, resolve_weights
from streamer.backbones.fetch import imagenet_path
from streamer.errors import ConfigError


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))


def put_weights(*, top: bool) -> None:
    path = imagenet_path("vgg16", top=top)
    path.parent.mkdir(exist_ok=True)
    path.touch()


def chosen(name: str, source: str, *layers: str) -> tuple[str, str]:
    backbone, weights = choose_backbone(name, source, layers)
    return backbone.name, weights


def test_without_imagenet_weights_the_compact_net_is_taken_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert chosen("auto", "auto") == ("vgg16_compact", "bundled")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "streamer weights fetch vgg16" in record.getMessage()


def test_with_imagenet_weights_vgg16_is_taken_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    put_weights(top=False)
    assert chosen("auto", "auto") == ("vgg16", "imagenet")
    assert chosen("auto", "auto", "block4_conv2") == ("vgg16", "imagenet")
    assert not caplog.records


def test_layers_that_only_one_has_decide() -> None:
    assert chosen("auto", "auto", "fc2") == ("vgg16", "imagenet")
    assert chosen("auto", "auto", "block5_pool") == ("vgg16_compact", "bundled")


def test_what_is_named_is_taken(tmp_path: Path) -> None:
    assert chosen("auto", "imagenet") == ("vgg16", "imagenet")
    assert chosen("auto", "bundled") == ("vgg16_compact", "bundled")
    assert chosen("auto", "random") == ("vgg16", "random")
    assert chosen("auto", str(tmp_path / "mine.h5")) == ("vgg16", str(tmp_path / "mine.h5"))
    assert chosen("resnet50", "auto") == ("resnet50", "imagenet")
    assert chosen("vgg16_compact", "auto") == ("vgg16_compact", "bundled")


@pytest.mark.parametrize(
    ("name", "source", "why"),
    [
        ("vgg16", "bundled", "vgg16 has no bundled weights .*some of vgg16_compact.*imagenet"),
        ("vgg16_compact", "imagenet", "vgg16_compact has no imagenet weights .*vgg16, resnet50.*bundled"),
    ],
)
def test_weights_of_another_kind_are_refused(name: str, source: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        choose_backbone(name, source)
    with pytest.raises(ConfigError, match=why):
        resolve_weights(get_backbone(name), source, needs_top=False)


def test_the_compact_net_is_vgg16_at_three_eighths_of_its_width() -> None:
    whole, compact = get_backbone("vgg16"), get_backbone("vgg16_compact")
    assert set(whole.layers) - set(compact.layers) == {"flatten", "fc1", "fc2", "predictions"}
    size = (64, 64)
    shapes = compact.graph.shapes(size)
    for layer, (height, width, channels) in whole.graph.until({"block5_pool"}).shapes(size).items():
        assert shapes[layer] == (height, width, channels if layer.startswith("input") else channels * 3 // 8)
    assert not compact.has_top and compact.preprocessing == whole.preprocessing


def test_bundled_weights_are_the_ones_of_the_card() -> None:
    weights = resolve_weights(get_backbone("vgg16_compact"), "auto", needs_top=False)
    path = fetch_weights("vgg16_compact")
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.sha256 in path.with_name("CARD.md").read_text(encoding="utf-8")
    with h5py.File(path) as file:
        for layer in weights.layers():
            for name, shape in layer.weights:
                values = layer.read(name)
                assert values.dtype == np.float32 and values.shape == shape
                stored = file[f"{layer.name}/{layer.name}/{name}:0"]
                assert stored.dtype == (np.float16 if name == "kernel" else np.float32)
                np.testing.assert_array_equal(values, stored[...].astype(np.float32))


def test_nothing_is_fetched_for_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert fetch_weights("vgg16_compact").is_file()
    assert "nothing to fetch" in caplog.text
    with pytest.raises(ConfigError, match="no fully connected layers"):
        fetch_weights("vgg16_compact", top=True)


def test_the_models_list_names_the_bundled_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamer", "models"],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_HOME": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == 0 and "vgg16_compact" in done.stdout and "bundled" in done.stdout
