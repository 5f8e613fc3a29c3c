"""The Keras engine against ``keras.applications`` models called directly, with their own preprocessing."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.backbones import Output, RandomWeights, get_backbone, resolve_weights
from streamer.engines import Engine, open_engine
from streamer.engines.keras_engine import KerasEngine
from streamer.errors import ConfigError, EngineUnavailableError, WeightsError

keras = pytest.importorskip("keras", reason="Keras is not installed")

APPLICATIONS = {"vgg16": "VGG16", "resnet50": "ResNet50", "inception_v3": "InceptionV3"}


def _pixels(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def _application(name: str, top: bool, size: tuple[int, int]) -> Any:
    return getattr(keras.applications, APPLICATIONS[name])(weights=None, include_top=top, input_shape=(*size, 3))


def _oracle(model: Any, name: str, layer: str, pixels: np.ndarray) -> np.ndarray:
    prepared = getattr(keras.applications, name).preprocess_input(pixels.astype(np.float32))
    cut = keras.Model(model.input, model.get_layer(layer).output)
    return np.asarray(keras.ops.convert_to_numpy(cut(prepared, training=False)))


def _pooled(maps: np.ndarray, pooling: str) -> np.ndarray:
    exact = maps.astype(np.float64)
    return {
        "none": lambda: exact,
        "avg": lambda: exact.mean(axis=(1, 2)),
        "max": lambda: exact.max(axis=(1, 2)),
        "gem": lambda: (np.maximum(exact, 1e-6) ** 3).mean(axis=(1, 2)) ** (1 / 3),
    }[pooling]()


def _assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Relative to each image's largest feature: single features near zero have no digits to compare."""
    assert found.shape == expected.shape and found.dtype == np.float32
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()
    assert found.std() > 0


def _engine(name: str, outputs: list[Output], weights: Any = None, **options: Any) -> Engine:
    backbone = get_backbone(name)
    weights = weights or RandomWeights(backbone, backbone.outputs_need_top(outputs), 1)
    return open_engine("keras", backbone, outputs, weights, **{"batch_size": 3, "threads": 2, **options})


@pytest.mark.parametrize(
    ("name", "size", "outputs"),
    [
        ("vgg16", (64, 96), [Output("block5_pool"), Output("block5_pool", "gem"), Output("block4_conv2", "avg")]),
        ("vgg16", (224, 224), [Output("fc2"), Output("block5_pool", "gem")]),
        ("resnet50", (64, 64), [Output("conv5_block3_out", "max"), Output("conv3_block4_out", "gem")]),
        ("inception_v3", (96, 75), [Output("mixed10", "avg"), Output("mixed2", "gem")]),
    ],
    ids=["vgg16", "vgg16 top", "resnet50", "inception_v3"],
)
def test_features_are_those_of_keras(name: str, size: tuple[int, int], outputs: list[Output]) -> None:
    pixels = _pixels(2, size)
    weights = RandomWeights(get_backbone(name), get_backbone(name).outputs_need_top(outputs), 1)
    with _engine(name, outputs, weights, input_size=size) as engine:
        features = engine.extract(pixels)
    model = _application(name, weights.top, size)
    layers = [layer for layer in model.layers if layer.weights]
    for layer, record in zip(layers, weights.layers(), strict=True):
        layer.set_weights([record.read(weight) for weight, _ in record.weights])

    assert list(features) == [output.name for output in outputs]
    for output in outputs:
        expected = _pooled(_oracle(model, name, output.layer, pixels), output.pooling)
        _assert_close(features[output.name], expected)
        assert engine.outputs[output.name] == expected.shape[1:]


@pytest.fixture(scope="module")
def vgg16() -> Iterator[Engine]:
    with _engine(
        "vgg16", [Output("block5_pool"), Output("block3_pool", "gem")], batch_size=4, input_size=(64, 64)
    ) as e:
        yield e


def test_how_full_the_batch_is_does_not_change_a_byte(vgg16: Engine) -> None:
    """A run that was killed and resumed must give the same bytes: its batches start at the same images."""
    pixels = _pixels(4, (64, 64))
    whole = vgg16.extract(pixels)
    again = vgg16.extract(pixels)
    for name in whole:
        np.testing.assert_array_equal(again[name], whole[name])
    for count in (1, 2, 3):
        part = vgg16.extract(pixels[:count])
        for name in whole:
            np.testing.assert_array_equal(part[name], whole[name][:count])


