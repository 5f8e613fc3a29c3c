"""The products of a scan on Keras, run on the CPU, against numpy."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from streamer.engines import products, products_on
from streamer.engines.products import KerasProducts
from streamer.errors import EngineUnavailableError
from streamer.index import Metric, exact_candidates
from tests.index.test_exact import cut, features, settled

KERAS = importlib.util.find_spec("keras") is not None


def without_keras(*_: Any) -> Any:
    raise EngineUnavailableError("Keras is not installed")


@pytest.fixture(params=["keras", "numpy"])
def top(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> KerasProducts:
    """Keras on the CPU, and what does its work where it cannot be loaded."""
    if request.param == "numpy":
        monkeypatch.setattr(products, "start_keras", without_keras)
    elif not KERAS:
        pytest.skip("Keras is not installed")
    return KerasProducts("cpu", required=request.param == "keras")


@pytest.mark.parametrize("k", [1, 5, 99, 100])
def test_the_best_rows_of_a_block_are_those_of_numpy(top: KerasProducts, k: int) -> None:
    queries, rows = features(7, 32, seed=1), features(100, 32)
    offsets = np.random.default_rng(2).uniform(0, 900, 100).astype(np.float32)
    places, scores = top(queries, rows, offsets, k)
    assert (places.shape, places.dtype, scores.shape, scores.dtype) == ((7, k), np.int64, (7, k), np.float32)
    products_ = queries.astype(np.float64) @ rows.T.astype(np.float64) - offsets
    expected = np.argsort(-products_, axis=1)[:, :k]
    np.testing.assert_array_equal(np.sort(places, axis=1), np.sort(expected, axis=1))
    np.testing.assert_allclose(scores, np.take_along_axis(products_, places, axis=1), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("block", [3, 64, 500])
@pytest.mark.parametrize("k", [1, 10, 600])
def test_a_scan_with_it_finds_what_a_scan_with_numpy_finds(
    top: KerasProducts, metric: Metric, block: int, k: int
) -> None:
    rows, queries = features(500, 12), features(9, 12, seed=9)
    rows[100:140] = rows[7]
    with_it = exact_candidates(queries, cut(rows, block), k, metric, margin=64, top=top)
    with_numpy = exact_candidates(queries, cut(rows, block), k, metric, margin=64)
    assert not with_it.undecided.any()
    assert settled(queries, rows, with_it.ids, k, metric) == settled(queries, rows, with_numpy.ids, k, metric)


def test_a_gpu_without_keras_is_an_error_only_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(products, "start_keras", without_keras)
    arguments = (features(2, 4), features(6, 4, seed=1), np.zeros(6, np.float32), 2)
    with pytest.raises(EngineUnavailableError, match="Keras is not installed"):
        KerasProducts("gpu")(*arguments)
    top = KerasProducts("gpu", required=False)
    for _ in range(3):
        top(*arguments)
    assert caplog.text.count("Keras is not installed; the CPU compares the rows") == 1


def test_only_a_gpu_takes_the_products_from_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, device, expected in ((0, "auto", None), (1, "cpu", None), (1, "auto", False), (1, "gpu", True)):
        monkeypatch.setattr("streamer.engines.devices.gpu_count", lambda count=count: count)
        top = products_on(device)
        assert (top and top._required) == expected
    monkeypatch.setattr("streamer.engines.devices.gpu_count", lambda: 0)
    with pytest.raises(EngineUnavailableError, match="device: gpu, but no CUDA GPU is visible"):
        products_on("gpu")


def test_keras_is_loaded_when_it_is_first_needed() -> None:
    """A search by way of the index must not wait for TensorFlow."""
    code = (
        "import sys\n"
        "from streamer.engines import devices, products_on\n"
        "devices.gpu_count = lambda: 1\n"
        "assert products_on('auto') is not None\n"
        "print(sorted({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
