"""Pictures for a browser: which it shows as they are, and smaller or other ones made as JPEG."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamer.images.formats import HEAD_BYTES, examine, sniff
from streamer.images.gate import ByteGate
from streamer.images.pixels import DecodeLimits, read_pixels
from streamer.images.places import open_image_at

__all__ = ["HEAD_BYTES", "is_picture", "jpeg_preview", "picture_size", "shown_media_type"]

_JPEG_QUALITY = 85
_SHOWN = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "BMP": "image/bmp",
}


def is_picture(head: bytes) -> bool:
    """Whether a file that starts so is in a format that is read here."""
    return sniff(head) is not None


def shown_media_type(head: bytes) -> str | None:
    """Media type of a file that starts so; None where browsers do not show it, or it is no picture."""
    return _SHOWN.get(sniff(head) or "")


def picture_size(path: str) -> tuple[int, int] | None:
    """Width and height of a picture as it is shown, by its header; None where that cannot be read."""
    try:
        with open_image_at(path) as image:
            if image.side_pixels is not None:
                return image.side_pixels[1], image.side_pixels[0]
            head = image.file.read(HEAD_BYTES)
            format_name = sniff(head)
            if format_name is None:
                return None
            header = examine(image.file, head, format_name)
    except Exception:  # noqa: BLE001 - Pillow raises anything over a damaged header
        return None
    return (header.width, header.height) if header.orientation < 5 else (header.height, header.width)


def jpeg_preview(
    path: str, longest_side: int, limits: DecodeLimits, gate: ByteGate | None = None
) -> tuple[bytes, bytes]:
    """Make a JPEG of a picture: upright, its aspect kept, no larger than it is.

    Parameters
    ----------
    path : str
    longest_side : int
        Pixels.
    limits : DecodeLimits
    gate : ByteGate, optional
        Held while the picture is decoded, for no less than encoding it takes.

    Returns
    -------
    jpeg : bytes
    content : bytes
        BLAKE2b-128 digest of the file it was made of.

    Raises
    ------
    UnreadableImageError
        The file cannot be read, is no picture, is damaged, or exceeds a limit.
    """

    def fitted(width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, longest_side / max(width, height))
        return max(1, round(height * scale)), max(1, round(width * scale))

    pixels, content = read_pixels(path, fitted, limits, gate, further_bytes=_encoding_bytes)
    return _encoded(pixels), content


def _encoding_bytes(size: tuple[int, int]) -> int:
    """Pixels, Pillow's copy with 4 bytes each, and a file that was met with no more than one."""
    return 8 * size[0] * size[1]


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