def test_where_in_the_batch_changes_rounding_only(vgg16: Engine) -> None:
    """TensorFlow cuts a convolution among its threads across images: the first and last round differently."""
    pixels = _pixels(4, (64, 64))
    whole, turned = vgg16.extract(pixels), vgg16.extract(pixels[::-1])
    for name in whole:
        _assert_close(turned[name][::-1], whole[name], tolerance=2e-6)


def test_leftovers_of_an_earlier_batch_change_nothing(vgg16: Engine) -> None:
    alone = vgg16.extract(_pixels(1, (64, 64), seed=5))
    vgg16.extract(_pixels(3, (64, 64), seed=6))
    again = vgg16.extract(_pixels(1, (64, 64), seed=5))
    for name in alone:
        np.testing.assert_array_equal(alone[name], again[name])


def test_features_are_the_callers_to_keep(vgg16: Engine) -> None:
    first = vgg16.extract(_pixels(4, (64, 64), seed=1))
    copies = {name: array.copy() for name, array in first.items()}
    vgg16.extract(_pixels(4, (64, 64), seed=2))
    for name in first:
        np.testing.assert_array_equal(first[name], copies[name])
        assert first[name].flags.c_contiguous


def test_bfloat16_is_close_and_comes_back_as_float32() -> None:
    """8 bits of mantissa: features point the same way, and are not the same."""
    backbone = get_backbone("resnet50")
    outputs = [Output("conv3_block4_out"), Output("conv3_block4_out", "gem")]
    weights = RandomWeights(backbone, False, 1)
    options: dict[str, Any] = {"batch_size": 2, "input_size": (64, 64)}
    pixels = _pixels(2, (64, 64))
    with KerasEngine(backbone, outputs, weights, **options) as engine:
        exact = engine.extract(pixels)
    with KerasEngine(backbone, outputs, weights, compute_dtype="bfloat16", **options) as engine:
        fast = engine.extract(pixels)
    for name, wanted in exact.items():
        found = fast[name]
        assert found.dtype == np.float32 and found.shape == wanted.shape
        for one, other in zip(found.reshape(2, -1), wanted.reshape(2, -1), strict=True):
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert cosine > 0.999
            assert np.abs(one - other).max() > 1e-4 * np.abs(other).max()  # it did compute in bfloat16
    with pytest.raises(ValueError, match="float32, bfloat16, not 'float16'"):
        KerasEngine(backbone, outputs, weights, compute_dtype="float16", **options)


def test_no_images_no_forward_pass(vgg16: Engine) -> None:
    features = vgg16.extract(np.empty((0, 64, 64, 3), np.uint8))
    assert {name: array.shape for name, array in features.items()} == {
        "block5_pool": (0, 2, 2, 512),
        "block3_pool:gem": (0, 256),
    }


@functools.cache
def _trained(name: str) -> Any:
    """A network whose every weight is drawn, batch normalisation's too, so that a mix-up of two weights shows."""
    model = _application(name, False, (75, 75))
    rng = np.random.default_rng(4)
    for layer in model.layers:
        if layer.weights:
            arrays = [rng.uniform(0.5, 1.5, weight.shape).astype(np.float32) for weight in layer.weights]
            if arrays[0].ndim == 4:
                scale = np.sqrt(2 / np.prod(arrays[0].shape[:3]))
                arrays[0] = rng.normal(0, scale, arrays[0].shape).astype(np.float32)
            layer.set_weights(arrays)
    return model


# Keras warns that the old layout is old.
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vgg16", "model.h5"),
        ("vgg16", "w.weights.h5"),
        ("resnet50", "model.h5"),
        ("resnet50", "w.weights.h5"),
        ("inception_v3", "old.h5"),
        ("inception_v3", "w.weights.h5"),
    ],
)
def test_files_that_keras_saved(tmp_path: Path, name: str, file: str) -> None:
    model, path = _trained(name), tmp_path / file
    if file == "model.h5":
        model.save(path)
    elif file == "old.h5":
        import h5py
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(path, "w") as handle:  # how Keras 2 saved weights; Keras 3 still reads it but writes it no more
            legacy_h5_format.save_weights_to_hdf5_group(handle, model)
    else:
        model.save_weights(path)
    layer = get_backbone(name).last_map
    weights = resolve_weights(get_backbone(name), str(path), needs_top=False)
    pixels = _pixels(1, (75, 75))
    with _engine(name, [Output(layer)], weights, batch_size=1, input_size=(75, 75)) as engine:
        _assert_close(engine.extract(pixels)[layer], _oracle(model, name, layer, pixels))


