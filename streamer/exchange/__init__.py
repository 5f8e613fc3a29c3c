"""Features out to other tools, and features from elsewhere in."""

from streamer.exchange.exporting import FORMATS, Export, export_features
from streamer.exchange.importing import Import, import_features
from streamer.exchange.indexed import index_imported
from streamer.exchange.postgres import TableExport, export_to_postgres, is_postgres

__all__ = [
    "FORMATS",
    "Export",
    "Import",
    "TableExport",
    "export_features",
    "export_to_postgres",
    "import_features",
    "index_imported",
    "is_postgres",
]
