"""Turn a library of photos into a feature store and a search index, inside a memory budget.

>>> from streamer import Searcher, Store, load_config, run          # doctest: +SKIP
>>> run(load_config("photos.yaml"))                                 # doctest: +SKIP
>>> hits = Searcher("photos.store").search(["query.jpg"])[0].hits   # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "Config": "streamer.config",
    "load_config": "streamer.config",
    "run": "streamer.pipeline",
    "Store": "streamer.store",
    "Searcher": "streamer.searcher",
    "Head": "streamer.transfer",
    "Predictor": "streamer.transfer",
    "train": "streamer.transfer",
    "Hit": "streamer.records",
    "StreamerError": "streamer.errors",
}
__all__ = [
    "Config",
    "Head",
    "Hit",
    "Predictor",
    "Searcher",
    "Store",
    "StreamerError",
    "__version__",
    "load_config",
    "run",
    "train",
]

if TYPE_CHECKING:
    from streamer.config import Config, load_config
    from streamer.errors import StreamerError
    from streamer.pipeline import run
    from streamer.records import Hit
    from streamer.searcher import Searcher
    from streamer.store import Store
    from streamer.transfer import Head, Predictor, train


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``import streamer`` costs nothing."""
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'streamer' has no attribute {name!r}")
