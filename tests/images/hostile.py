"""Files as they are met in the wild, and worse: each made by code, each with what must become of it."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

__all__ = ["EXPECTED_LIMITS", "photo", "write_hostile_files"]

EXPECTED_LIMITS = {"max_pixels": 100_000_000, "max_file_bytes": 64 * 2**20, "memory_bytes": 512 * 2**20}
"""The limits that the expected outcomes hold for (fields of `DecodeLimits`)."""


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw something smooth with edges and a little noise, as a photo is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = np.stack([np.sin(x / 31 + y / 97), np.sin(y / 43 - x / 211), np.sin((x + y) / 59)], axis=-1)
    edges = ((x // 157 + y // 131) % 2)[..., np.newaxis]
    pixels = 127 + 70 * waves + 40 * (edges - 0.5) + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """Return the picture as the bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def write_hostile_files(folder: Path) -> dict[str, str | None]:
    """Fill a folder with hostile files.

    Returns
    -------
    dict of str to (str or None)
        By key: a part of the reason that it must be rejected with, or None when it must decode.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, str | None] = {}
    for key, (content, reason) in {**_damaged(), **_boasting(), **_odd_but_sound()}.items():
        (folder / key).write_bytes(content)
        expected[key] = reason
    expected.update(_odd_places(folder))
    return expected


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _png_chunk(b"IEND", b"")


def _bmp(width: int, height: int) -> bytes:
    return struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0
    )


def _gif_header(width: int, height: int) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0, 0, 0)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08\x01\0\0;"


def _tiff(entries: dict[int, int], next_ifd: int = 0) -> bytes:
    ifd = struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        ifd += struct.pack("<HHII", tag, 4, 1, value)
    return struct.pack("<2sHI", b"II", 42, 8) + ifd + struct.pack("<I", next_ifd) + bytes(16)


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _damaged() -> dict[str, tuple[bytes, str | None]]:
    image = photo(120, 90)
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")
    chance = random.Random(5)
    flipped = bytearray(jpeg)
    for _ in range(12):  # behind the tables, so that libjpeg carries on with whatever it makes of it
        flipped[chance.randrange(len(jpeg) // 2, len(jpeg) - 2)] = chance.randrange(1, 128)
    bad_zlib = bytearray(png)
    start = png.index(b"IDAT") + 40
    bad_zlib[start : start + 60] = bytes(60)
    return {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"This is not a picture.\n", "not a picture"),
        "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        "random.jpg": (b"\xff\xd8\xff\xe0" + chance.randbytes(3000), "damaged JPEG"),
        "truncated.jpg": (_half(jpeg), "truncated"),
        "truncated_progressive.jpg": (_half(encoded(image, "JPEG", progressive=True)), "truncated"),
        "only_start.jpg": (jpeg[:3], "damaged JPEG"),
        "flipped.jpg": (bytes(flipped), None),
        "truncated.png": (_half(png), "damaged PNG"),
        "bad_zlib.png": (bytes(bad_zlib), "damaged PNG"),
        "zero_sides.png": (_png(0, 0, _png_chunk(b"IDAT", zlib.compress(b""))), "damaged PNG"),
        "no_pixels.png": (_png(8, 8), "damaged PNG"),
        "truncated.webp": (_half(encoded(image, "WEBP")), "damaged WEBP"),
        "only_start.webp": (encoded(image, "WEBP")[:18], "damaged WEBP"),
        "truncated.tif": (_half(encoded(image, "TIFF")), "damaged TIFF"),
        "truncated.gif": (_half(encoded(image.convert("P"), "GIF")), "damaged GIF"),
        "no_frames.gif": (b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";", "damaged GIF"),
        "truncated.bmp": (_half(encoded(image, "BMP")), "damaged BMP"),
        "truncated.ppm": (_half(encoded(image, "PPM")), "damaged PPM"),
        "truncated.avif": (_half(encoded(image, "AVIF")), "damaged AVIF"),
        "photo.heic": (_heic_header(), "HEIF"),  # no pillow-heif, or with it: no picture behind the header
    }


def _heic_header() -> bytes:
    return (
        struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
        + struct.pack(">I4sI", 40, b"meta", 0)
        + struct.pack(">I4sIII", 20, b"ispe", 0, 64, 64)
        + bytes(8)
    )


def _boasting() -> dict[str, tuple[bytes, str | None]]:
    """Small files that claim to be large ones."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * (8 * 2**20), zip=True)
    huge_webp = bytearray(encoded(photo(16, 16).convert("RGBA"), "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"))
    huge_webp[24:30] = b"\xff\x3f\x00\xff\x3f\x00"
    return {
        "huge.png": (_png(30_000, 30_000, _png_chunk(b"IDAT", zlib.compress(bytes(9000)))), "the limit of 100000000"),
        "huge.webp": (bytes(huge_webp), "the limit of 100000000"),
        "huge.gif": (_gif_header(65535, 65535), "the limit of 100000000"),
        "huge.ppm": (b"P6 100000 100000 255\n" + bytes(300), "the limit of 100000000"),
        "huge.bmp": (_bmp(2**31 - 1, 2**31 - 1), "the limit of 100000000"),
        "huge.tif": (
            _tiff({256: 2**31 - 1, 257: 2**31 - 1, 258: 8, 262: 1, 273: 100, 277: 1}),
            "the limit of 100000000",
        ),
        "negative.bmp": (_bmp(-5, 8), "the limit of 100000000"),
        "text_bomb.png": (encoded(photo(16, 16), "PNG", pnginfo=text), "damaged PNG"),
    }


