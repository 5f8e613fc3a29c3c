"""From a folder of files to batches of RGB pixels; the only room that knows Pillow.

The route: `sources` lists (`stl10` the images of one file), `decode` turns files into pixels on threads (`formats`
opens them, `cost` foresees the memory, `gate` holds back, `rgb` makes the pixels), `augment` adds changed copies where
they are asked for, `batches` stacks them. Where threads
cannot keep up with a device, as `feeding` finds, `decode_pool` has processes do it, each a `decode_worker`. `canvas`
and `drawn` go the other way: from pixels to picture files.

What needs Pillow is imported from its own file (``from streamer.images.decode import decode_stream``), so that
listing a source stays light.
"""

from __future__ import annotations

from streamer.images.batches import batches
from streamer.images.sources import IMAGE_SUFFIXES, FolderSource, SourceUnavailableError
from streamer.images.stl10 import Stl10Source

__all__ = ["IMAGE_SUFFIXES", "FolderSource", "SourceUnavailableError", "Stl10Source", "batches"]
