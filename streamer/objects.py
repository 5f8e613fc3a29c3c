"""Object stores and web servers: one bucket at a time, with limits on time and size, and no secret in what is said.

Through obstore, the Python face of Rust's object_store: it lists as a stream, where fsspec holds every key of a bucket
at once, and it has what a night without a watcher needs: timeouts, retries with back-off, credentials that renew
themselves. They come from the environment, as each provider's own tools read them, and are in no address, log or store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from streamer.errors import StreamerError

__all__ = [
    "Bucket",
    "ObjectError",
    "ObjectMissingError",
    "RemoteLimits",
    "is_remote",
    "open_bucket",
    "redacted",
    "url_fault",
]

_SCHEMES = ("s3", "gs", "az", "https", "http")
_REMOTE = re.compile(rf"({'|'.join(_SCHEMES)})://", re.IGNORECASE)
_PAGE = 1000
_CHUNK_BYTES = 2**20
_PART_BYTES = 8 * 2**20
_PARTS_AT_ONCE = 4
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


class ObjectError(StreamerError):
    """An object store or web server did not do what it was asked for; the message says why, in one line."""


class ObjectMissingError(ObjectError):
    """There is no such object, or no such bucket."""


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """How objects are fetched.

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
        and none begins later than four timeouts after the first try: nothing takes longer than five.
    """

    concurrency: int = 16
    lookahead_bytes: int = 32 * 2**20
    timeout_seconds: float = 30.0
    retries: int = 4


def is_remote(path: str) -> bool:
    """Whether a path is the address of an object."""
    return _REMOTE.match(path) is not None


def redacted(url: str) -> str:
    """An address without what may be secret in it: name and password, and a query that may sign it."""
    return re.sub(r"\?.*", "?...", re.sub(r"(?<=://)[^/?#]*@", "...@", url), flags=re.DOTALL)


def url_fault(url: str) -> str | None:
    """What is wrong with an address; None where nothing is.

    An address lies in the store and in logs, so it may hold no secret: a password, or a query that signs it.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        return f"is no address ({error})"
    if parts.scheme.lower() not in _SCHEMES or not parts.netloc:
        return f"is no address of an object store: {', '.join(f'{scheme}://' for scheme in _SCHEMES)} are read"
    if "@" in parts.netloc:
        return "holds a name or password: put credentials into the environment"
    if parts.query and parts.scheme.lower().startswith("http"):
        return "holds a query, which may sign it: it would lie in the store; use an address without"
    return None