def _odd_but_sound() -> dict[str, tuple[bytes, str | None]]:
    image = photo(120, 90)
    grey = image.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    loop = bytearray(encoded(grey, "TIFF"))
    ifd = struct.unpack_from("<I", loop, 4)[0]
    struct.pack_into("<I", loop, ifd + 2 + 12 * struct.unpack_from("<H", loop, ifd)[0], ifd)
    broken_exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\xff\xff\xff\x7f\x06\0"
    frames = [photo(60, 40, seed=number).convert("P") for number in range(3)]
    return {
        "cmyk.jpg": (encoded(image.convert("CMYK"), "JPEG"), None),
        "rotated.jpg": (encoded(image, "JPEG", exif=exif), None),
        "corrupt_exif.jpg": (encoded(image, "JPEG", exif=broken_exif), None),
        "trailing.jpg": (encoded(image, "JPEG") + b"\0" * 5000, None),
        "png_inside.jpg": (encoded(image, "PNG"), None),
        "deep.png": (encoded(deep, "PNG"), None),
        "palette_transparent.png": (encoded(image.convert("P"), "PNG", transparency=bytes(range(200))), None),
        "alpha.png": (encoded(image.convert("RGBA"), "PNG"), None),
        "grey_alpha.png": (encoded(grey.convert("LA"), "PNG"), None),
        "one_bit.png": (encoded(image.convert("1"), "PNG"), None),
        "one_pixel.png": (encoded(photo(1, 1), "PNG"), None),
        "tall.png": (encoded(photo(1, 20_000), "PNG"), None),
        "wide.png": (encoded(photo(20_000, 1), "PNG"), None),
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), None),
        "animated.webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), None),
        "loop.tif": (bytes(loop), None),
        "float_01.tif": (encoded(Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "TIFF"), None),
        "float_any.tif": (encoded(Image.fromarray(np.asarray(grey).astype(np.float32)), "TIFF"), "scale is unknown"),
        "sound.avif": (encoded(image, "AVIF"), None),
    }


def _odd_places(folder: Path) -> dict[str, str | None]:
    """Names and kinds of entries that the platform may not have; those it refuses are left out."""
    sound = encoded(photo(32, 24), "JPEG")

    def folder_called_jpg() -> dict[str, str | None]:
        (folder / "folder.jpg").mkdir()
        (folder / "folder.jpg" / "inside.jpg").write_bytes(sound)
        return {"folder.jpg/inside.jpg": None}

    def broken_link() -> dict[str, str | None]:
        (folder / "broken_link.jpg").symlink_to(folder / "nowhere.jpg")
        return {"broken_link.jpg": "broken link"}

    def circular_link() -> dict[str, str | None]:
        (folder / "circular_link.jpg").symlink_to(folder / "circular_link.jpg")
        return {"circular_link.jpg": "cannot be examined"}

    def named_pipe() -> dict[str, str | None]:
        if sys.platform == "win32":
            return {}
        os.mkfifo(folder / "pipe.jpg")
        return {"pipe.jpg": "not a regular file"}

    def not_utf8() -> dict[str, str | None]:
        if sys.platform in ("win32", "darwin"):  # their file systems take Unicode only
            return {}
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).write_bytes(sound)
        return {"caf\\xe9.jpg": "not valid UTF-8"}

    def same_after_nfc() -> dict[str, str | None]:
        (folder / "\u00e9.jpg").write_bytes(sound)
        if (folder / "e\u0301.jpg").exists():  # a file system that compares normalized names
            return {"\u00e9.jpg": None}
        (folder / "e\u0301.jpg").write_bytes(sound)
        return {"\u00e9.jpg": None, "e\\u0301.jpg": "equals another one"}

    expected: dict[str, str | None] = {}
    makers: list[Callable[[], dict[str, str | None]]] = [folder_called_jpg, broken_link, circular_link, named_pipe]
    for make in [*makers, not_utf8, same_after_nfc]:
        with contextlib.suppress(OSError):  # Windows without the right to make links
            expected.update(make())
    return expected
