"""Which formats are read, how a file is told to be one of them, and what its header says."""

from __future__ import annotations

import re
import struct
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from streamer.images.opened import UnreadableImageError

__all__ = [
    "DRAFT_MARGIN",
    "HEAD_BYTES",
    "Header",
    "examine",
    "make_way",
    "open_image",
    "orientation",
    "sniff",
]

HEAD_BYTES = 64 * 1024
"""How much of a file's start `sniff` and `examine` want to see."""

DRAFT_MARGIN = 2
"""A JPEG is scaled down while it is decoded to no less than this many times the size wanted: the filter needs something
to work on. At 1 the pixels were off by 0.3 to 0.7 of 255 on average and up to 4 (19 at hard edges), at 2 by 0.1 to 0.3
and up to 2; a 4000 x 3000 photo takes 26 ms at 1, 32 ms at 2 and 134 ms in full."""

_ORIENTATION_TAG = 0x0112

# The classes and not Image.open: that one refuses or warns about more pixels than a number that is global to the
# process, which may belong to a host application. Here the caller's own cap decides (see `make_way`). A JPEG is
# always opened as the plain JPEG it starts with, multi-picture files (MPO) too: their first picture is the photo.
_OPENERS: dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "DIB": DibImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
    "AVIF": AvifImageFile,
    "PPM": PpmImageFile,
}

_MAGIC = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("BMP", re.compile(rb"BM")),
    ("PPM", re.compile(rb"P[1-6f]\s")),
    ("DIB", re.compile(rb"[\x28\x34\x38\x40\x6c\x7c]\0\0\0.{8}\x01\0", re.DOTALL)),
)

_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_process_settings = threading.Lock()


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture before it is decoded.

    Attributes
    ----------
    format : str
        As `sniff` names it.
    mode : str
        Pillow's name of the pixel layout in memory.
    width, height : int
        As stored, before the orientation is applied.
    orientation : int
        EXIF orientation, 1 to 8; known here only for JPEG, else 1.
    coefficient_bytes : float
        Bytes a pixel that a JPEG decoder holds beside the pixels; 0 where it streams.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int = 1
    coefficient_bytes: float = 0.0


def make_way(max_pixels: int) -> None:
    """Keep Pillow's process-wide guards from interfering with one call, changing as little as can be.

    The guard against decompression bombs: the TIFF, WebP and GIF readers consult it on their own. It is raised, never
    lowered, and only when `max_pixels` lies beyond the count it refuses at (by default 179 million).

    Warnings: Pillow warns about damaged metadata. The reason of a `Rejected` is our channel for that, and a warning
    filter set to "error" would turn a harmless one into a refusal. ``warnings.catch_warnings`` is no way out: it saves
    and restores a global list, and two threads that overlap leave the wrong one behind. So one filter is put in,
    once, for warnings which Pillow's own modules raise, and put in again when somebody took it out.
    """
    refused_at = Image.MAX_IMAGE_PIXELS
    if _PILLOW_WARNINGS in warnings.filters and (refused_at is None or max_pixels <= 2 * refused_at):
        return
    with _process_settings:
        if _PILLOW_WARNINGS not in warnings.filters:
            warnings.filterwarnings("ignore", module=r"PIL\.")
        if refused_at is not None and max_pixels > 2 * refused_at:
            Image.MAX_IMAGE_PIXELS = max_pixels


def sniff(head: bytes) -> str | None:
    """Name the format of a file by its first bytes, whatever its suffix says; None for none that is read here."""
    for name, magic in _MAGIC:
        if magic.match(head):
            return name
    if head[4:8] == b"ftyp":
        brands = head[8 : int.from_bytes(head[:4], "big")]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if re.search(rb"hei[cxms]|hev[cxms]|mif1|msf1", brands):
            return "HEIF"
    return None


def open_image(file: IO[bytes], format_name: str) -> ImageFile.ImageFile:
    """Read the header of a picture; its pixels are decoded when they are asked for.

    Parameters
    ----------
    file : binary file, seekable
    format_name : str
        As `sniff` names it.

    Raises
    ------
    UnreadableImageError
        A HEIF file, and pillow-heif is not installed.
    Exception
        Of whatever class Pillow chooses, when the header is damaged.
    """
    file.seek(0)
    if format_name == "HEIF":
        return _heif_opener()(file, "")
    return _OPENERS[format_name](file)