def test_another_models_file_is_refused(tmp_path: Path) -> None:
    _trained("resnet50").save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(
        WeightsError, match=r"'block1_conv1' \('conv1_conv' in the file\).*looks like a file of resnet50"
    ):
        resolve_weights(get_backbone("vgg16"), str(tmp_path / "w.weights.h5"), needs_top=False)


def test_a_model_inside_a_model_is_explained(tmp_path: Path) -> None:
    inner = _trained("vgg16")
    model = keras.Sequential([keras.Input((75, 75, 3)), inner, keras.layers.Flatten(), keras.layers.Dense(2)])
    model.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(WeightsError, match=r"a model inside a model.*get_layer"):
        resolve_weights(get_backbone("vgg16"), str(tmp_path / "w.weights.h5"), needs_top=False)


def test_bad_requests_are_refused_before_keras_starts() -> None:
    with pytest.raises(ConfigError, match="use pooling: none"):
        _engine("vgg16", [Output("fc2", "gem")])
    with pytest.raises(ConfigError, match="work at 224 x 224"):
        _engine("vgg16", [Output("fc2")], input_size=(64, 64))


def test_a_gpu_that_is_not_there() -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("asks TensorFlow")
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees a GPU here")
    with pytest.raises(EngineUnavailableError, match=r"tensorflow sees no GPU.*streamer\[gpu\].*device: cpu"):
        _engine("vgg16", [Output("block1_pool")], device="gpu", input_size=(32, 32))


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env={**plain, **environment}
    )


_EXTRACT = """
import sys, numpy as np
from streamer.backbones import *
from streamer.engines import open_engine
backbone = get_backbone("vgg16")
outputs = [Output("block3_pool", "gem"), Output("block2_pool")]
weights = RandomWeights(backbone, False, 1)
with open_engine("keras", backbone, outputs, weights, batch_size=2, input_size=(32, 32)) as engine:
    features = engine.extract(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(1, 32, 32, 3))
np.savez(sys.argv[1] if len(sys.argv) > 1 else "features.npz", **features)
import keras, os
print(keras.backend.backend(), engine.device, os.environ["CUDA_VISIBLE_DEVICES"])
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_agree(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = _python(_EXTRACT.replace("features.npz", str(tmp_path / "other.npz")), KERAS_BACKEND=backend)
    assert done.stdout.split()[:2] == [backend, "cpu"], done.stderr
    outputs = [Output("block3_pool", "gem"), Output("block2_pool")]
    with _engine("vgg16", outputs, batch_size=2, input_size=(32, 32)) as engine:
        expected = engine.extract(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(1, 32, 32, 3))
    with np.load(tmp_path / "other.npz") as features:
        for name, array in expected.items():
            _assert_close(features[name], array)


def test_a_cpu_run_is_quiet_and_hides_every_gpu(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    done = _python(_EXTRACT.replace("features.npz", str(tmp_path / "features.npz")))
    assert done.stdout.split() == ["tensorflow", "cpu", "-1"], done.stderr
    # What TensorFlow's full package says of missing drivers before its own logging starts heeds no setting.
    assert "cpu_feature_guard" not in done.stderr, done.stderr


_WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
missing = {missing!r}
importlib.util.find_spec = lambda name, *rest: None if name in missing else find(name, *rest)
from streamer.engines.keras_runtime import _choose_backend
import os
try:
    _choose_backend()
    print("took", os.environ["KERAS_BACKEND"])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        (["keras"], "EngineUnavailableError the keras engine needs Keras, which is not installed. Run: pip install"),
        (
            ["tensorflow", "jax", "torch"],
            "EngineUnavailableError Keras is installed, but none of tensorflow, jax, torch",
        ),
    ],
)
def test_what_is_not_installed_is_named(missing: list[str], says: str) -> None:
    assert _python(_WITHOUT.format(missing=missing)).stdout.startswith(says)


def test_another_backend_is_taken_when_tensorflow_is_missing() -> None:
    code = "import importlib.machinery, importlib.util\n" + _WITHOUT.format(missing=["tensorflow", "jax"]).replace(
        "None if name in missing", "None if name in missing else 1 if name == 'torch'"
    )
    assert _python(code).stdout.strip() == "took torch"
