"""Our written-down networks against the ones that Keras builds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.backbones import BACKBONES, get_backbone
from streamer.backbones.graph_text import GRAPHS, graph_text, parse_graph

APPLICATIONS = {"vgg16": "VGG16", "resnet50": "ResNet50", "inception_v3": "InceptionV3"}


def _application(name: str, top: bool, size: tuple[int, int]):  # type: ignore[no-untyped-def]
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    keras.utils.clear_session()  # so that the unnamed layers are numbered from nothing
    return getattr(keras.applications, APPLICATIONS[name])(weights=None, include_top=top, input_shape=(*size, 3))


@pytest.mark.parametrize("top", [True, False], ids=["top", "no top"])
@pytest.mark.parametrize("name", list(APPLICATIONS))
def test_layout_and_shapes_are_those_of_keras(name: str, top: bool) -> None:
    backbone = get_backbone(name)
    size = backbone.default_input_size if top else (96, 75)
    model = _application(name, top, size)

    layout = [(layer.name, list(layer.weights)) for layer in backbone.weight_layout(top=top)]
    assert layout == [
        (layer.name, [(weight.name, tuple(weight.shape)) for weight in layer.weights])
        for layer in model.layers
        if layer.weights
    ]

    graph = backbone.graph if top else backbone.graph.until({backbone.last_map})
    assert [node.name for node in graph.nodes][1:] == [layer.name for layer in model.layers][1:]
    shapes = graph.shapes(size)
    for layer in model.layers[1:]:
        assert shapes[layer.name] == tuple(layer.output.shape[1:]), layer.name


@pytest.mark.parametrize("name", list(BACKBONES))
def test_graph_files_are_what_keras_exports_today(name: str) -> None:
    pytest.importorskip("keras", reason="Keras is not installed")
    path = Path(__file__).resolve().parents[2] / "scripts" / "export_graphs.py"
    spec = importlib.util.spec_from_file_location("export_graphs", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.exported(name) == (GRAPHS / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(BACKBONES))
def test_text_and_graph_are_two_forms_of_one_thing(name: str) -> None:
    graph = get_backbone(name).graph
    assert parse_graph(graph_text(graph)) == graph


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a = convolution(input)", "line 3 describes no layer"),
        ("a = conv(inptu) channels=4", "line 3 reads 'inptu', which is not above it"),
        ("a = conv(input) chanels=4", "line 3 has an attribute that makes no sense \\('chanels'\\)"),
        ("a = conv(input) window=3", "line 3 has an attribute that makes no sense"),
        ("a = conv(input) bias=no", "line 3 has an attribute that makes no sense"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_graph(f"# a comment\ninput = input()\n{line}\n")


def test_only_explicit_names_are_held_to_mean_something() -> None:
    assert not any(
        layer.auto_named for name in ("vgg16", "resnet50") for layer in get_backbone(name).weight_layout(top=True)
    )
    named = [layer.name for layer in get_backbone("inception_v3").weight_layout(top=True) if not layer.auto_named]
    assert named == ["predictions"]


def test_the_part_that_a_layer_needs() -> None:
    graph = get_backbone("resnet50").graph.until({"conv2_block1_out"})
    names = {node.name for node in graph.nodes}
    assert "conv2_block1_0_conv" in names  # the shortcut
    assert "conv2_block2_1_conv" not in names
    assert graph.nodes[-1].name == "conv2_block1_out"


def test_backbones_load_no_deep_learning_library() -> None:
    code = (
        "import sys; from streamer.backbones import *; from streamer.engines import *;"
        "import streamer.engines.keras_engine;"
        "[resolve_weights(b, 'random', True).sha256 for b in BACKBONES.values()];"
        "print([m for m in ('keras', 'tensorflow', 'jax', 'torch', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_layer_a_user_may_name_exists() -> None:
    for backbone in BACKBONES.values():
        names = [node.name for node in backbone.graph.nodes]
        assert [name for name in names if name in backbone.layers] == list(backbone.layers)
