"""From a folder of files to batches of RGB pixels; the only room that knows Pillow.

The route: `sources` lists (`stl10` the images of one file), `labels` gives them labels from a CSV file, `decode` turns
files into pixels on threads (`formats` opens them, `cost` foresees the memory, `gate` holds back, `rgb` makes the
pixels), `augment` adds changed copies where they are asked for, `batches` stacks them. Where threads cannot keep up
with a device, as `feeding` finds, `decode_pool` has processes do it, each a `decode_worker`. `canvas` and `drawn` go
the other way: from pixels to picture files.
"""

from __future__ import annotations

from streamer.images.batches import batches
from streamer.images.labels import Labels, labelled, read_labels
from streamer.images.sources import IMAGE_SUFFIXES, FolderSource, SourceUnavailableError
from streamer.images.stl10 import Stl10Source

__all__ = [
    "IMAGE_SUFFIXES",
    "FolderSource",
    "Labels",
    "SourceUnavailableError",
    "Stl10Source",
    "batches",
    "labelled",
    "read_labels",
]
