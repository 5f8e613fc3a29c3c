"""Weights files: written here with h5py in Keras' layouts; files that Keras itself wrote are in tests/engines."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer.backbones import Backbone, Output, RandomWeights, fetch, get_backbone, resolve_weights
from streamer.backbones.graph import LayerWeights
from streamer.backbones.graph_text import parse_graph
from streamer.errors import WeightsError

_TINY_GRAPH = """
input = input()
first = conv(input) channels=100 window=3x3 padding=same
batch_normalization = batch_norm(first) scale=False
activation = relu(batch_normalization)
conv2d = conv(activation) channels=4 bias=False
last_map = max_pool(conv2d) window=2x2 stride=2
flatten = flatten(last_map)
fc = dense(flatten) channels=130
"""

TINY = Backbone(
    "tiny", (8, 8), 2, "tf", ("last_map", "fc"), "last_map", Output("last_map", "avg"), lambda: parse_graph(_TINY_GRAPH)
)


def _write(path: Path, layout: list[LayerWeights], *, group: str = "/", rename: dict[str, str] | None = None) -> Path:
    """Write zeros of the right shapes in Keras' old layout; unwritten datasets take no room on the disk."""
    with h5py.File(path, "w") as file:
        root = file.require_group(group)
        names = [(rename or {}).get(layer.name, layer.name) for layer in layout]
        root.attrs["layer_names"] = np.array(["input_1", *names], dtype="S")
        root.create_group("input_1").attrs["weight_names"] = np.array([], dtype="S1")
        for name, layer in zip(names, layout, strict=True):
            weights = root.create_group(name)
            weights.attrs["weight_names"] = np.array([f"{name}/{weight}:0" for weight, _ in layer.weights], "S")
            for weight, shape in layer.weights:
                weights.create_dataset(f"{name}/{weight}:0", shape, "f4")
    return path


def _fill(path: Path, weights: RandomWeights, group: str = "/") -> None:
    with h5py.File(path, "r+") as file:
        names = [name.decode() for name in file[group].attrs["layer_names"]][1:]
        for name, layer in zip(names, weights.layers(), strict=True):
            for weight, _ in layer.weights:
                file[group][f"{name}/{name}/{weight}:0"][...] = layer.read(weight)


@pytest.mark.parametrize("group", ["/", "model_weights"])
@pytest.mark.parametrize("top", [True, False])
def test_reads_the_old_layout_in_model_order(tmp_path: Path, group: str, top: bool) -> None:
    random = RandomWeights(TINY, top, seed=3)
    path = _write(tmp_path / "tiny.h5", TINY.weight_layout(top=top), group=group)
    _fill(path, random, group)
    weights = resolve_weights(TINY, str(path), needs_top=top)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(path) in weights.describe()
    count = 0
    for ours, expected in zip(weights.layers(), random.layers(), strict=True):
        assert (ours.name, ours.weights) == (expected.name, expected.weights)
        for name, shape in ours.weights:
            count += 1
            assert ours.read(name).shape == shape
            assert ours.read(name).dtype == np.float32
            np.testing.assert_array_equal(ours.read(name), expected.read(name))
            np.testing.assert_array_equal(ours.read(name, np.s_[..., 1:3]), expected.read(name)[..., 1:3])
    assert count == (8 if top else 6)


def test_a_file_with_the_top_serves_without_it(tmp_path: Path) -> None:
    path = _write(tmp_path / "tiny.h5", TINY.weight_layout(top=True))
    names = [layer.name for layer in resolve_weights(TINY, str(path), needs_top=False).layers()]
    assert names == ["first", "batch_normalization", "conv2d"]


