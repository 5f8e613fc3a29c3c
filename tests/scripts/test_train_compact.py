"""The compact net can be made again: from trained weights to the byte, and by training from photos."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

from streamer.backbones import fetch_weights, get_backbone, resolve_weights
from streamer.backbones.graph_text import graph_text
from streamer.engines import open_engine
from streamer.images.drawn import draw_pictures
from tests.conftest import SHARED_DATA

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
BASELINE = SHARED_DATA.parent / "weights" / "vgg16_compact_baseline.npz"
SHIPPED = fetch_weights("vgg16_compact")

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture
def compact_export(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import compact_export

    return compact_export


@pytest.fixture
def train_compact(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import train_compact

    return train_compact


def shipped_arrays() -> dict[str, np.ndarray]:
    with h5py.File(SHIPPED) as file:
        return {
            f"{layer}/{weight.split(':')[0]}": values[...]
            for layer, group in file.items()
            for weight, values in group[layer].items()
        }


def assert_shipped(folder: Path) -> None:
    assert (folder / SHIPPED.name).read_bytes() == SHIPPED.read_bytes()
    assert (folder / "vgg16_compact.txt").read_text() == graph_text(get_backbone("vgg16_compact").graph)


def test_the_shipped_weights_are_exported_to_the_byte(compact_export: ModuleType, tmp_path: Path) -> None:
    record = json.loads((SCRIPTS / "compact_baseline.json").read_text(encoding="utf-8"))
    compact_export.export(shipped_arrays(), record, tmp_path)
    assert_shipped(tmp_path)
    assert (tmp_path / "CARD.md").read_bytes() == SHIPPED.with_name("CARD.md").read_bytes()


@pytest.mark.skipif(not BASELINE.exists(), reason=f"needs the trained weights as {BASELINE}")
def test_they_are_the_ones_that_were_trained(train_compact: ModuleType, tmp_path: Path) -> None:
    record = SCRIPTS / "compact_baseline.json"
    assert train_compact.main(["export", str(BASELINE), str(record), "--output", str(tmp_path)]) == 0
    assert_shipped(tmp_path)


def test_weights_of_another_network_are_refused(compact_export: ModuleType, tmp_path: Path) -> None:
    arrays = shipped_arrays()
    arrays["block3_conv2/kernel"] = arrays["block3_conv2/kernel"][..., :90]
    with pytest.raises(ValueError, match=r"block3_conv2/kernel is \(3, 3, 96, 90\), and should be \(3, 3, 96, 96\)"):
        compact_export.export(arrays, {}, tmp_path)
    arrays = shipped_arrays() | {"block1_conv1/bias": np.full(24, np.nan, np.float32)}
    with pytest.raises(ValueError, match="block1_conv1/bias holds what is no number"):
        compact_export.export(arrays, {}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_widths_have_a_graph(compact_export: ModuleType) -> None:
    assert compact_export.compact_graph() == get_backbone("vgg16_compact").graph
    wide = compact_export.compact_graph(Fraction(1, 2))
    assert [node.channels for node in wide.nodes if node.op == "conv"][::4] == [32, 128, 256, 256]
    with pytest.raises(ValueError, match="sixty-fourths"):
        compact_export.compact_graph(Fraction(1, 3))


def test_folding_is_the_two_layers_in_one(compact_export: ModuleType) -> None:
    random = np.random.default_rng(0)
    kernel = random.normal(size=(1, 1, 5, 4)).astype(np.float32)
    gamma, beta, mean = random.normal(size=(3, 4)).astype(np.float32)
    variance = random.uniform(0.1, 2, 4).astype(np.float32)
    pixels = random.normal(size=(20, 5))
    expected = (pixels @ kernel[0, 0] - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    folded, bias = compact_export.folded(kernel, gamma, beta, mean, variance, 1e-5)
    np.testing.assert_allclose(pixels @ folded[0, 0] + bias, expected, rtol=1e-5, atol=1e-5)


def test_the_schedule(train_compact: ModuleType) -> None:
    recipe = train_compact.Recipe()
    assert recipe.rate(0.1) == pytest.approx(0.12) and recipe.rate(1) == pytest.approx(1e-4)
    assert recipe.rate(0.05) == pytest.approx(0.06) and 0 < recipe.rate(0) < 0.01
    assert [recipe.size(share) for share in (0, 0.34, 0.36, 0.74, 0.76, 1)] == [32, 32, 48, 48, 64, 64]


def test_batches_go_on_where_they_were(train_compact: ModuleType) -> None:
    places = np.arange(100, 150)
    whole = train_compact.batches(places, 8, 3, 0)
    first = [next(whole) for _ in range(20)]
    assert len(set(np.concatenate(first[:6]).tolist())) == 48  # an epoch repeats nothing
    resumed = train_compact.batches(places, 8, 3, 9)
    for batch in first[9:]:
        np.testing.assert_array_equal(next(resumed), batch)


def test_photos_are_decoded_once_and_split_by_label(train_compact: ModuleType, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "data", classes=3, per_class=21, side=48, seed=1)
    odd = tmp_path / "data" / "deep" / "images"
    odd.mkdir(parents=True)
    for path in sorted((tmp_path / "data").rglob("*.jpg"))[:2]:
        path.rename(odd / path.name)
    (tmp_path / "out").mkdir()
    photos = train_compact.load_photos(tmp_path / "data", tmp_path / "out")
    assert photos.pixels.shape == (63, 64, 64, 3) and len(photos.names) == 4 and "deep" in photos.names
    trained, held = photos.split()
    assert sorted([*trained, *held]) == list(range(63))
    assert sorted(photos.labels[held]) == [0, 1, 2, 3]
    again = train_compact.load_photos(tmp_path / "gone", tmp_path / "out")
    np.testing.assert_array_equal(again.pixels, photos.pixels)


@needs_torch
def test_training_is_interrupted_goes_on_and_gives_a_network(tmp_path: Path, train_compact: ModuleType) -> None:
    draw_pictures(tmp_path / "data", classes=3, per_class=60, side=64, seed=1)
    command = [sys.executable, str(SCRIPTS / "train_compact.py"), "train", str(tmp_path / "data"), "--minutes", "0.25"]
    command += ["--output", str(tmp_path / "out"), "--width", "1/8", "--device", "cpu"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(12)
        process.terminate()
        assert process.wait(60) == 130
    assert (tmp_path / "out" / "checkpoint.pt").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "going on from" in done.stdout, done.stderr
    other = subprocess.run([*command, "--seed", "1"], capture_output=True, text=True, timeout=300)
    assert other.returncode == 1 and "was made with seed 0, not 1" in other.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert float(record["figures"][0]["rows"][0][1]) > 0.5  # chance is a third
    assert "3 labels" in (tmp_path / "out" / "CARD.md").read_text()


@needs_torch
def test_the_folded_network_is_the_trained_one(
    train_compact: ModuleType, compact_export: ModuleType, tmp_path: Path
) -> None:
    import torch

    torch.manual_seed(0)
    model = train_compact.build(Fraction(3, 8), 5)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        for _ in range(5):  # moving averages that mean something
            model(train_compact.preprocessed(torch.from_numpy(pixels)))
        expected = model.eval()[0](train_compact.preprocessed(torch.from_numpy(pixels))).permute(0, 2, 3, 1).numpy()
    record = {"data": "none", "recipe": {}, "figures": [], "limits": []}
    arrays = train_compact.folded_weights(model)
    path = compact_export.export(arrays, record, tmp_path)
    backbone = get_backbone("vgg16_compact")
    from streamer.backbones import Output

    weights = resolve_weights(backbone, str(path), needs_top=False)
    with open_engine("ncnn", backbone, [Output("block5_pool")], weights, batch_size=2, input_size=(64, 64)) as engine:
        found = engine.extract(pixels)["block5_pool"]
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()  # float16 kernels
