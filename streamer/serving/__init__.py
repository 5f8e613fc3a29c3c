"""A page to search with, and the JSON behind it: FastAPI on uvicorn, around one open store.

A request's way: `protocol` (connections, time limits) -> `guard` (names, origins, token, room, errors) -> `routes_*` ->
`uploads` (bodies into files) -> `queries` (decoding processes, network, `searching`) -> `answers`. `library` asks the
catalog, `photos` reads the files that it names, `mapping` and `grouping` are the long work that `jobs` remembers.
`service` holds it all, `plan` fits it into the memory budget, `server` is the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from streamer.errors import StreamerError
from streamer.serving.settings import ServeSettings

__all__ = ["ServeSettings", "serve"]


def serve(
    path: str | os.PathLike[str], settings: ServeSettings | None = None, on_ready: Callable[[str], None] = print
) -> None:
    """Serve a store until Ctrl-C or SIGTERM; needs the extra ``serve``.

    Parameters
    ----------
    path : path-like
        The store's folder.
    settings : ServeSettings, optional
    on_ready : callable, optional
        Called with the address when questions are answered.

    Raises
    ------
    StreamerError
        FastAPI or uvicorn is not installed, the port is taken, the address is open to others and there is no token,
        there is no readable store, or the memory budget is too small.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise StreamerError(
            f"the server needs {error.name}, which is not installed; pip install 'streamer[serve]'"
        ) from error
    from streamer.serving.server import run_server

    run_server(Path(path), settings or ServeSettings(), on_ready)
