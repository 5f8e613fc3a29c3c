"""From a folder of files to batches of RGB pixels; the only room that knows Pillow.

The route: `sources` lists, and `places` opens what was listed; `downloads` fetches ahead what is not on this machine;
`labels` gives labels from a CSV file; `decode` turns bytes into pixels on threads (`formats` knows the files, `cost`
foresees the memory, `gate` holds back, `rgb` makes the pixels); `augment` adds changed copies where they are asked for,
and `batches` stacks them. Where threads cannot keep up with a device, as `feeding` finds, `decode_pool` has processes
do it, each a `decode_worker`. `canvas` and `drawn` go the other way: from pixels to picture files.
"""

from __future__ import annotations

from streamer.images.batches import batches
from streamer.images.labels import Labels, labelled, read_labels
from streamer.images.sources import (
    IMAGE_SUFFIXES,
    ArraySource,
    FolderSource,
    ListSource,
    RemoteSource,
    SourceUnavailableError,
    Stl10Source,
    TarSource,
    ZipSource,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "ArraySource",
    "FolderSource",
    "Labels",
    "ListSource",
    "RemoteSource",
    "SourceUnavailableError",
    "Stl10Source",
    "TarSource",
    "ZipSource",
    "batches",
    "labelled",
    "read_labels",
]
