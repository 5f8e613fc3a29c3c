"""How a backbone is run: pixels in, features out. Keras is loaded only when an engine that needs it is opened."""

from streamer.engines.base import Engine, EngineCost, EngineMode, forward
from streamer.engines.devices import choose_device, gpu_count
from streamer.engines.pooling import pool
from streamer.engines.products import KerasProducts, products_on
from streamer.engines.registry import choose_engine, engine_modes, open_engine

__all__ = [
    "Engine",
    "EngineCost",
    "EngineMode",
    "KerasProducts",
    "choose_device",
    "choose_engine",
    "engine_modes",
    "forward",
    "gpu_count",
    "open_engine",
    "pool",
    "products_on",
]
