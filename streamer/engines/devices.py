"""Finding GPUs without loading TensorFlow, which takes half a gigabyte and several seconds."""

from __future__ import annotations

import ctypes
import os
import sys

from streamer.errors import EngineUnavailableError

__all__ = ["choose_device", "gpu_count", "gpu_memory_bytes"]


def gpu_count() -> int:
    """Return the number of CUDA GPUs that a process started now would see. Never raises.

    The driver itself is asked, and it heeds ``CUDA_VISIBLE_DEVICES``. macOS has no CUDA.
    """
    driver = _driver()
    count = ctypes.c_int(0)
    try:
        return count.value if driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
    except AttributeError:
        return 0


def _driver() -> ctypes.CDLL | None:
    """Load and start the CUDA driver's own library, which is there if and only if a driver is."""
    if sys.platform == "darwin" or _all_hidden():
        return None
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return driver if driver.cuInit(0) == 0 else None
    except (OSError, AttributeError):
        return None


def _all_hidden() -> bool:
    """Say whether ``CUDA_VISIBLE_DEVICES`` hides every GPU: then the driver need not be loaded at all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip() in ("", "-1", "NoDevFiles")


def choose_device(device: str) -> str:
    """Return where to run: ``"cpu"`` or ``"gpu"``.

    Parameters
    ----------
    device : {"auto", "cpu", "gpu"}
        ``auto`` takes a GPU if there is one.

    Raises
    ------
    EngineUnavailableError
        If a GPU is asked for and there is none.
    """
    if device == "cpu":
        return "cpu"
    found = gpu_count()
    if device == "gpu" and not found:
        hidden = " (CUDA_VISIBLE_DEVICES hides them all)" if _all_hidden() else ""
        raise EngineUnavailableError(
            f"device: gpu, but no CUDA GPU is visible{hidden}: check that `nvidia-smi` lists one, or set device: cpu "
            "(--device cpu, for a question to a store)"
        )
    return "gpu" if found else "cpu"


def gpu_memory_bytes(number: int = 0) -> int:
    """Return the memory of a visible GPU in bytes; 0 if it cannot be told. Never raises."""
    driver = _driver()
    device, size = ctypes.c_int(0), ctypes.c_size_t(0)
    try:
        if driver is None or driver.cuDeviceGet(ctypes.byref(device), number) != 0:
            return 0
        return size.value if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) == 0 else 0
    except AttributeError:
        return 0
