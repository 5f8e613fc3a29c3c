"""What a server may do and how long it waits: one record, whose defaults suit a laptop."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MOST_HEAD_BYTES", "ServeSettings"]

MOST_HEAD_BYTES = 16 * 1024
"""Request line and headers together."""

_MIB = 2**20


@dataclass(frozen=True)
class ServeSettings:
    """How a store is served.

    Attributes
    ----------
    host : str
        Address or name to listen at.
    port : int
        0: any that is free.
    token : str or None
        What requests must show. None: whoever reaches the address may ask.
    allowed_hosts : tuple of str
        Names, beside the usual ones, that a ``Host`` header may carry.
    device : str or None
        ``auto``, ``cpu`` or ``gpu``; None is as the last run over the store was configured.
    budget_bytes : int or None
        Of memory, for the server and its processes; None is that of the last run over the store.
    max_upload_bytes : int
        The most that the body of a request may hold.
    max_json_bytes : int
        The same, where the body is JSON.
    max_pixels : int
        Width times height of a picture that is sent.
    max_searches : int
        That are received, decoded or looked for at one time. One more is refused with 503.
    max_requests : int
        Of any kind, at one time. One more is refused with 503.
    max_connections : int
        Open at one time.
    header_seconds : float
        For the head of a request to arrive.
    body_seconds : float
        For its body to arrive.
    stall_seconds : float
        For a client to take up what it is sent.
    decode_seconds : float
        For a picture that is sent to be decoded.
    answer_seconds : float
        For a search, from its picture to its hits.
    drain_seconds : float
        For what is under way when the server is told to end.
    thumbnail_side : int
        Pixels of the longest side.
    thumbnail_bytes : int
        What the thumbnails on the disk may hold together.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    device: str | None = None
    budget_bytes: int | None = None
    max_upload_bytes: int = 20 * _MIB
    max_json_bytes: int = 64 * 1024
    max_pixels: int = 100_000_000
    max_searches: int = 64
    max_requests: int = 256
    max_connections: int = 512
    header_seconds: float = 15.0
    body_seconds: float = 60.0
    stall_seconds: float = 30.0
    decode_seconds: float = 10.0
    answer_seconds: float = 60.0
    drain_seconds: float = 10.0
    thumbnail_side: int = 256
    thumbnail_bytes: int = 256 * _MIB
