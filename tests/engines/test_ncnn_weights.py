"""Weights on their way into ncnn's memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from streamer.backbones import Output, get_backbone, resolve_weights
from streamer.backbones.weights import LayerArrays
from streamer.engines.ncnn_engine import NcnnEngine
from streamer.errors import StreamerError, WeightsError
from tests.engines.ncnn_cases import ODD, DrawnWeights


class _Changed(DrawnWeights):
    """Weights in which one layer is not what it was."""

    def layers(self) -> Iterator[LayerArrays]:
        for layer in super().layers():
            yield self.changed(layer) if layer.name == "e" else layer

    def changed(self, layer: LayerArrays) -> LayerArrays:
        raise NotImplementedError


class _Damaged(_Changed):
    def changed(self, layer: LayerArrays) -> LayerArrays:
        def read(name: str, index: Any = ...) -> Any:
            raise WeightsError("w.h5 cannot be read as HDF5")

        return layer._replace(read=read)


class _Shorter(_Changed):
    def changed(self, layer: LayerArrays) -> LayerArrays:
        return layer._replace(read=lambda name, index=...: layer.read(name, index)[..., :-1])


def test_a_fault_while_ncnn_reads_comes_out_as_it_went_in() -> None:
    """An exception that passes through ncnn ends the process."""
    with pytest.raises(WeightsError, match=r"w\.h5 cannot be read"):
        NcnnEngine(ODD, [Output("fc")], _Damaged(ODD, True), batch_size=1)


def test_another_number_of_weights_than_ncnn_asks_for_is_refused() -> None:
    with pytest.raises(StreamerError, match=r"ncnn asks for \d+ bytes as the kernel of e, which has \d+"):
        NcnnEngine(ODD, [Output("fc")], _Shorter(ODD, True), batch_size=1)


_LOAD = """
import sys
import numpy as np, h5py
from pathlib import Path
from streamer.backbones import *
from streamer.engines.ncnn_engine import NcnnEngine

def status(key):
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(key)).split()[1]) / 1024

backbone = get_backbone("vgg16")
weights = resolve_weights(backbone, sys.argv[1], True)
before = status("VmRSS")
with NcnnEngine(backbone, [Output("fc1")], weights, batch_size=1, threads=1, mode="plain", precision=sys.argv[2]):
    print(status("VmRSS") - before, status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("precision", ["full", "mixed"])
def test_fc1_is_never_in_memory_twice(tmp_path: Path, precision: str) -> None:
    """411 MB in the file: ncnn packs it slice by slice, and with float16 it is never there as float32."""
    path = tmp_path / "vgg16.h5"
    with h5py.File(path, "w") as file:  # nothing is written, so it reads as zeros and takes no room
        layout = get_backbone("vgg16").weight_layout(top=True)
        file.attrs["layer_names"] = [layer.name.encode() for layer in layout]
        for layer in layout:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [name.encode() for name, _ in layer.weights]
            for name, shape in layer.weights:
                group.create_dataset(name, shape, "f4")
    assert resolve_weights(get_backbone("vgg16"), str(path), True)
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path), precision], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    loaded, peak = map(float, done.stdout.split())
    fc1 = 4 * 25088 * 4096 / 2**20 / (2 if precision == "mixed" else 1)
    assert fc1 < loaded < fc1 + 100
    assert peak < loaded + 110


def test_normalisations_are_folded_in_the_right_order() -> None:
    """Spot check without Keras: one pixel of the first layer by hand."""
    weights = DrawnWeights(ODD, False)
    arrays = {layer.name: {name: layer.read(name) for name, _ in layer.weights} for layer in weights.layers()}
    image = np.random.default_rng(0).integers(0, 256, (1, 22, 17, 3), dtype=np.uint8)
    with NcnnEngine(ODD, [Output("a_relu")], weights, batch_size=1) as engine:
        found = engine.extract(image)["a_relu"][0, 3, 4]
    x = image[0, 6:9, 8:11].astype(np.float64) / 127.5 - 1  # SAME with stride 2 on 22 rows pads below only
    assert engine.outputs["a_relu"] == (11, 9, 6)
    x = image[0, 6:9, 7:10].astype(np.float64) / 127.5 - 1  # and on 17 columns on both sides
    value = np.einsum("hwi,hwio->o", x, arrays["a"]["kernel"]) + arrays["a"]["bias"]
    norm = arrays["a_norm"]
    value = (value - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3) + norm["beta"]
    np.testing.assert_allclose(found, np.maximum(value, 0), rtol=1e-5, atol=1e-5)
