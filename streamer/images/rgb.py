"""From an opened picture to upright RGB pixels of a given size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from streamer.images.formats import DRAFT_MARGIN, orientation
from streamer.images.opened import UnreadableImageError

__all__ = ["DECODE_RECIPE", "SizeFor", "rgb_pixels"]

DECODE_RECIPE = "pillow-bilinear-2"
"""Part of the fingerprint. Raise its number with any change that alters pixels of a sound picture: the filter, the
draft rule, the order of resizing and colour conversion, the background of transparent pictures, colour management
(today: none, as Keras). Do not for a new format, a better reason, or a change that only the last bit shows."""

SizeFor = Callable[[int, int], tuple[int, int]]
"""From a picture's upright (width, height) to the (height, width) wanted of it."""

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge of what a picture shows, in its pixels."""

_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


def rgb_pixels(picture: ImageFile.ImageFile, size_for: SizeFor) -> NDArray[np.uint8]:
    """Decode a picture, turn it upright, resize it, and bring it to RGB.

    The filter is bilinear, widened when shrinking so that every source pixel counts (Pillow's own). The aspect is not
    kept: `size_for` decides. Of an animation the first frame is taken. Transparent pictures are laid over white.

    Parameters
    ----------
    picture : PIL.ImageFile.ImageFile
        Opened, not loaded.
    size_for : callable
        See `SizeFor`.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
        RGB, 0-255, C-contiguous.

    Raises
    ------
    UnreadableImageError
        The values of the pixels have no known range.
    Exception
        Of whatever class Pillow chooses, when the data is damaged.
    """
    if isinstance(picture, JpegImageFile):
        # Known before loading, so that libjpeg can scale by 1/2, 1/4 or 1/8 while it decodes: a 4000 x 3000 photo
        # takes a quarter of the time.
        turn = orientation(picture)
        stored_size = _stored(size_for(*_upright(picture.size, turn)), turn)
        full_size = picture.size
        drafted = picture.draft(None, (DRAFT_MARGIN * stored_size[0], DRAFT_MARGIN * stored_size[1]))
        picture.load()
        # 2709 columns become 678 of which the last stands for a quarter of one: stretched as if it were whole, the
        # pixels were off by 2.5 of 255 on average, and are by 0.2 now.
        box = drafted[1] if drafted and picture.size != full_size else None
    else:
        box = None
        # Pillow turns a TIFF upright by itself while loading, and drops the tag.
        picture.load()
        turn = orientation(picture)
        stored_size = _stored(size_for(*_upright(picture.size, turn)), turn)
    # Turning comes last: it is the small picture that is turned.
    return np.ascontiguousarray(_turned(_to_rgb(picture, stored_size, box), turn))


def _upright(size: tuple[int, int], turn: int) -> tuple[int, int]:
    return size if turn < 5 else (size[1], size[0])


def _stored(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """From (height, width) wanted to the (width, height) that the picture has before it is turned."""
    return (size[1], size[0]) if turn < 5 else size


def _turned(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation (CIPA DC-008, tag 0x0112); 5 to 8 swap rows and columns."""
    if turn in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if turn in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if turn >= 5 else pixels


def _to_rgb(picture: Image.Image, size: tuple[int, int], box: Box | None) -> NDArray[np.uint8]:
    """Resize the box to (width, height) and convert, in the order that is right for the mode.

    Resizing is a weighted mean, so it may come first wherever the conversion is linear, and saves memory and time. An
    index into a palette has no mean; neither may ink (CMYK to RGB multiplies) nor LAB be averaged first.
    """
    mode = picture.mode
    if mode in _DEEP_MODES:
        # Pillow 13.0 resizes big-endian I;16B as if it were little-endian, and clips on the way from it to I;16.
        native = picture if mode == "I;16" else picture.convert("I")
        return _grey(_sixteen_to_eight(_resized(native, size)))
    if mode == "I":
        return _grey(_sixteen_to_eight(_resized(_checked_range(picture, 65535), size)))
    if mode == "F":
        return _grey(_float_to_eight(_resized(_checked_range(picture, 1), size)))
    if picture.has_transparency_data:
        return _over_white(_with_alpha(picture), size)
    if mode in ("1", "L"):
        return _grey(np.asarray(_resized(picture.convert("L") if mode == "1" else picture, size, box)))
    if mode not in ("RGB", "YCbCr"):
        return np.asarray(_resized(picture.convert("RGB"), size, box))
    return np.asarray(_resized(picture, size, box).convert("RGB"))


def _resized(picture: Image.Image, size: tuple[int, int], box: Box | None = None) -> Image.Image:
    """Resize with the filter of the recipe.

    Pillow goes across first and keeps that half-way result at full height: for a strip of 1 x 100,000,000 pixels,
    90 GB of it. Where the width grows, going down first keeps it small.
    """
    if picture.width < size[0]:  # which no JPEG that was scaled down while decoding is: there is no box
        picture = picture.resize((picture.width, size[1]), Image.Resampling.BILINEAR)
    return picture.resize(size, Image.Resampling.BILINEAR, box)


def _with_alpha(picture: Image.Image) -> Image.Image:
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:
        # A 16-bit PNG names its transparent colour in 16 bits, while Pillow keeps the upper 8 of the pixels.
        picture.info["transparency"] = tuple(value >> 8 for value in key)
    return picture if picture.mode in ("RGBA", "RGBa") else picture.convert("RGBA")


def _over_white(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize with premultiplied alpha and lay over white.

    colour x alpha + white x (1 - alpha) is linear in the premultiplied colour: resizing first gives the same, and the
    colours that hide under transparent pixels do not bleed into their neighbours.
    """
    premultiplied = np.asarray(_resized(picture.convert("RGBa"), size)).astype(np.uint16)
    over_white: NDArray[np.uint16] = np.minimum(premultiplied[..., :3] + (255 - premultiplied[..., 3:]), 255)
    return over_white.astype(np.uint8)


def _checked_range(picture: Image.Image, most: int) -> Image.Image:
    low, high = picture.getextrema()
    assert isinstance(low, (int, float)) and isinstance(high, (int, float))
    if low < 0 or high > most:
        raise UnreadableImageError(
            f"pixel values from {low:g} to {high:g}: their scale is unknown (only 0 to {most} is, in mode "
            f"{picture.mode}). Convert the file to 8 or 16 bits."
        )
    return picture


def _sixteen_to_eight(picture: Image.Image) -> NDArray[np.uint8]:
    """Scale 0..65535 to 0..255: divide by 257 and round."""
    return ((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8)


def _float_to_eight(picture: Image.Image) -> NDArray[np.uint8]:
    values: NDArray[np.float32] = np.asarray(picture)
    if not np.isfinite(values).all():  # after resizing: what is no number spreads to its neighbours
        raise UnreadableImageError("some pixel values are not numbers (NaN)")
    scaled: NDArray[np.float32] = np.rint(values.clip(0, 1) * 255)
    return scaled.astype(np.uint8)


def _grey(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(values[..., np.newaxis], 3, axis=2)
