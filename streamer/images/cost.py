"""How much memory decoding a picture will take, told from its header.

The figures are what Pillow 13.0 holds at its peak for 5,000 x 4,000 pixels, measured as the growth of the resident
size (VmHWM after clear_refs) for 37 kinds of files. The estimates lie 0.5 to 30 % above; for TIFF and AVIF, whose
inner layout the header does not tell, up to three times.
"""

from __future__ import annotations

from streamer.images.formats import DRAFT_MARGIN, Header

__all__ = ["decoding_bytes"]

# Pillow keeps RGB in 4 bytes. "+A" marks a transparent colour, see `formats.examine`.
_STORED_BYTES = {"1": 1, "L": 1, "P": 1, "L+A": 1, "P+A": 1, "1+A": 1, "I;16": 2, "I;16B": 2}
_STORED_BYTES_ELSE = 4

# What `rgb` makes of the stored pixels at full size, while it still holds them: the mode's own conversion to RGB, or
# to RGBA and then to premultiplied RGBa. Modes that are resized as they are need nothing.
_CONVERTED_BYTES = {"1": 1, "P": 4, "1+A": 8, "L+A": 8, "P+A": 8, "RGB+A": 8, "LA": 8, "PA": 8, "RGBA": 4, "I;16B": 4}
_CONVERTED_BYTES_ELSE = 4
_RESIZED_AS_THEY_ARE = {"L", "RGB", "YCbCr", "I;16", "I", "F"}

# libwebp: two canvases and a frame in RGBA beside the picture. libavif and libheif: planes of up to 16 bits, and RGBA.
_WHOLE_FORMAT_BYTES = {"WEBP": 16, "AVIF": 14, "HEIF": 14}
_FILE_COPIES = {"WEBP": 4, "AVIF": 2, "HEIF": 2}

_FIXED_BYTES = 1024 * 1024


def decoding_bytes(header: Header, file_bytes: int, size: tuple[int, int]) -> int:
    """Foresee what reading, decoding, converting and resizing one picture holds at its peak.

    Parameters
    ----------
    header : Header
    file_bytes : int
        Size of the file, which is in memory while it is decoded.
    size : tuple of int
        (height, width) wanted, upright.

    Returns
    -------
    int
        Bytes.
    """
    want_height, want_width = size if header.orientation < 5 else size[::-1]
    width, height = header.width, header.height
    full_pixels = width * height
    total = file_bytes * _FILE_COPIES.get(header.format, 1) + full_pixels * header.coefficient_bytes
    if header.format == "JPEG":
        scale = _draft_scale(width, height, want_width, want_height)
        width, height = -(-width // scale), -(-height // scale)
    stored = _STORED_BYTES.get(header.mode, _STORED_BYTES_ELSE)
    per_pixel = stored
    if header.mode not in _RESIZED_AS_THEY_ARE:
        per_pixel += _CONVERTED_BYTES.get(header.mode, _CONVERTED_BYTES_ELSE)
    if header.format == "TIFF":
        # A strip may be the whole picture, with up to 16 bits a channel; turning it upright makes a copy as well.
        per_pixel += 2 * stored
    per_pixel = max(per_pixel, _WHOLE_FORMAT_BYTES.get(header.format, 0) + (4 if header.mode == "RGBA" else 0))
    total += width * height * per_pixel
    total += _resizing_bytes(width, height, want_width, want_height)
    return int(total) + _FIXED_BYTES


def _draft_scale(width: int, height: int, want_width: int, want_height: int) -> int:
    """Return the divisor that Pillow's ``draft`` chooses: the largest that keeps the picture above what `rgb` asks."""
    room = min(width // (DRAFT_MARGIN * want_width), height // (DRAFT_MARGIN * want_height))
    return next((scale for scale in (8, 4, 2) if room >= scale), 1)


def _resizing_bytes(width: int, height: int, want_width: int, want_height: int) -> int:
    """Count the half-way picture (see `rgb`), the filter's weights (two doubles a pixel of a side), row pointers."""
    half_way = 4 * (want_width * height if width >= want_width else width * want_height)
    return half_way + 16 * (width + height) + 8 * 3 * (height + want_height)
