"""The first layers in bands of rows against the same layers on the whole map."""

from __future__ import annotations

import pytest

from streamer.backbones import Backbone, Output, get_backbone
from streamer.backbones.graph_text import parse_graph
from streamer.engines import ncnn_bands
from streamer.engines.ncnn_bands import banded_head, bands
from streamer.engines.ncnn_engine import NcnnEngine
from tests.engines.ncnn_cases import DrawnWeights, assert_close, pixels

_GRAPH = """
input = input()
a = conv(input) channels=8 window=3x3 stride={stride} padding={padding} activation=relu
b = conv(a) channels=12 window=5x2 padding=same
c = max_pool(b) window=2x2 stride=2
d = conv(c) channels=16 window=3x3 padding={padding} activation=relu
e = max_pool(d) window=3x3 stride=2 padding=same
last_map = conv(e) channels=10 window=3x3 padding=same
"""


def _network(stride: int, padding: str) -> Backbone:
    text = _GRAPH.format(stride=stride, padding=padding)
    return Backbone(
        "net", (45, 38), 20, "caffe", ("b", "last_map"), "last_map", Output("last_map"), lambda: parse_graph(text)
    )


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch, stride: int, padding: str, count: int) -> None:
    backbone, size = _network(stride, padding), (45, 38)
    weights, outputs = DrawnWeights(backbone, False), [Output("last_map")]
    with NcnnEngine(backbone, outputs, weights, batch_size=2, input_size=size, threads=1) as engine:
        whole = engine.extract(pixels(2, size))
    monkeypatch.setattr(ncnn_bands, "_LARGE_MAP", 0)
    monkeypatch.setattr(ncnn_bands, "BANDS", count)
    with NcnnEngine(backbone, outputs, weights, batch_size=2, input_size=size, threads=1) as engine:
        assert_close(engine.extract(pixels(2, size)), whole, tolerance=1e-5)


def test_a_wanted_layer_is_not_cut_up() -> None:
    graph = get_backbone("vgg16").graph
    shapes = graph.shapes((224, 224))
    assert [node.name for node in banded_head(graph.nodes, shapes, {"block5_pool"})] == [
        "block1_conv1",
        "block1_conv2",
        "block1_pool",
    ]
    assert banded_head(graph.nodes, shapes, {"block1_conv2"}) == []


def test_small_maps_are_not_worth_it() -> None:
    graph = get_backbone("vgg16").graph
    assert banded_head(graph.nodes, graph.shapes((96, 96)), {"block5_pool"}) == []


def test_bands_cover_the_map_and_reach_over_by_what_windows_need() -> None:
    graph = get_backbone("vgg16").graph
    shapes = graph.shapes((224, 224))
    upper, lower = bands(banded_head(graph.nodes, shapes, {"block5_pool"}), shapes)
    assert upper["block1_pool"].rows == (0, 56) and lower["block1_pool"].rows == (56, 112)
    assert upper["block1_conv1"] == ((0, 113), 1, 0) and lower["block1_conv1"] == ((111, 224), 0, 1)
    assert upper["input"].rows == (0, 114) and lower["input"].rows == (110, 224)