class Bucket:
    """One bucket, container or server.

    Every method raises an `ObjectError` where the way there fails, an `ObjectMissingError` where there is nothing.

    Parameters
    ----------
    store : obstore.store.ObjectStore
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def listed(self, prefix: str) -> Iterator[dict[str, Any]]:
        """``path``, ``size``, ``last_modified`` and ``e_tag`` of every object below a prefix, a thousand at a time."""
        try:
            for page in _obstore().list(self._store, f"{prefix}/" if prefix else None, chunk_size=_PAGE):
                yield from page
        except GeneratorExit:
            raise
        except Exception as error:  # noqa: BLE001 - the library raises a dozen kinds, some of them Python's own
            raise _translated(error) from None  # its own words may hold a signature

    def head(self, path: str) -> dict[str, Any]:
        """What `listed` says of one object."""
        try:
            return dict(_obstore().head(self._store, path))
        except Exception as error:  # noqa: BLE001
            raise _translated(error) from None

    def chunks(self, path: str) -> tuple[dict[str, Any], Iterator[bytes]]:
        """What `listed` says of an object, and its bytes as they come."""
        try:
            answer = _obstore().get(self._store, path)
            return dict(answer.meta), self._streamed(answer)
        except Exception as error:  # noqa: BLE001
            raise _translated(error) from None

    def _streamed(self, answer: Any) -> Iterator[bytes]:
        try:
            for chunk in answer.stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(chunk)
        except GeneratorExit:
            raise
        except Exception as error:  # noqa: BLE001
            raise _translated(error) from None

    def parts(self, path: str, n_bytes: int) -> Iterator[bytes]:
        """The bytes of a large object, each part by a request of its own, which has the time limit for itself."""
        for start in range(0, n_bytes, _PART_BYTES):
            length = min(_PART_BYTES, n_bytes - start)
            try:
                part = bytes(_obstore().get_range(self._store, path, start=start, length=length))
            except Exception as error:  # noqa: BLE001
                raise _translated(error) from None
            yield part

    def put(self, path: str, content: bytes | Path) -> None:
        """Write an object, all at once for whoever reads it; a file goes in parts, a few in memory at a time."""
        try:
            _obstore().put(self._store, path, content, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        except Exception as error:  # noqa: BLE001
            raise _translated(error) from None

    def delete(self, paths: list[str]) -> None:
        """Remove objects."""
        try:
            _obstore().delete(self._store, paths)
        except Exception as error:  # noqa: BLE001
            raise _translated(error) from None


def open_bucket(url: str, limits: RemoteLimits) -> tuple[Bucket, str]:
    """The bucket of an address, and the path in it. The folder of a path is a bucket, too.

    Raises
    ------
    ObjectError
        If obstore is not installed, or the environment does not say how to get there.
    """
    if not is_remote(url):
        Path(url).mkdir(parents=True, exist_ok=True)
        return Bucket(_obstore().store.LocalStore(os.path.abspath(url))), ""  # noqa: PTH100
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    whole = url[len(scheme) + len("://") + len(parts.netloc) :].strip("/")
    endpoints = tuple(os.environ.get(name, "") for name in _ENDPOINTS)
    path = unquote(whole) if scheme.startswith("http") else whole
    return _bucket(f"{scheme}://{parts.netloc}", limits, endpoints), path


@lru_cache(maxsize=8)
def _bucket(base: str, limits: RemoteLimits, endpoints: tuple[str, ...]) -> Bucket:
    """With connections that are used again."""
    timeout = timedelta(seconds=limits.timeout_seconds)
    plain = any(address.startswith("http://") for address in (base, *endpoints))
    try:
        store = _obstore().store.from_url(
            base,
            client_options={"timeout": timeout, "connect_timeout": timeout, "allow_http": plain},
            retry_config={"max_retries": limits.retries, "retry_timeout": 4 * timeout},
        )
    except ObjectError:
        raise
    except Exception as error:  # noqa: BLE001
        raise ObjectError(
            f"{base}: cannot be opened ({type(error).__name__}); are its credentials and region in the environment?"
        ) from None
    return Bucket(store)


def _translated(error: Exception) -> ObjectError:
    """What went wrong, without the library's own words: those hold the request, which may be signed."""
    if isinstance(error, ObjectError):
        return error
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return ObjectMissingError("there is no such object (404)")
    if status := re.search(r"status code: (\d{3})", text):
        words = {"401": "not signed in", "403": "access is refused", "404": "there is no such object"}
        kind = ObjectMissingError if status[1] == "404" else ObjectError
        return kind(f"{words.get(status[1], 'the server answered')} ({status[1]})")
    if found := re.search(r"kind: (Connect|Timeout|Request|Interrupted|Decode)\b", text):
        words = {"Connect": "no connection", "Timeout": "no answer in time", "Decode": "the answer makes no sense"}
        tries = re.search(r"retries: (\d+)", text)
        return ObjectError(
            words.get(found[1], "the connection broke") + (f", after {tries[1]} retries" if tries else "")
        )
    if type(error).__name__ == "InvalidPathError":
        return ObjectError("a key has nothing, '.' or '..' between two slashes, and cannot be named")
    if isinstance(error, OSError) and error.strerror:
        return ObjectError(error.strerror)
    return ObjectError(type(error).__name__)


def _obstore() -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError:
        raise ObjectError("object stores and web servers need obstore: pip install 'streamer[remote]'") from None
    return obstore
