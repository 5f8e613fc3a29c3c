"""The estimate against the real thing, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from streamer.backbones import Output, get_backbone
from streamer.engines.ncnn_cost import ncnn_cost

_MEASURE = """
import sys
import numpy as np
from streamer.backbones import *
from streamer.engines.ncnn_engine import NcnnEngine

def peak():  # not getrusage: a child starts with the peak of the process that it was forked from
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith("VmHWM")).split()[1])

start = peak()
name, layer, mode, workers = *sys.argv[1:4], int(sys.argv[4])
backbone, outputs = get_backbone(name), [Output(layer)]
weights = RandomWeights(backbone, backbone.outputs_need_top(outputs))
options = {"batch_size": workers, "threads": 2, "mode": mode, "workers": workers}
with NcnnEngine(backbone, outputs, weights, **options) as engine:
    pixels = np.zeros((workers, *engine.input_size, 3), np.uint8)
    for _ in range(3):
        engine.extract(pixels)
    print(start, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="the figures are those of x86")
@pytest.mark.parametrize(
    ("name", "layer", "mode", "workers"),
    [
        ("vgg16", "block5_pool", "f43", 2),
        ("vgg16", "block5_pool", "f43_f23", 1),
        ("vgg16", "block5_pool", "lean", 1),
        ("vgg16", "block5_pool", "leaner", 1),
        ("vgg16", "block5_pool", "plain", 1),
        ("resnet50", "conv5_block3_out", "f43", 2),
        ("inception_v3", "mixed10", "f43", 1),
    ],
)
def test_estimate_is_near_and_hardly_ever_below(name: str, layer: str, mode: str, workers: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, name, layer, mode, str(workers)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    start, peak = map(int, done.stdout.split())
    cost = ncnn_cost(get_backbone(name), [Output(layer)], mode=mode, workers=workers, threads=2)
    estimate = start + cost.total_bytes(workers)
    assert 0.95 * peak <= estimate <= 1.15 * peak, (estimate / 2**20, peak / 2**20)


def test_mixed_precision_halves_the_dense_layers() -> None:
    vgg16, outputs = get_backbone("vgg16"), [Output("fc2")]
    full, mixed = (ncnn_cost(vgg16, outputs, precision=precision).base_bytes for precision in ("full", "mixed"))
    assert full - mixed == 4 * (25088 * 4096 + 4096 * 4096) / 2


def test_unpooled_maps_and_large_inputs_cost_more() -> None:
    vgg16 = get_backbone("vgg16")
    pooled = ncnn_cost(vgg16, [Output("block5_pool", "gem")]).base_bytes
    assert ncnn_cost(vgg16, [Output("block5_pool"), Output("block2_conv1")]).base_bytes > pooled + 2 * 2**20
    assert ncnn_cost(vgg16, [Output("block5_pool")], (448, 448)).base_bytes > 1.5 * pooled
