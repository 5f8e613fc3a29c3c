"""Features in, a published index generation out: fit PCA, build the index, measure its recall, publish."""

from streamer.indexing.builder import IndexBuilder
from streamer.indexing.settings import IndexSettings

__all__ = ["IndexBuilder", "IndexSettings"]
