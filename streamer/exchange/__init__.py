"""Features out to other tools, and features from elsewhere in."""

from streamer.exchange.exporting import FORMATS, Export, export_features
from streamer.exchange.importing import Import, import_features
from streamer.exchange.indexed import index_imported

__all__ = ["FORMATS", "Export", "Import", "export_features", "import_features", "index_imported"]
