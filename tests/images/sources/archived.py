"""What the tests of sources share: pictures as bytes, archives of them, and what comes out of a source."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from streamer.images.decode import decode_stream
from streamer.images.pixels import DecodeLimits
from streamer.records import Decoded, ImageRef, Known, Rejected

LIMITS = DecodeLimits(10**7, 10**6, 10**8)


def picture(number: int, kind: str = "PNG") -> bytes:
    """A picture of 12 x 10 that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    """Members in the order of the mapping."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Members in the order of the mapping."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 5, 6, 7, 8, 10)), data, method)
    return path


def decoded(refs: Iterable[ImageRef], size: tuple[int, int] = (10, 12)) -> list[Decoded | Known | Rejected]:
    """What comes of images when they are read."""
    return list(decode_stream(refs, size=size, threads=2, lookahead_images=4, limits=LIMITS))


def refused(listing: Iterable[ImageRef | Rejected]) -> dict[str, str]:
    """Key and reason of what a source refuses."""
    return {each.ref.key: each.reason for each in listing if isinstance(each, Rejected)}


def taken(listing: Iterable[ImageRef | Rejected]) -> list[ImageRef]:
    """The images that a source lists."""
    return [each for each in listing if isinstance(each, ImageRef)]
