"""From pixels to picture files: thumbnails, and a canvas to lay them out on for contact sheets and reports."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from streamer import files
from streamer.images.opened import UnreadableImageError
from streamer.images.pixels import DecodeLimits, read_pixels

__all__ = ["THUMBNAIL_LIMITS", "Canvas", "Colour", "thumbnail"]

Colour = tuple[int, int, int]
"""RGB, 0-255."""

THUMBNAIL_LIMITS = DecodeLimits(max_pixels=200_000_000, max_file_bytes=256 * 2**20, memory_bytes=256 * 2**20)
"""A sheet is no reason to take more memory than the run that it reports on."""

_GROUND = 238
_CROSS = 200
_LONGEST_TEXT = 1000
_ELLIPSIS = "..."  # three dots: Pillow's own font draws U+2026 as an empty box


def thumbnail(path: str | Path, side: int, limits: DecodeLimits = THUMBNAIL_LIMITS) -> NDArray[np.uint8]:
    """Fit a picture into a square, its aspect kept, on a light grey ground.

    Parameters
    ----------
    path : str or Path
    side : int
        Pixels.
    limits : DecodeLimits, optional

    Returns
    -------
    ndarray of shape (side, side, 3), uint8
        RGB, 0-255. A crossed-out square when the picture cannot be read: a sheet must not fail because a file has
        gone since it was indexed.
    """

    def fitted(width: int, height: int) -> tuple[int, int]:
        scale = side / max(width, height)
        return max(1, round(height * scale)), max(1, round(width * scale))

    square = np.full((side, side, 3), _GROUND, np.uint8)
    try:
        pixels, _content = read_pixels(str(path), fitted, limits)
    except UnreadableImageError:
        steps = np.arange(side)
        square[steps, steps] = square[steps, steps[::-1]] = _CROSS
        square[[0, -1]] = square[:, [0, -1]] = _CROSS
        return square
    height, width = pixels.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


class Canvas:
    """A picture to draw on. Positions are pixels from the top left corner; what lies outside is cut off.

    Parameters
    ----------
    width, height : int
        Pixels.
    background : Colour, optional
    """

    def __init__(self, width: int, height: int, background: Colour = (255, 255, 255)) -> None:
        self._image = Image.new("RGB", (width, height), background)
        self._draw = ImageDraw.Draw(self._image)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """A copy of what has been drawn: ndarray of shape (height, width, 3), uint8, RGB."""
        return np.array(self._image)

    def paste(self, pixels: NDArray[np.uint8], x: int, y: int) -> None:
        """Put a picture, uint8 RGB of shape (height, width, 3), with its top left corner at (x, y)."""
        self._image.paste(Image.fromarray(np.ascontiguousarray(pixels, np.uint8)), (x, y))

    def rectangle(
        self,
        x: int,
        y: int,
        width: int,
        height: int,
        *,
        fill: Colour | None = None,
        outline: Colour | None = None,
        line_width: int = 1,
    ) -> None:
        """Draw a rectangle, filled, outlined (the line inside its bounds) or both."""
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=fill, outline=outline, width=line_width)

    def text(
        self,
        x: int,
        y: int,
        text: str,
        *,
        size: int = 14,
        colour: Colour = (30, 30, 30),
        max_width: int | None = None,
    ) -> int:
        """Write one line whose top left corner is (x, y).

        Parameters
        ----------
        x, y : int
        text : str
            Accents are left out, and characters that Pillow's own font lacks show as boxes: it has ASCII only.
        size : int, optional
            Height of the font in pixels.
        colour : Colour, optional
        max_width : int, optional
            Pixels; a longer text is cut and ends in dots.

        Returns
        -------
        int
            Width of what was written, pixels.
        """
        font = ImageFont.load_default(size)
        line = _printable(text, font)
        if max_width is not None and font.getlength(line) > max_width:
            line = _cut(line, font, max_width)
        self._draw.text((x, y), line, fill=colour, font=font)
        return round(font.getlength(line))

    def save(self, path: Path) -> None:
        """Write a PNG file, atomically."""
        with files.published(path) as partial:
            self._image.save(partial, format="PNG")


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _printable(text: str, font: _Font) -> str:
    """Leave what the font's code takes: a Pillow without FreeType has Latin-1 only, and raises on all else."""
    encoding = "utf-8" if isinstance(font, ImageFont.FreeTypeFont) else "latin-1"
    line = " ".join(text[:_LONGEST_TEXT].split())
    line = "".join(
        character for character in unicodedata.normalize("NFKD", line) if not unicodedata.combining(character)
    )
    return line.encode(encoding, "replace").decode(encoding)


def _cut(line: str, font: _Font, max_width: int) -> str:
    """Return the longest start of `line` that fits with dots after it; nothing when not even the dots fit."""
    fits, too_long = -1, len(line)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if font.getlength(line[:middle].rstrip() + _ELLIPSIS) <= max_width:
            fits = middle
        else:
            too_long = middle
    return line[:fits].rstrip() + _ELLIPSIS if fits >= 0 else ""
