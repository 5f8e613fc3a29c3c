"""Images in object stores and on web servers: listed page by page, fetched one by one, never longer than a limit.

Through obstore, the Python face of Rust's object_store: it lists as a stream, where fsspec holds every key of a bucket
at once, and it has what a night without a watcher needs: timeouts, retries with back-off, credentials that renew
themselves. They come from the environment, as each provider's own tools read them, and are in no address, log or store.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote, urlsplit

from streamer.errors import StreamerError
from streamer.images.opened import OpenedImage, UnreadableImageError, open_bytes
from streamer.images.sources.folder import SourceUnavailableError
from streamer.images.sources.members import key_of_member, label_of
from streamer.records import ImageRef, Rejected

__all__ = ["RemoteLimits", "RemoteSource", "describe_object", "fetch", "is_remote", "open_remote", "url_fault"]

_SCHEMES = ("s3", "gs", "az", "https", "http")
_REMOTE = re.compile(rf"({'|'.join(_SCHEMES)})://", re.IGNORECASE)
_PAGE = 1000
_CHUNK_BYTES = 2**20
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """How images are fetched.

    Attributes
    ----------
    concurrency : int
        Images that are fetched at one time.
    lookahead_bytes : int
        What may be fetched and not decoded yet; a larger image is fetched alone.
    timeout_seconds : float
        For one request, from its beginning to the last byte of its answer.
    retries : int
        After errors that may pass: timeouts, lost connections, answers of 500 and above. They back off, with jitter,
        and none begins later than four timeouts after the first try: no image takes longer than five.
    """

    concurrency: int = 16
    lookahead_bytes: int = 32 * 2**20
    timeout_seconds: float = 30.0
    retries: int = 4


def is_remote(path: str) -> bool:
    """Whether a path is the address of an object."""
    return _REMOTE.match(path) is not None


def url_fault(url: str) -> str | None:
    """What is wrong with an address; None where nothing is.

    An address lies in the store and in logs, so it may hold no secret: a password, or a query that signs it.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() not in _SCHEMES or not parts.netloc:
        return f"is no address of an object store: {', '.join(f'{scheme}://' for scheme in _SCHEMES)} are read"
    if "@" in parts.netloc:
        return "holds a name or password: put credentials into the environment"
    if parts.query and parts.scheme.lower().startswith("http"):
        return "holds a query, which may sign it: it would lie in the store; use an address without"
    return None


class RemoteSource:
    """The images below an address.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``. Web servers cannot be listed: name
        their images in a list.
    limits : RemoteLimits

    Yields
    ------
    ImageRef
        As the store lists them, a thousand at a time. The key is what follows the prefix; the path is the whole
        address; the change mark is the ETag, or the time of the last change where there is none.

    Raises
    ------
    SourceUnavailableError
        When iterating: the store cannot be listed to the end. Nothing may be taken for gone then.
    """

    def __init__(self, url: str, limits: RemoteLimits) -> None:
        self.url = url.rstrip("/")
        self.limits = limits

    def __iter__(self) -> Iterator[ImageRef | Rejected]:
        store, prefix = _resolved(self.url, self.limits)
        below = f"{prefix}/" if prefix else ""
        try:
            for page in _obstore().list(store, below or None, chunk_size=_PAGE):
                for meta in page:
                    name = meta["path"].removeprefix(below)
                    if (key := key_of_member(name)) is not None:
                        yield ImageRef(key, f"{self.url}/{name}", meta["size"], _mark(meta), label_of(key))
        except Exception as error:
            if isinstance(error, (StreamerError, GeneratorExit)):
                raise
            raise SourceUnavailableError(
                f"{self.url}: cannot be listed: {_reason(error)}. Nothing was changed. Check source.url, and the "
                "credentials in the environment"
            ) from None  # the library's own words may hold a signature


