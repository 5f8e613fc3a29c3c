"""What a photo is made of by colour alone: the baseline that a network has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "hsv", "hsv_histogram"]

BINS = (8, 4, 4)
"""Of hue, saturation and value."""


def hsv(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn RGB into hue, saturation and value, each in [0, 1].

    Parameters
    ----------
    pixels : ndarray of shape (..., 3), uint8
        RGB, 0-255.

    Returns
    -------
    ndarray of shape (..., 3), float32
        By the hexcone model (Smith 1978), as `colorsys.rgb_to_hsv` has it. Grey has hue and saturation 0.
    """
    rgb = pixels.astype(np.float32) / 255
    red, green, blue = np.moveaxis(rgb, -1, 0)
    value = rgb.max(-1)
    spread = value - rgb.min(-1)
    some = np.where(spread == 0, 1, spread)
    sector = np.select(
        [spread == 0, value == red, value == green],
        [np.zeros_like(value), (green - blue) / some % 6, (blue - red) / some + 2],
        (red - green) / some + 4,
    )
    return np.stack([sector / 6, spread / np.where(value == 0, 1, value), value], axis=-1).astype(np.float32)


def hsv_histogram(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Count a picture's colours.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), uint8

    Returns
    -------
    ndarray of shape (128,), float32
        The square roots of the shares of 8 x 4 x 4 bins: of length 1, so that the dot product of two is the
        Bhattacharyya coefficient of the histograms.
    """
    bins = np.array(BINS)
    places = np.minimum((hsv(pixels).reshape(-1, 3) * bins).astype(np.intp), bins - 1)
    counts = np.bincount(np.ravel_multi_index(places.T, BINS), minlength=int(np.prod(BINS)))
    return np.asarray(np.sqrt(counts / counts.sum()), dtype=np.float32)
