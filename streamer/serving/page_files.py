"""The page's own files, read once: what is not among them does not exist, whatever a client asks for."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

__all__ = ["PAGE", "PageFile", "page_files"]

PAGE = Path(__file__).parent / "page"
"""Where they lie in the package."""

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


class PageFile(NamedTuple):
    """A file: its bytes, its media type, and a tag that changes when it does."""

    data: bytes
    media_type: str
    etag: str


def page_files(folder: Path = PAGE) -> dict[str, PageFile]:
    """The files of the page by name."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        media_type = _MEDIA_TYPES.get(path.suffix)
        if media_type is not None and path.is_file():
            data = path.read_bytes()
            found[path.name] = PageFile(data, media_type, f'"{blake2b(data, digest_size=12).hexdigest()}"')
    return found
