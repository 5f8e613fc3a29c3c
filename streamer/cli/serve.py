"""The command that serves a store."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import click

from streamer.cli.common import DEVICE, STORE, Outcome, command
from streamer.errors import ConfigError, ExitCode

__all__ = ["serve"]


@click.command()
@STORE
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; another needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option(
    "--token", envvar="STREAMER_TOKEN", help="What requests must show; STREAMER_TOKEN in the environment, too."
)
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="Another name that it answers to.")
@click.option("--memory", metavar="SIZE", help="Memory budget. [default: that of the last run over the store]")
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@DEVICE
@command
def serve(
    store: Path,
    host: str,
    port: int,
    token: str | None,
    allowed_hosts: tuple[str, ...],
    memory: str | None,
    open_page: bool,
    device: str | None,
) -> Outcome:
    """Serve a page to search with, until Ctrl-C."""
    from streamer.config import parse_bytes
    from streamer.serving import ServeSettings
    from streamer.serving import serve as serve_store

    try:
        budget = parse_bytes(memory) if memory is not None else None
    except ValueError as error:
        raise ConfigError(f"--memory: {error}") from None
    settings = ServeSettings(host, port, token, tuple(allowed_hosts), device, budget)
    as_json = click.get_current_context().meta["streamer.json"]

    def ready(address: str) -> None:
        page = f"{address}/?token={quote(token, safe='')}" if token else f"{address}/"
        click.echo(json.dumps({"url": f"{address}/", "store": str(store)}) if as_json else page)
        if open_page:
            click.launch(page)

    serve_store(store, settings, ready)
    return None, "", ExitCode.DONE
