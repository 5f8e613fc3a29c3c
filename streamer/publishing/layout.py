"""How a store lies below an address: the pointer, which comes from elsewhere and is looked through, and its names."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamer.errors import ConfigError, StoreCorruptError, StoreFormatError
from streamer.files import digest_of
from streamer.objects import Bucket, ObjectMissingError, RemoteLimits, is_remote, open_bucket, redacted, url_fault

__all__ = ["FORMAT", "NAME", "POINTER", "Transfer", "at", "catalog_last", "facts_of", "open_place", "read_pointer"]

FORMAT = 1
POINTER = "CURRENT.json"
NAME = re.compile(r"catalog\.sqlite|features/\d{6,}\.h5|index/\d{6,}/[a-z_]+\.(?:json|npy|npz|ann)")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_MOST_POINTER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did.

    Attributes
    ----------
    store, url : str
    images, generation : int
        What is there now; the generation is 0 where nothing was indexed.
    files, bytes : int
        What travelled.
    unchanged : int
        Files that were there.
    removed : int
        Files that are no longer part of the store, and were taken away.
    seconds : float
    """

    store: str
    url: str
    images: int
    generation: int
    files: int
    bytes: int
    unchanged: int
    removed: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as ``--json`` prints them."""
        return asdict(self)


def open_place(url: str, limits: RemoteLimits | None) -> tuple[Bucket, str]:
    if is_remote(url) or "://" in url:
        fault = url_fault(url) or ("is a web server, which takes no files" if url.lower().startswith("http") else None)
        if fault:
            raise ConfigError(f"{redacted(url)} {fault}")
    return open_bucket(url, limits or RemoteLimits())


def at(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def read_pointer(bucket: Bucket, prefix: str, url: str) -> dict[str, Any] | None:
    """What CURRENT.json says, once it has been looked through: it comes from elsewhere."""
    try:
        meta, chunks = bucket.chunks(at(prefix, POINTER))
    except ObjectMissingError:
        return None
    place = f"{url}/{POINTER}"
    if meta["size"] > _MOST_POINTER_BYTES:
        raise StoreCorruptError(f"{place}: {meta['size']} bytes are more than such a file has; push anew")
    try:
        found = json.loads(b"".join(chunks))
        if found["format"] > FORMAT:
            raise StoreFormatError(f"{place}: was written by a newer release; upgrade streamer")
        whole = all(isinstance(found[name], int) for name in ("push", "images", "generation"))
        for name, (n_bytes, digest) in found["files"].items():
            whole &= bool(NAME.fullmatch(name) and _DIGEST.fullmatch(digest)) and isinstance(n_bytes, int)
        if not whole or "catalog.sqlite" not in found["files"]:
            raise ValueError("names what is no part of a store")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorruptError(f"{place}: cannot be read ({error}); push anew") from error
    return dict(found)


def facts_of(path: Path) -> tuple[int, str]:
    n_bytes, digest = digest_of(path)
    return n_bytes, digest.hex()


def catalog_last(item: tuple[str, tuple[int, str]]) -> tuple[bool, str]:
    return item[0] == "catalog.sqlite", item[0]
