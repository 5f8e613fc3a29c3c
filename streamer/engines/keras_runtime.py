"""Starting Keras on one backend and one device: the few lines that differ between TensorFlow, JAX and PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from typing import Any

from streamer.engines.devices import gpu_memory_bytes
from streamer.errors import EngineUnavailableError

__all__ = ["start_keras"]

_log = logging.getLogger(__name__)

_BACKENDS = ("tensorflow", "jax", "torch")
_INSTALL = "pip install 'streamer[keras]'"


def start_keras(device: str, threads: int | None, gpu_memory_fraction: float | None) -> Any:
    """Import Keras, with its backend set up for `device`.

    What a backend reads once per process (the devices, the threads) stays as the first call set it.

    Parameters
    ----------
    device : {"cpu", "gpu"}
        With ``cpu``, every GPU is hidden from this process.
    threads : int or None
        Threads for one layer's arithmetic; without it, the backend's choice. JAX has no such setting.
    gpu_memory_fraction : float or None
        Share of the GPU's memory to take, in (0, 1]; without it, as much as is needed, when it is needed.

    Returns
    -------
    module
        ``keras``.

    Raises
    ------
    EngineUnavailableError
        If Keras or its backend is not installed, or the backend sees no GPU where one is asked for.
    """
    if "keras" not in sys.modules:
        _choose_backend()
    _set_environment(device, gpu_memory_fraction)
    try:
        import keras
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "its backend")
        raise EngineUnavailableError(f"Keras cannot be loaded with {backend}: {error}. Run: {_INSTALL}") from error
    set_up = {"tensorflow": _set_up_tensorflow, "jax": _set_up_jax, "torch": _set_up_torch}
    backend = keras.backend.backend()
    if backend not in set_up:
        raise EngineUnavailableError(f"KERAS_BACKEND={backend} is not supported; take one of {', '.join(_BACKENDS)}")
    if not set_up[backend](device, threads, gpu_memory_fraction):
        raise EngineUnavailableError(
            f"device: gpu, but {backend} sees no GPU: install its CUDA build (for TensorFlow on Linux, "
            "pip install 'streamer[gpu]'), check that `nvidia-smi` lists a GPU, or set device: cpu"
        )
    return keras


def _choose_backend() -> None:
    """Take TensorFlow unless the environment says otherwise or only another backend is installed."""
    if importlib.util.find_spec("keras") is None:
        raise EngineUnavailableError(f"the keras engine needs Keras, which is not installed. Run: {_INSTALL}")
    if "KERAS_BACKEND" in os.environ:
        return
    installed = [backend for backend in _BACKENDS if importlib.util.find_spec(backend) is not None]
    if not installed:
        raise EngineUnavailableError(f"Keras is installed, but none of {', '.join(_BACKENDS)} is. Run: {_INSTALL}")
    os.environ["KERAS_BACKEND"] = installed[0]


def _set_environment(device: str, gpu_memory_fraction: float | None) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its C++ chatter would drown the log
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if device == "cpu":
        # The one setting that all three backends heed before they open a driver.
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif gpu_memory_fraction is not None:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(gpu_memory_fraction)
    else:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _set_up_tensorflow(device: str, threads: int | None, gpu_memory_fraction: float | None) -> bool:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    try:
        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        for number, gpu in enumerate(gpus if device == "gpu" else ()):
            if gpu_memory_fraction is None:
                tf.config.experimental.set_memory_growth(gpu, True)
            else:
                limit = int(gpu_memory_fraction * gpu_memory_bytes(number) / 2**20)
                tf.config.set_logical_device_configuration(
                    gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=limit)]
                )
    except (RuntimeError, ValueError):
        # Settled when TensorFlow first ran in this process: by an earlier engine, or by the caller's own code.
        _log.debug("TensorFlow has run already; its threads and devices stay as they are", exc_info=True)
    # TF32 keeps 10 bits of the mantissa: 1e-3 relative, where engines may differ by 1e-4.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return device == "cpu" or bool(gpus)


def _set_up_jax(device: str, threads: int | None, gpu_memory_fraction: float | None) -> bool:
    jax: Any = importlib.import_module("jax")
    if device == "cpu":
        return True
    jax.config.update("jax_default_matmul_precision", "float32")  # not TF32, as above
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


def _set_up_torch(device: str, threads: int | None, gpu_memory_fraction: float | None) -> bool:
    torch: Any = importlib.import_module("torch")
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cpu":
        return True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if not torch.cuda.is_available():
        return False
    if gpu_memory_fraction is not None:
        torch.cuda.set_per_process_memory_fraction(gpu_memory_fraction)
    return True