def _heif_opener() -> Callable[[IO[bytes], str], ImageFile.ImageFile]:
    try:
        import pillow_heif
    except ImportError as error:
        raise UnreadableImageError("a HEIC/HEIF photo needs pillow-heif: pip install 'streamer[heif]'") from error
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()
    opener: Callable[[IO[bytes], str], ImageFile.ImageFile] = Image.OPEN["HEIF"][0]
    return opener


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 when there is none or the EXIF data is damaged."""
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - damaged metadata raises anything, and is no reason to refuse sound pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def examine(file: IO[bytes], head: bytes, format_name: str) -> Header:
    """Find out what a picture is while reading little of it and allocating next to nothing.

    Pillow reads WebP, AVIF and HEIF files whole to open them, and allocates the canvas at once: for these the
    dimensions are taken from the header's bytes here.

    Raises
    ------
    UnreadableImageError
        The dimensions cannot be found.
    Exception
        As `open_image`.
    """
    if format_name == "WEBP":
        return _examine_webp(head)
    if format_name == "HEIF":
        _heif_opener()  # what is missing must be said before what is damaged
    if format_name in ("AVIF", "HEIF"):
        return _examine_iso_media(head, format_name)
    picture = open_image(file, format_name)
    width, height = picture.size
    mode = picture.mode
    if format_name != "JPEG":
        return Header(format_name, f"{mode}+A" if _has_colour_key(picture) else mode, width, height)
    return Header(format_name, mode, width, height, orientation(picture), _coefficient_bytes(file))


def _has_colour_key(picture: Image.Image) -> bool:
    return picture.mode in ("1", "L", "P", "RGB") and picture.has_transparency_data


def _examine_webp(head: bytes) -> Header:
    """Read the size from a WebP file's first chunk (RFC 9649, sections 2.5 to 2.7)."""
    kind = head[12:16]
    if kind == b"VP8X" and len(head) >= 30:
        mode = "RGBA" if head[20] & 0x10 else "RGB"
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        mode, width, height = "RGBA", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(head) >= 30:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 26))
        mode = "RGB"
    else:
        raise UnreadableImageError("damaged WEBP: the header is cut short")
    return Header("WEBP", mode, width, height)


def _examine_iso_media(head: bytes, format_name: str) -> Header:
    """Take the largest of the sizes in an AVIF or HEIF file's 'ispe' boxes (ISO/IEC 23008-12, section 6.5.3).

    The smaller ones belong to thumbnails, and to the tiles that a large photo is made of.
    """
    sizes = [
        struct.unpack_from(">II", head, at.end() + 4)
        for at in re.finditer(rb"ispe", head)
        if at.end() + 12 <= len(head)
    ]
    if not sizes:
        raise UnreadableImageError(f"damaged {format_name}: the header names no size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header(format_name, "RGBA", width, height)


def _coefficient_bytes(file: IO[bytes]) -> float:
    """Tell what a JPEG decoder must keep for each pixel until the last scan has been read, in bytes.

    A baseline photo in one scan is decoded row by row. A progressive one, or one scan a component, makes libjpeg hold
    all coefficients, 2 bytes each, at full size even when the output is scaled down (libjpeg.txt, "Progressive
    JPEG support"). The markers are ITU-T T.81, table B.1.
    """
    file.seek(2)
    n_components, per_pixel, progressive = 0, 0.0, False
    for _ in range(10_000):  # a hostile file may have millions of empty segments
        start = file.read(4)
        if len(start) < 4 or start[0] != 0xFF:
            return 0.0  # damaged: the decoder will say so
        marker, length = start[1], int.from_bytes(start[2:], "big")
        if marker == 0xFF:  # a fill byte
            file.seek(-3, 1)
        elif marker == 0xDA:
            in_scan = int.from_bytes(file.read(1), "big")
            return per_pixel if progressive or in_scan < n_components else 0.0
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = file.read(length - 2)
            progressive = marker & 3 == 2
            n_components = frame[5]
            factors = [(frame[at] >> 4, frame[at] & 15) for at in range(7, 6 + 3 * n_components, 3)]
            widest = max(h for h, _ in factors) * max(v for _, v in factors)
            per_pixel = 2 * sum(h * v for h, v in factors) / widest
        else:
            file.seek(length - 2, 1)
    return 0.0
