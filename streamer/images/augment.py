"""The stage that adds randomly changed copies of each picture, to train on."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamer.records import Augmentation, Decoded, Known, Rejected

__all__ = ["AUGMENT_RECIPE", "augmented", "augmented_pixels"]

AUGMENT_RECIPE = "crop-flip-brightness-1"
"""Part of the fingerprint. Raise its number with any change that alters the pixels of a copy: the draw, the order of
the steps, the filter."""

_DRAWS = 6


def augmented(
    decoded: Iterable[Decoded | Known | Rejected], augmentation: Augmentation
) -> Iterator[Decoded | Known | Rejected]:
    """Put the copies of each picture into the stream, before the picture itself.

    A picture that has been stored thus has all its copies: whoever is interrupted between them makes them all again.

    Parameters
    ----------
    decoded : iterable of Decoded, Known or Rejected
        Only what is decoded gets copies; the rest is passed on in its place.
    augmentation : Augmentation

    Yields
    ------
    Decoded, Known or Rejected
        Copies 1, 2, ... of a picture, and the picture, untouched.
    """
    for item in decoded:
        if isinstance(item, Decoded):
            for copy in range(1, augmentation.copies + 1):
                pixels = augmented_pixels(item.pixels, item.content, copy, augmentation)
                yield replace(item, pixels=pixels, copy=copy)
        yield item


def augmented_pixels(
    pixels: NDArray[np.uint8], content: bytes, copy: int, augmentation: Augmentation
) -> NDArray[np.uint8]:
    """One copy of a picture: cropped and resized back (bilinear), mirrored or not, brighter or darker.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), uint8
        RGB, 0-255.
    content : bytes
        Digest of the picture's file.
    copy : int
    augmentation : Augmentation

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
        RGB, 0-255. It depends on the arguments alone, whatever was made before.
    """
    cut_height, cut_width, above, before, mirrored, brightness = _draw(content, copy, augmentation.seed)
    height, width = pixels.shape[:2]
    cut_height *= augmentation.crop * height
    cut_width *= augmentation.crop * width
    top, left = above * cut_height, before * cut_width
    box = (left, top, left + width - cut_width, top + height - cut_height)
    copied = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box=box))
    if augmentation.flip and mirrored < 0.5:
        copied = copied[:, ::-1]
    factor = np.float32(1 + augmentation.brightness * (2 * brightness - 1))
    changed: NDArray[np.uint8] = np.rint(np.minimum(copied * factor, 255)).astype(np.uint8)
    return changed


def _draw(content: bytes, copy: int, seed: int) -> list[float]:
    """Numbers in [0, 1), as if at random, and the same on every machine and with every release of NumPy."""
    digest = blake2b(b"%d %d " % (seed, copy) + content, digest_size=8 * _DRAWS).digest()
    return [number / 2.0**64 for number in struct.unpack(f"<{_DRAWS}Q", digest)]