def test_numbered_names_are_matched_by_order(tmp_path: Path) -> None:
    layout = get_backbone("inception_v3").weight_layout(top=False)
    renamed = {
        layer.name: f"{'conv2d' if len(layer.weights) == 1 else 'batch_normalization'}_{number + 500}"
        for number, layer in enumerate(layout)
    }
    path = _write(tmp_path / "inception.h5", layout, rename=renamed)
    weights = resolve_weights(get_backbone("inception_v3"), str(path), needs_top=False)
    assert [layer.name for layer in weights.matched] == list(renamed.values())


def test_names_that_mean_something_win_over_order(tmp_path: Path) -> None:
    # The two convolutions of a shortcut block have one shape: only the name tells them apart.
    layout = get_backbone("resnet50").weight_layout(top=False)
    names = [layer.name for layer in layout]
    first, second = names.index("conv2_block1_0_conv"), names.index("conv2_block1_3_conv")
    swapped = list(layout)
    swapped[first], swapped[second] = layout[second], layout[first]
    weights = resolve_weights(get_backbone("resnet50"), str(_write(tmp_path / "r.h5", swapped)), needs_top=False)
    assert [layer.name for layer in weights.matched] == names


def test_one_renamed_layer_is_matched_by_order(tmp_path: Path) -> None:
    layout = get_backbone("resnet50").weight_layout(top=True)
    path = _write(tmp_path / "r.h5", layout, rename={"predictions": "probs"})
    weights = resolve_weights(get_backbone("resnet50"), str(path), needs_top=True)
    assert [layer.name for layer in weights.matched][-1] == "probs"


def test_another_networks_file_is_refused_by_layer(tmp_path: Path) -> None:
    path = _write(tmp_path / "r.h5", get_backbone("resnet50").weight_layout(top=False))
    with pytest.raises(WeightsError) as caught:
        resolve_weights(get_backbone("vgg16"), str(path), needs_top=False)
    text = str(caught.value)
    for part in (str(path), "'block1_conv1'", "'conv1_conv'", "(3, 3, 3, 64)", "(7, 7, 3, 64)", "has 106 layers", "13"):
        assert part in text, part
    assert "It looks like a file of resnet50" in text


