"""A small library that is served on this machine, by the real server in a thread."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from streamer.config import load_config
from streamer.images.drawn import draw_pictures
from streamer.pipeline import run
from streamer.serving import ServeSettings
from streamer.serving.server import listening, make_server
from streamer.serving.service import Service


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes
    ----------
    port : int
    client : httpx.Client
        With the server's address.
    service : Service
    """

    port: int
    client: httpx.Client
    service: Service

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextlib.contextmanager
def serving(store: Path, **settings: Any) -> Iterator[Served]:
    """Serve a store in a thread, ready for questions."""
    options = ServeSettings(port=0, **{"budget_bytes": 8 * 2**30, **settings})
    with contextlib.closing(listening(options)) as listener, contextlib.closing(Service(store, options)) as service:
        server = make_server(service)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        port = listener.getsockname()[1]
        try:
            service.load()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
                yield Served(port, client, service)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def make_library(folder: Path, *overrides: str, classes: int = 4, per_class: int = 10) -> Path:
    """Draw pictures and run over them with the compact network; gives the config. The store is ``photos.store``."""
    draw_pictures(folder / "pictures", classes=classes, per_class=per_class, side=96, seed=1)
    config = folder / "config.yaml"
    settings = {
        "store": "photos.store",
        "source": {"folder": "pictures"},
        "backbone": {"name": "vgg16_compact"},
        "index": {"kind": "ivf"},
        "reduce": {"components": 16},
        # The budget counts the whole process, and that of the tests may hold TensorFlow from another test.
        "memory": {"budget": "8GiB"},
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    run(load_config(config, overrides))
    return config


@pytest.fixture(scope="session")
def small_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``pictures``, ``config.yaml`` and ``photos.store``: 40 photos in 4 classes. Do not change it."""
    folder = tmp_path_factory.mktemp("served")
    make_library(folder)
    return folder


@pytest.fixture
def own_library(small_library: Path, tmp_path: Path) -> Path:
    """A copy of the library that a test may change; its photos are at other paths than the store knows."""
    shutil.copytree(small_library, tmp_path / "own", ignore=shutil.ignore_patterns("thumbnails"))
    run(load_config(tmp_path / "own" / "config.yaml"))
    return tmp_path / "own"


@pytest.fixture(scope="module")
def served(small_library: Path) -> Iterator[Served]:
    """The library, served with the usual settings."""
    with serving(small_library / "photos.store") as server:
        yield server


Serving = Callable[..., contextlib.AbstractContextManager[Served]]


@pytest.fixture
def serve_with(small_library: Path) -> Serving:
    """Serve the library with settings of a test's own."""
    return lambda **settings: serving(small_library / "photos.store", **settings)
