"""Where images come from: each source lists what it has, and opens what it listed."""

from streamer.images.sources.arrays import ArraySource
from streamer.images.sources.folder import IMAGE_SUFFIXES, FolderSource, SourceUnavailableError
from streamer.images.sources.listed import ListSource
from streamer.images.sources.remote import RemoteSource
from streamer.images.sources.stl10 import Stl10Source
from streamer.images.sources.tar import TarSource
from streamer.images.sources.zip import ZipSource

__all__ = [
    "IMAGE_SUFFIXES",
    "ArraySource",
    "FolderSource",
    "ListSource",
    "RemoteSource",
    "SourceUnavailableError",
    "Stl10Source",
    "TarSource",
    "ZipSource",
]
