"""What a network wants done to pixels before its first layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["IMAGENET_MEANS_BGR", "preprocessed"]

IMAGENET_MEANS_BGR = (103.939, 116.779, 123.68)
"""What Caffe-style networks subtract from blue, green and red."""


def preprocessed(pixels: NDArray[np.uint8], preprocessing: str) -> NDArray[np.float32]:
    """Prepare one image, with the same float32 arithmetic as Keras.

    Folded into the first layer, this would shift the zeros that pad the border too.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), uint8
        RGB, 0-255.
    preprocessing : {"caffe", "tf"}
        See `Backbone`.

    Returns
    -------
    ndarray of shape (3, height, width), float32
        C-contiguous.
    """
    prepared = np.array(pixels.transpose(2, 0, 1), np.float32, order="C")
    if preprocessing == "caffe":
        prepared = np.ascontiguousarray(prepared[::-1])
        prepared -= np.array(IMAGENET_MEANS_BGR, np.float32)[:, None, None]
    else:
        prepared /= np.float32(127.5)
        prepared -= np.float32(1)
    return prepared
