"""Images in object stores and on web servers: listed page by page, fetched one by one, as they were listed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from streamer.images.opened import ImageTooLargeError, OpenedImage, UnreadableImageError, open_bytes
from streamer.images.sources.folder import SourceUnavailableError
from streamer.images.sources.members import key_of_member, label_of
from streamer.objects import ObjectError, RemoteLimits, open_bucket, redacted, url_fault
from streamer.records import ImageRef, Rejected

__all__ = ["RemoteSource", "describe_object", "fetch", "open_remote"]


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
        try:
            bucket, prefix = open_bucket(self.url, self.limits)
            below = f"{prefix}/" if prefix else ""
            for meta in bucket.listed(prefix):
                name = meta["path"].removeprefix(below)
                if (key := key_of_member(name)) is not None:
                    yield ImageRef(key, f"{self.url}/{name}", meta["size"], _mark(meta), label_of(key))
        except ObjectError as error:
            raise SourceUnavailableError(
                f"{self.url}: cannot be listed: {error}. Nothing was changed. Check source.url, and the credentials in "
                "the environment"
            ) from error


def fetch(ref: ImageRef, limits: RemoteLimits, max_bytes: int) -> bytes:
    """Fetch an image as it was listed.

    Raises
    ------
    UnreadableImageError
        It cannot be had, is larger than `max_bytes`, or is another than was listed.
    """
    if ref.size > max_bytes:
        raise ImageTooLargeError(f"an object of {ref.size} bytes is larger than the limit of {max_bytes}")
    with _fetching():
        bucket, path = open_bucket(ref.path, limits)
        meta, chunks = bucket.chunks(path)
        if ref.size and (meta["size"], _mark(meta)) != (ref.size, ref.mtime_ns):
            raise UnreadableImageError("it changed between listing and reading", lasting=False)
        data = bytearray()
        for chunk in chunks:
            data += chunk
            if len(data) > max_bytes:
                raise ImageTooLargeError(f"the answer is longer than the limit of {max_bytes} bytes")
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
    fault = url_fault(url)
    if fault is not None:
        shown = redacted(url)
        return Rejected(ImageRef(shown.partition("://")[2], shown, 0, 0, ""), f"the address {fault}")
    ref = ImageRef(key, url, 0, 0, label)
    try:
        with _fetching():
            bucket, path = open_bucket(url, limits)
            meta = bucket.head(path)
    except UnreadableImageError as error:
        return Rejected(ref, str(error), error.lasting)
    return ImageRef(key, url, meta["size"], _mark(meta), label)


@contextlib.contextmanager
def _fetching() -> Iterator[None]:
    try:
        yield
    except ObjectError as error:
        raise UnreadableImageError(f"it cannot be fetched: {error}", lasting=False) from error


def _mark(meta: dict[str, Any]) -> int:
    """A number that changes when the object does, where a file has the time of its last change."""
    if tag := meta.get("e_tag"):
        return int.from_bytes(blake2b(tag.encode(), digest_size=8).digest(), "big") >> 1
    return int(meta["last_modified"].timestamp() * 10**9)
