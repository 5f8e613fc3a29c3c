"""The process: a socket, a store, uvicorn between them; it ends cleanly when it is asked to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from streamer.errors import ConfigError, StreamerError
from streamer.serving.app import create_app
from streamer.serving.hosts import is_loopback
from streamer.serving.protocol import limited_protocol
from streamer.serving.service import Service
from streamer.serving.settings import MOST_HEAD_BYTES, ServeSettings

__all__ = ["listening", "make_server", "run_server"]

_LOG = logging.getLogger(__name__)

_TOKEN = re.compile(r"[!-~]{1,512}")
_WAITING_CONNECTIONS = 128
_KEEP_ALIVE_SECONDS = 15


def run_server(path: Path, settings: ServeSettings, on_ready: Callable[[str], None]) -> None:
    """Serve a store until Ctrl-C or SIGTERM.

    Parameters
    ----------
    path : Path
        The store's folder.
    settings : ServeSettings
    on_ready : callable
        Called with the address, such as ``http://127.0.0.1:8000``, when questions are answered.

    Raises
    ------
    ConfigError
        The address is open to other machines, and there is no token.
    StreamerError
        The port is taken; or any of those that `Service` and loading raise.
    """
    if settings.token == "":
        raise ConfigError("--token: an empty token is none; give a longer one, or leave the option out")
    if settings.token is not None and not _TOKEN.fullmatch(settings.token):
        raise ConfigError(
            f"--token: {settings.token[:40]!a} has {len(settings.token)} characters; a token has 1 to 512, of "
            "ASCII, and no spaces: it goes through addresses and headers"
        )
    if not is_loopback(settings.host) and settings.token is None:
        raise ConfigError(
            f"--host {settings.host}: other machines could reach the photos, so a token is needed; give --token TOKEN, "
            "or set STREAMER_TOKEN, to something long that nobody guesses"
        )
    with contextlib.closing(listening(settings)) as listener:
        service = Service(path, settings)
        try:
            _serve(service, listener, settings, on_ready)
        finally:
            service.close()


def _serve(service: Service, listener: socket.socket, settings: ServeSettings, on_ready: Callable[[str], None]) -> None:
    _LOG.info("serving %s: %s", service.path, service.plan)
    if service.generation()[0] == 0:
        _LOG.warning(
            "%s: there is no index, so every photo is looked at; 'streamer index CONFIG' makes searches quick",
            service.path,
        )
    address = _address(listener, settings)
    if not is_loopback(settings.host):
        _LOG.warning("%s is open to other machines; the token and the photos cross the network unencrypted", address)
    server = make_server(service)
    faults: list[BaseException] = []

    def load() -> None:
        try:
            service.load()
            on_ready(address)
        except BaseException as error:  # noqa: BLE001 - raised below, on the thread that was called
            faults.append(error)
            server.should_exit = True

    loading = threading.Thread(target=load, name="load", daemon=True)
    loading.start()
    server.run(sockets=[listener])
    loading.join()
    if faults:
        raise faults[0]


def make_server(service: Service) -> uvicorn.Server:
    """Make uvicorn serve a service, within its limits; `run` it with a socket that listens."""
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what clients do wrong is told by `streamer.serving` itself
    return _Server(
        uvicorn.Config(
            create_app(service),
            loop="asyncio",
            http=limited_protocol(service.settings),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(service.settings.drain_seconds),
            h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        )
    )


class _Server(uvicorn.Server):
    """Ends with exit code 0 when it is told to: uvicorn raises the signal anew when all is drained."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):  # whoever has not taken up its answer by now
            connection.transport.abort()
        await asyncio.sleep(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            numbers.append(signal.SIGBREAK)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listening(settings: ServeSettings) -> socket.socket:
    """Open the socket: before anything is loaded, it is clear whether the address can be had."""
    place = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise StreamerError(f"--host {settings.host}: no address of this machine ({error})") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":  # there, SO_REUSEADDR lets two programs have the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_WAITING_CONNECTIONS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", None)):
            raise StreamerError(
                f"{place}: another program has that port; choose another with --port, or --port 0 for any that is free"
            ) from error
        raise StreamerError(f"{place}: cannot listen there ({error.strerror or error}); see --host, --port") from error
    return listener


def _address(listener: socket.socket, settings: ServeSettings) -> str:
    port = listener.getsockname()[1]
    host = "localhost" if settings.host in ("", "0.0.0.0", "::") else settings.host  # noqa: S104 - compared with
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
