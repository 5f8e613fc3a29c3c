"""Images in, features out: a network, an engine to run it, and the memory plan that both keep to."""

from streamer.extraction.extractor import Extractor, ExtractSettings
from streamer.extraction.network import Network

__all__ = ["ExtractSettings", "Extractor", "Network"]
