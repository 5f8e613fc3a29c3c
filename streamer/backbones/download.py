"""A file from a web server, as a whole and as it was published, or not at all."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from streamer.backbones.fetch import Progress, new_hash
from streamer.errors import WeightsError
from streamer.files import published

__all__ = ["Opener", "download"]

_BLOCK_BYTES = 2**20
_USER_AGENT = "streamer (weights fetch; Python urllib)"

Opener = Callable[[urllib.request.Request, float], Any]
"""Opens a request with a timeout in seconds; returns what ``urllib.request.urlopen`` would."""


def download(
    url: str,
    target: Path,
    md5: str,
    *,
    progress: Progress | None,
    opener: Opener | None,
    timeout_seconds: float,
) -> None:
    """Fetch a file and check its hash.

    Parameters
    ----------
    url : str
    target : Path
        Appears when the whole file is there; its folder is made.
    md5 : str
        What the file must have, as hexadecimal digits.
    progress, opener, timeout_seconds
        As in `streamer.backbones.fetch_weights`.

    Raises
    ------
    WeightsError
        If the file cannot be had, or is another one. Nothing is left behind.
    """
    request = urllib.request.Request(url, headers={"User-Agent": _USER_AGENT})  # noqa: S310 - the callers' own table
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with published(target) as partial, partial.open("wb") as output:
            with (opener or _open)(request, timeout_seconds) as response:
                found = _copy(response, output, progress)
            if found != md5:
                raise WeightsError(
                    f"{url} gave a file with the MD5 {found}, where Keras' own has {md5}; it is removed. "
                    "A proxy may have put a page of its own in its place: try another network, or download the file "
                    f"elsewhere and put it in {target.parent}"
                )
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise WeightsError(
            f"cannot fetch {url} into {target.parent}: {_reason(error)}. Behind a proxy, set HTTPS_PROXY; without "
            f"a network, download the file elsewhere and put it in {target.parent}"
        ) from error


def _open(request: urllib.request.Request, timeout_seconds: float) -> Any:
    return urllib.request.urlopen(request, timeout=timeout_seconds)  # noqa: S310 - the URL is from KERAS_FILES


def _copy(response: Any, output: IO[bytes], progress: Progress | None) -> str:
    """Write the response's body to `output`; return its MD5."""
    length = response.headers.get("Content-Length")
    total = int(length) if length else None
    digest = new_hash("md5")
    done = 0
    while block := response.read(_BLOCK_BYTES):
        output.write(block)
        digest.update(block)
        done += len(block)
        if progress is not None:
            progress(done, total)
    # http.client reports a dropped connection as a short body, not as an error, when it is read in blocks.
    if total is not None and done != total:
        raise ConnectionError(f"the connection broke after {done} of {total} bytes")
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
