"""When ncnn runs, when Keras does, and what is said about it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from streamer.backbones import Output, get_backbone
from streamer.engines import choose_engine, engine_modes, open_engine, registry
from streamer.engines.ncnn_engine import NcnnEngine
from streamer.engines.ncnn_modes import MODES
from streamer.errors import ConfigError, EngineUnavailableError
from tests.engines.ncnn_cases import ODD, DrawnWeights, pixels


@pytest.fixture
def _no_ncnn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "ncnn", None)  # makes `import ncnn` fail
    registry._cpu_engine.cache_clear()
    yield
    registry._cpu_engine.cache_clear()


def test_auto_is_ncnn_on_the_cpu_and_keras_on_a_gpu() -> None:
    assert choose_engine("auto") == choose_engine("ncnn") == "ncnn"
    assert choose_engine("auto", "gpu") == choose_engine("keras", "cpu") == "keras"
    with pytest.raises(EngineUnavailableError, match="set device: cpu, or engine: keras"):
        choose_engine("ncnn", "gpu")
    with pytest.raises(ConfigError, match="unknown engine 'nccn'; take one of auto, ncnn, keras"):
        choose_engine("nccn")


@pytest.mark.usefixtures("_no_ncnn")
def test_without_ncnn_keras_runs_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose_engine("auto") == choose_engine("auto") == "keras"
    (record,) = caplog.records
    assert record.getMessage().startswith("Keras runs the network, slower and in more memory than ncnn could: ")
    assert [mode.name for mode in engine_modes("auto", get_backbone("vgg16"), [Output("block5_pool")])] == ["keras"]


@pytest.mark.usefixtures("_no_ncnn")
def test_without_ncnn_who_asks_for_it_is_told_what_to_do() -> None:
    with pytest.raises(EngineUnavailableError, match=r"(?s)engine: ncnn, but .*pip install ncnn.*engine: keras"):
        open_engine("ncnn", ODD, [Output("fc")], DrawnWeights(ODD, True), batch_size=1)


def test_modes_are_listed_fastest_first() -> None:
    modes = engine_modes("auto", get_backbone("vgg16"), [Output("block5_pool")], threads=2)
    assert [(mode.name, mode.workers) for mode in modes] == [
        *(("f43", 2), ("f43", 1), ("f43_f23", 2), ("f43_f23", 1)),
        *(("lean", 2), ("lean", 1), ("leaner", 2), ("leaner", 1), ("plain", 2), ("plain", 1)),
    ]
    for name in MODES:
        two, one = (mode.cost.base_bytes for mode in modes if mode.name == name)
        assert two > one
    alone = [mode.cost.base_bytes for mode in modes if mode.workers == 1]
    assert alone == sorted(alone, reverse=True)


def test_the_mode_that_was_chosen_is_the_one_that_runs() -> None:
    modes = engine_modes("ncnn", ODD, [Output("fc")], threads=4)
    weights, images = DrawnWeights(ODD, True), pixels(4, (22, 17))
    for mode in modes[:: len(modes) - 1]:
        with open_engine("ncnn", ODD, [Output("fc")], weights, batch_size=4, threads=4, mode=mode) as engine:
            assert isinstance(engine, NcnnEngine)
            assert (engine.mode, engine.workers) == (mode.name, mode.workers)
            assert engine.extract(images)["fc"].shape == (4, 30)


def test_never_more_workers_than_images() -> None:
    with open_engine("ncnn", ODD, [Output("fc")], DrawnWeights(ODD, True), batch_size=1, threads=4) as engine:
        assert isinstance(engine, NcnnEngine)
        assert engine.workers == 1


def test_first_feature_comes_soon_and_without_the_heavy_libraries() -> None:
    """The goal is 3 seconds from the start of the process. Processor time, so that a busy machine does not matter."""
    code = (
        "import sys, time, numpy as np; from streamer.backbones import *; from streamer.engines import open_engine;"
        "backbone = get_backbone('vgg16');"
        "weights = RandomWeights(backbone, False);"
        "engine = open_engine('auto', backbone, [Output('block5_pool', 'gem')], weights, batch_size=1, threads=1);"
        "features = engine.extract(np.zeros((1, 224, 224, 3), np.uint8));"
        "heavy = ('keras', 'tensorflow', 'jax', 'torch', 'sklearn', 'scipy');"
        "print([name for name in heavy if name in sys.modules], time.process_time() < 3, engine.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[] True ncnn", done.stderr