def fetch(ref: ImageRef, limits: RemoteLimits, max_bytes: int) -> bytes:
    """Fetch an image as it was listed.

    Raises
    ------
    UnreadableImageError
        It cannot be had, is larger than `max_bytes`, or is another than was listed.
    """
    if ref.size > max_bytes:
        raise UnreadableImageError(f"an object of {ref.size} bytes is larger than the limit of {max_bytes}")
    store, path = _resolved(ref.path, limits)
    with _fetching():
        answer = _obstore().get(store, path)
        meta = answer.meta
        if ref.size and (meta["size"], _mark(meta)) != (ref.size, ref.mtime_ns):
            raise UnreadableImageError("it changed between listing and reading", lasting=False)
        data = bytearray()
        for chunk in answer.stream(min_chunk_size=_CHUNK_BYTES):
            data += chunk
            if len(data) > max_bytes:
                raise UnreadableImageError(f"the answer is longer than the limit of {max_bytes} bytes")
        if len(data) != meta["size"]:
            raise UnreadableImageError(
                f"the answer has {len(data)} bytes, where {meta['size']} were announced", lasting=False
            )
    return bytes(data)


@contextlib.contextmanager
def open_remote(url: str, max_bytes: int = 256 * 2**20) -> Iterator[OpenedImage]:
    """Fetch one image, and open it."""
    with open_bytes(fetch(ImageRef("", url, 0, 0, ""), RemoteLimits(), max_bytes)) as image:
        yield image


def describe_object(key: str, url: str, label: str, limits: RemoteLimits) -> ImageRef | Rejected:
    """Describe one object by asking for its head."""
    ref = ImageRef(key, url, 0, 0, label)
    fault = url_fault(url)
    if fault is not None:
        return Rejected(ref, f"the address {fault}")
    try:
        store, path = _resolved(url, limits)
        with _fetching():
            meta = _obstore().head(store, path)
    except UnreadableImageError as error:
        return Rejected(ref, str(error), error.lasting)
    return ImageRef(key, url, meta["size"], _mark(meta), label)


@contextlib.contextmanager
def _fetching() -> Iterator[None]:
    try:
        yield
    except UnreadableImageError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises a dozen kinds, some of them Python's own
        raise UnreadableImageError(f"it cannot be fetched: {_reason(error)}", lasting=False) from None


def _reason(error: Exception) -> str:
    """What went wrong, without the library's own words: those hold the request, which may be signed."""
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such object (404)"
    if status := re.search(r"status code: (\d{3})", text):
        words = {"401": "not signed in", "403": "access is refused", "404": "there is no such object"}
        return f"{words.get(status[1], 'the server answered')} ({status[1]})"
    if kind := re.search(r"kind: (Connect|Timeout|Request|Interrupted|Decode)\b", text):
        words = {"Connect": "no connection", "Timeout": "no answer in time", "Decode": "the answer makes no sense"}
        tries = re.search(r"retries: (\d+)", text)
        return words.get(kind[1], "the connection broke") + (f", after {tries[1]} retries" if tries else "")
    return type(error).__name__


def _mark(meta: Any) -> int:
    """A number that changes when the object does, where a file has the time of its last change."""
    if tag := meta.get("e_tag"):
        return int.from_bytes(blake2b(tag.encode(), digest_size=8).digest(), "big") >> 1
    return int(meta["last_modified"].timestamp() * 10**9)


def _resolved(url: str, limits: RemoteLimits) -> tuple[Any, str]:
    """The store of an address, and the path in it."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    whole = url[len(scheme) + len("://") + len(parts.netloc) :].lstrip("/")
    path = unquote(whole) if scheme.startswith("http") else whole
    endpoints = tuple(os.environ.get(name, "") for name in _ENDPOINTS)
    return _store(f"{scheme}://{parts.netloc}", limits, endpoints), path.rstrip("/")


@lru_cache(maxsize=8)
def _store(base: str, limits: RemoteLimits, endpoints: tuple[str, ...]) -> Any:
    """A client for one bucket or server, with connections that are used again."""
    from_url = _obstore().store.from_url
    plain = any(address.startswith("http://") for address in (base, *endpoints))
    timeout = timedelta(seconds=limits.timeout_seconds)
    try:
        return from_url(
            base,
            client_options={"timeout": timeout, "connect_timeout": timeout, "allow_http": plain},
            retry_config={"max_retries": limits.retries, "retry_timeout": 4 * timeout},
        )
    except Exception as error:  # noqa: BLE001 - as in `_fetching`
        raise SourceUnavailableError(
            f"{base}: cannot be opened ({type(error).__name__}); are its credentials and region in the environment?"
        ) from None


def _obstore() -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError:
        raise SourceUnavailableError(
            "images in an object store or on a web server need obstore: pip install 'streamer[remote]'"
        ) from None
    return obstore
