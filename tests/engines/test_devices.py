from __future__ import annotations

import ctypes
import sys

import pytest

from streamer.engines import choose_device, devices, gpu_count
from streamer.errors import EngineUnavailableError


class _Driver:
    """Stands in for the CUDA driver's library on machines that have none."""

    def __init__(self, count: int, status: int = 0) -> None:
        self.count, self.status = count, status

    def cuInit(self, flags: int) -> int:  # noqa: N802 - CUDA's own name
        return self.status

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        count._obj.value = self.count  # type: ignore[attr-defined]
        return 0


def _install(monkeypatch: pytest.MonkeyPatch, driver: _Driver | None) -> None:
    def load(name: str) -> object:
        if driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_counts_what_the_driver_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _Driver(2))
    assert gpu_count() == 2
    assert choose_device("auto") == choose_device("gpu") == "gpu"
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("driver", [None, _Driver(0), _Driver(2, status=100), object()])
def test_no_usable_driver(monkeypatch: pytest.MonkeyPatch, driver: _Driver | None) -> None:
    _install(monkeypatch, driver)
    assert gpu_count() == devices.gpu_memory_bytes() == 0
    assert choose_device("auto") == "cpu"
    with pytest.raises(EngineUnavailableError, match=r"no CUDA GPU is visible:.*nvidia-smi.*device: cpu"):
        choose_device("gpu")


@pytest.mark.parametrize("hidden", ["", "-1", "-1,0"])
def test_hidden_gpus_are_not_counted(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    _install(monkeypatch, _Driver(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert gpu_count() == 0
    with pytest.raises(EngineUnavailableError, match="CUDA_VISIBLE_DEVICES hides"):
        choose_device("gpu")


def test_macos_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _Driver(1))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert gpu_count() == 0
