"""The benchmark scripts run, and their figures are of what they say."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from streamer.engines import Engine
from streamer.images import FolderSource
from streamer.records import ImageRef
from tests.faults.shim import missing
from tests.images.hostile import photo
from tests.serving.browser import missing as no_browser

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def bench_gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_gpu

    return bench_gpu


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    for number in range(3):
        photo(40, 30, number).save(tmp_path / f"{number}.jpg")
    return [ref for ref in FolderSource(tmp_path) if isinstance(ref, ImageRef)]


class _Slow(Engine):
    """The mean colour, at no more than 100 images a second; a busy machine may make it less."""

    name, device, batch_size, input_size = "slow", "cpu", 4, (8, 8)
    outputs = {"mean": (3,)}  # noqa: RUF012

    def _extract(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(0.01 * len(pixels))
        return {"mean": pixels.mean(axis=(1, 2), dtype=np.float32)}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_rates_are_those_of_the_network(bench_gpu: ModuleType, refs: list[ImageRef], device: str) -> None:
    engine = _Slow()
    engine.device = device
    assert 0 < bench_gpu.network_alone(engine, 20) < 105
    assert 0 < bench_gpu.whole(engine, refs, 20, 2, 0) < 105
    assert 0 < bench_gpu.whole(engine, refs, 20, 0, 1) < 105


def test_the_lowest_cosine_is_that_of_the_worst_row(bench_gpu: ModuleType, refs: list[ImageRef]) -> None:
    features = bench_gpu.features_of(_Slow(), refs)
    assert features.shape == (3, 3)
    assert bench_gpu.lowest_cosine(features, 2 * features) == pytest.approx(1)
    turned = features.copy()
    turned[1] = [-features[1, 1], features[1, 0], 0]
    assert bench_gpu.lowest_cosine(features, turned) == pytest.approx(0, abs=1e-9)


def test_bench_gpu_writes_its_table(
    bench_gpu: ModuleType,
    tmp_path: Path,
    refs: list[ImageRef],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "none")
    monkeypatch.setattr(bench_gpu, "keras_engine", lambda *_: _Slow())
    monkeypatch.setattr(bench_gpu, "cpu_rate_in_a_process", lambda *_: {"engine": "slow", "images_per_second": 10.0})
    options = ["--device", "cpu", "--images", "12", "--batch", "4", "--processes", "1", "--threads", "2"]
    command = ["bench_gpu", "--photos", str(Path(refs[0].path).parent), *options, "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    bench_gpu.main()
    (written,) = (tmp_path / "out").iterdir()
    data: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    assert [(row["dtype"], row["decoding_by"]) for row in data["rows"]] == [
        (dtype, way) for dtype in ("float32", "bfloat16") for way in ("threads", "processes")
    ]
    for row in data["rows"]:
        rates = {part: row[f"{part}_images_per_second"] for part in ("network", "decoding")}
        assert row["bound_by"] == min(rates, key=rates.__getitem__)
        assert row["of_bound"] == pytest.approx(row["whole_images_per_second"] / min(rates.values()), abs=0.02)
        assert row["lowest_cosine"] == 1
    best = max(row["whole_images_per_second"] for row in data["rows"])
    assert data["cpu"]["speed_ratio"] == pytest.approx(best / 10, abs=0.01)
    assert "bound by" in capsys.readouterr().out


def test_bench_decode_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "bench_decode.py"), "--workers", "1", "--images", "40", "--rounds", "1"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "bench_decode.json").read_text(encoding="utf-8"))
    assert [(row["by"], row["workers"]) for row in data["rows"]] == [("threads", 1), ("processes", 1)]
    for row in data["rows"]:
        ratio = row["large_images_per_second"] / row["small_images_per_second"]
        assert row["large_to_small"] == pytest.approx(ratio, abs=0.01)
    assert all(milliseconds > 0 for milliseconds in data["large_ms"].values())
    assert "large/small" in done.stdout


def test_bench_reading_runs(tmp_path: Path) -> None:
    options = ["--mib", "12", "--budget", "16MiB", "--rounds", "1", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "bench_reading.py"), *options, "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "bench_reading.json").read_text(encoding="utf-8"))["results"]
    warm = [row for row in results if row["cache"] == "warm"]
    assert [row["rows"] for row in warm] == ["pooled", "conv map"]
    for row in results:
        assert row["epoch_to_read"] == pytest.approx(row["epoch_mb_per_second"] / row["read_mb_per_second"], abs=0.02)
    assert "epoch / read()" in done.stdout


def test_bench_storage_runs(tmp_path: Path) -> None:
    options = ["--images", "8", "--drawn", "8", "--apart", "5", "--rounds", "1", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "bench_storage.py"), *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "bench_storage.json").read_text(encoding="utf-8"))
    assert [each["layer"] for each in tables] == ["block5_conv3", "block5_pool"] * 2
    assert tables[2]["shape"] == [14, 14, 512] and tables[2]["zeros"] == pytest.approx(0.85, abs=0.01)
    share = {(row["dtype"], row["compression"]): row["share"] for row in tables[2]["rows"]}
    assert share["float32", "none"] == pytest.approx(1, abs=0.05)
    assert share["float16", "none"] == pytest.approx(0.5, abs=0.05)
    assert max(share["float32", kind] for kind in ("gzip", "lzf", "blosc")) < 0.4


@pytest.mark.slow
@pytest.mark.skipif(bool(no_browser()), reason=no_browser() or "-")
def test_bench_page_runs(tmp_path: Path) -> None:
    options = ["--images", "96", "--rounds", "1", "--queries", "1", "--frames", "10", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "bench_page.py"), *options], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "bench_page.json").read_text(encoding="utf-8"))
    rows = {row["what"]: row for row in data["rows"]}
    assert data["images"] == 96 and rows["map_zoom_frame"]["measured"] == rows["map_pan_frame"]["measured"] == 10
    assert 0 < rows["search_request"]["median_ms"] < rows["search_seen"]["median_ms"]
    assert 0 < rows["first_paint"]["median_ms"] < rows["first_photos"]["median_ms"]
    assert rows["map_paint"]["median_ms"] > 0 < rows["map_arcs"]["median_ms"]
    assert "median ms" in done.stdout


@pytest.mark.slow
def test_bench_nightly_runs(tmp_path: Path) -> None:
    options = ["--rows", "300", "--nights", "1", "--changes", "9", "4", "3", "2", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "bench_nightly.py"), *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    index, idle, night = json.loads((tmp_path / "bench_nightly.json").read_text(encoding="utf-8"))["nights"]
    assert index["images"]["unchanged"] == idle["images"]["unchanged"] == 300
    assert (night["images"]["added"], night["images"]["removed"]) == (9, 2)
    assert night["images"]["updated"] + night["images"]["moved"] >= 5
    assert (index["generation"], night["generation"]) == (1, 1)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_torture_runs() -> None:
    command = [sys.executable, str(SCRIPTS / "torture.py"), "--parts", "3", "--minutes", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["whole runs"] >= 2