def test_a_file_without_the_top_is_refused_where_the_top_is_needed(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5", get_backbone("vgg16").weight_layout(top=False))
    with pytest.raises(WeightsError, match=r"nothing for layer 'fc1'.*looks like a file of vgg16 without its top"):
        resolve_weights(get_backbone("vgg16"), str(path), needs_top=True)


def test_a_larger_sibling_is_refused(tmp_path: Path) -> None:
    """VGG19 has every layer of VGG16 and three in between: taken by name alone it would pass for VGG16."""
    layout = get_backbone("vgg16").weight_layout(top=False)
    where = [layer.name for layer in layout].index("block3_conv3") + 1
    extra = LayerWeights("block3_conv4", layout[where - 1].weights, auto_named=False)
    path = _write(tmp_path / "vgg19.h5", [*layout[:where], extra, *layout[where:]])
    with pytest.raises(WeightsError, match="block3_conv4"):
        resolve_weights(get_backbone("vgg16"), str(path), needs_top=False)


def test_a_wrong_shape_names_the_layer(tmp_path: Path) -> None:
    layout = get_backbone("vgg16").weight_layout(top=False)
    layout[1] = layout[1]._replace(weights=(("kernel", (3, 3, 64, 65)), ("bias", (65,))))
    path = _write(tmp_path / "v.h5", layout)
    with pytest.raises(WeightsError, match=r"'block1_conv2' should hold kernel \(3, 3, 64, 64\).*\(3, 3, 64, 65\)"):
        resolve_weights(get_backbone("vgg16"), str(path), needs_top=False)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    whole = _write(tmp_path / "whole.h5", TINY.weight_layout(top=True))
    _fill(whole, RandomWeights(TINY, True))
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = tmp_path / "page.h5"
    text.write_text("<html>Sign in to the network</html>")
    empty = tmp_path / "empty.h5"
    empty.touch()
    for path in (cut, text, empty):
        with pytest.raises(WeightsError, match=rf"{path.name} cannot be read as HDF5"):
            resolve_weights(TINY, str(path), needs_top=True)
    archive = tmp_path / "model.keras"
    archive.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(WeightsError, match=r"\.keras archive.*save_weights"):
        resolve_weights(TINY, str(archive), needs_top=True)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = 1
    with pytest.raises(WeightsError, match=r"no Keras weights.*save_weights"):
        resolve_weights(TINY, str(other), needs_top=True)
    with pytest.raises(WeightsError, match=r"absent\.h5 does not exist"):
        resolve_weights(TINY, str(tmp_path / "absent.h5"), needs_top=True)
    with pytest.raises(WeightsError, match="is a folder"):
        resolve_weights(TINY, str(tmp_path), needs_top=True)


def test_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    layout = TINY.weight_layout(top=False)
    other = _write(tmp_path / "other.h5", layout)
    path = _write(tmp_path / "tiny.h5", layout)
    with h5py.File(path, "r+") as file:
        del file["first/first/kernel:0"]
        file["first/first/kernel:0"] = h5py.ExternalLink(str(other), "first/first/kernel:0")
    with pytest.raises(WeightsError, match="link to elsewhere"):
        resolve_weights(TINY, str(path), needs_top=False)


def test_random_weights_are_the_same_every_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        weights = resolve_weights(TINY, "random", needs_top=True, seed=7)
    assert "for tests only" in caplog.text
    again, other = RandomWeights(TINY, True, 7), RandomWeights(TINY, True, 8)
    assert weights.sha256 == again.sha256 != other.sha256
    for layer, same, different in zip(weights.layers(), again.layers(), other.layers(), strict=True):
        for name, shape in layer.weights:
            values = layer.read(name)
            assert values.shape == shape and values.dtype == np.float32
            np.testing.assert_array_equal(values, same.read(name))
            assert (name != "kernel") or not np.array_equal(values, different.read(name))


def test_random_kernels_are_he_normal() -> None:
    layers = {layer.name: layer for layer in get_backbone("vgg16").weight_layout(top=False)}
    for record in RandomWeights(get_backbone("vgg16"), False).layers():
        if record.name == "block3_conv2":
            kernel = record.read("kernel")
            assert kernel.shape == dict(layers["block3_conv2"].weights)["kernel"]
            assert kernel.mean() == pytest.approx(0, abs=1e-3)
            assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.01)
            assert not record.read("bias").any()


@pytest.mark.parametrize("outputs", [slice(0, 10), slice(60, 70), slice(64, 128), slice(100, None), slice(5, 5)])
def test_part_of_a_random_kernel_is_that_part(outputs: slice) -> None:
    for layer in RandomWeights(TINY, True).layers():
        whole = layer.read("kernel") if "kernel" in dict(layer.weights) else None
        if whole is not None:
            index = (*[slice(None)] * (whole.ndim - 1), outputs)
            np.testing.assert_array_equal(layer.read("kernel", index), whole[index])


def test_missing_imagenet_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        resolve_weights(get_backbone("vgg16"), "imagenet", needs_top=False)
    file = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    for part in (
        str(tmp_path / "models" / file),
        f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{file}",
    ):
        assert part in str(caught.value)
    assert "`streamer weights fetch vgg16`" in str(caught.value)


def test_imagenet_weights_in_keras_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = fetch.imagenet_path("vgg16", top=False)
    path.parent.mkdir()
    _write(path, get_backbone("vgg16").weight_layout(top=False))
    with pytest.raises(WeightsError, match=r"not the file that Keras published.*streamer weights fetch"):
        resolve_weights(get_backbone("vgg16"), "imagenet", needs_top=False)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(fetch.KERAS_FILES, ("vgg16", False), fetch.KerasFile(f"https://x/{path.name}", md5))
    assert resolve_weights(get_backbone("vgg16"), "imagenet", needs_top=False).path == path
