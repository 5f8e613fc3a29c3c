"""The ncnn engine against the Keras engine, on the same pixels and weights."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest

from streamer.backbones import Backbone, Output, get_backbone, resolve_weights
from streamer.engines import Engine, open_engine
from streamer.engines.ncnn_engine import NcnnEngine
from streamer.engines.ncnn_modes import MODES
from tests.engines.ncnn_cases import ODD, DrawnWeights, assert_close, every_output, pixels

SMALL = {"vgg16": (64, 48), "resnet50": (64, 80), "inception_v3": (96, 75), "odd": (22, 17)}

needs_keras = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed")


def _backbone(name: str) -> Backbone:
    return ODD if name == "odd" else get_backbone(name)


def _ncnn(backbone: Backbone, outputs: list[Output], size: tuple[int, int], **options: object) -> NcnnEngine:
    weights = DrawnWeights(backbone, backbone.outputs_need_top(outputs))
    options = {"batch_size": 2, "threads": 2, **options}
    return NcnnEngine(backbone, outputs, weights, input_size=size, **options)  # type: ignore[arg-type]


@functools.cache
def _of_keras(name: str, size: tuple[int, int], outputs: tuple[Output, ...]) -> dict[str, np.ndarray]:
    backbone = _backbone(name)
    weights = DrawnWeights(backbone, backbone.outputs_need_top(outputs))
    with open_engine("keras", backbone, outputs, weights, batch_size=2, input_size=size) as engine:
        return engine.extract(pixels(2, size))


@needs_keras
@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("name", list(SMALL))
def test_every_layer_and_pooling_agree_with_keras(name: str, mode: str) -> None:
    size = SMALL[name]
    outputs = tuple(every_output(_backbone(name), size, top=name == "odd"))
    with _ncnn(_backbone(name), list(outputs), size, mode=mode) as engine:
        found = engine.extract(pixels(2, size))
    assert_close(found, _of_keras(name, size, outputs), tolerance=1e-5)


@pytest.mark.slow
@needs_keras
@pytest.mark.parametrize(
    ("name", "layers", "mode", "precision"),
    [
        *(("vgg16", ["block5_pool"], mode, "full") for mode in MODES),
        ("vgg16", ["flatten", "fc1", "fc2", "predictions"], "f43", "full"),
        ("vgg16", ["flatten", "fc1", "fc2", "predictions"], "f43", "mixed"),
        ("resnet50", ["avg_pool", "predictions"], "f43", "full"),
        ("inception_v3", ["avg_pool", "predictions"], "f43", "full"),
        ("inception_v3", ["avg_pool", "predictions"], "lean", "mixed"),
    ],
)
def test_full_size_agrees_with_keras(name: str, layers: list[str], mode: str, precision: str) -> None:
    """Where maps are large, the first layers run in bands; only at full size is there a top."""
    backbone = get_backbone(name)
    outputs = [Output(layer) for layer in layers]
    size = backbone.default_input_size
    with _ncnn(backbone, outputs, size, mode=mode, precision=precision) as engine:
        found = engine.extract(pixels(2, size))
    expected = _of_keras(name, size, tuple(outputs))
    assert_close(found, expected, tolerance=2e-3 if precision == "mixed" else 1e-5)
    if precision == "mixed":  # only dense layers are touched, and they are
        assert_close({layers[0]: found[layers[0]]}, {layers[0]: expected[layers[0]]}, tolerance=1e-5)
        with pytest.raises(AssertionError):
            assert_close(found, expected, tolerance=1e-5)


@needs_keras
def test_the_bundled_network_agrees_with_keras() -> None:
    backbone = get_backbone("vgg16_compact")
    outputs, size = every_output(backbone, (80, 80), top=False), (80, 80)
    weights = resolve_weights(backbone, "bundled", needs_top=False)
    features = []
    for engine in ("ncnn", "keras"):
        with open_engine(engine, backbone, outputs, weights, batch_size=2, input_size=size) as opened:
            features.append(opened.extract(pixels(2, size)))
    assert_close(*features, tolerance=1e-5)


@pytest.mark.parametrize("mode", ["f43", "leaner"])
@pytest.mark.parametrize("name", ["odd", "vgg16", "resnet50"])
def test_a_layer_alone_is_the_layer_among_others(name: str, mode: str) -> None:
    """What is fused, cut and split depends on which outputs are wanted; values do not."""
    backbone, size = _backbone(name), SMALL[name]
    layers = [layer for layer in backbone.layers if name == "odd" or not backbone.needs_top(layer)][::3]
    with _ncnn(backbone, [Output(layer) for layer in layers], size, mode=mode) as engine:
        together = engine.extract(pixels(2, size))
    for layer in layers:
        with _ncnn(backbone, [Output(layer)], size, mode=mode) as engine:
            assert_close(engine.extract(pixels(2, size)), {layer: together[layer]}, tolerance=1e-5)


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def resnet50(request: pytest.FixtureRequest) -> Iterator[Engine]:
    outputs = [Output("conv4_block6_out"), Output("conv4_block6_out", "gem"), Output("conv2_block3_out", "avg")]
    options = {"batch_size": 6, "workers": request.param}
    with _ncnn(get_backbone("resnet50"), outputs, (64, 64), **options) as engine:
        yield engine


def test_neighbours_do_not_change_a_byte(resnet50: Engine) -> None:
    """A run that was killed and resumed gives the same bytes, wherever its batches begin."""
    images = pixels(6, (64, 64), seed=3)
    whole = resnet50.extract(images)
    turned = resnet50.extract(np.ascontiguousarray(images[::-1]))
    alone = [resnet50.extract(images[index : index + 1]) for index in range(6)]
    for name, features in whole.items():
        np.testing.assert_array_equal(turned[name][::-1], features)
        np.testing.assert_array_equal(np.concatenate([each[name] for each in alone]), features)
        np.testing.assert_array_equal(resnet50.extract(images[2:5])[name], features[2:5])


def test_another_engine_of_the_same_kind_gives_the_same_bytes() -> None:
    outputs = [Output("conv4_block6_out")]
    images = pixels(3, (64, 64), seed=4)
    features = []
    for _ in range(2):
        with _ncnn(get_backbone("resnet50"), outputs, (64, 64), batch_size=3, workers=2) as engine:
            features.append(engine.extract(images)["conv4_block6_out"])
    np.testing.assert_array_equal(features[0], features[1])


def test_features_are_the_callers_to_keep(resnet50: Engine) -> None:
    """ncnn hands out its own memory, which the next image overwrites."""
    first = resnet50.extract(pixels(6, (64, 64), seed=1))
    copies = {name: array.copy() for name, array in first.items()}
    resnet50.extract(pixels(6, (64, 64), seed=2))
    for name, copied in copies.items():
        np.testing.assert_array_equal(first[name], copied)


def test_views_of_pixels_are_read_right(resnet50: Engine) -> None:
    """ncnn takes a pointer: what lies behind it must not be some other part of the caller's array."""
    wide = pixels(2, (64, 128), seed=5)
    for name, features in resnet50.extract(wide[:, :, ::2]).items():
        np.testing.assert_array_equal(features, resnet50.extract(wide[:, :, ::2].copy())[name])


def test_closing_twice_is_once() -> None:
    engine = _ncnn(ODD, [Output("fc")], (22, 17))
    engine.extract(pixels(2, (22, 17)))
    engine.close()
    engine.close()
