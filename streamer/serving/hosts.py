"""Which names a server answers to, and which origins may ask it to do something."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import psutil

__all__ = ["HostList", "is_loopback"]


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen at is out of reach for other machines."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


class HostList:
    """The allow-list of ``Host`` headers: without it, a page of a stranger whose name resolves to this machine could
    read the library (DNS rebinding).

    Parameters
    ----------
    host : str
        What the server listens at.
    further : iterable of str
        Names that are allowed beside those of this machine.
    """

    def __init__(self, host: str, further: tuple[str, ...] = ()) -> None:
        names = {"localhost", "127.0.0.1", "::1", host, *further}
        if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared with, not bound to
            names |= {address.address for each in psutil.net_if_addrs().values() for address in each}
            names.add(socket.gethostname())
        self._names = {_plain(name) for name in names} - {""}

    def allows(self, host: str) -> bool:
        """Whether a ``Host`` header, with or without a port, names this server."""
        name, port = split_port(host)
        return _plain(name) in self._names and (port == "" or (port.isascii() and port.isdigit()))

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Whether an ``Origin`` header is that of a page which this server sent under the same name."""
        scheme, separator, place = origin.partition("://")
        return bool(separator) and scheme in ("http", "https") and place.lower() == host.lower()


def split_port(host: str) -> tuple[str, str]:
    """Name and port of a ``Host`` header; the brackets of an IPv6 address are taken off."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest.removeprefix(":")
    name, _, port = host.partition(":")
    return name, port


def _plain(name: str) -> str:
    name = name.strip("[]").partition("%")[0].rstrip(".").lower()
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return name
