"""A folder with one ``.npy`` file of features, laid out as clip-retrieval and autofaiss read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamer.exchange.keys import KeysWriter
from streamer.exchange.parquet import ParquetWriter, parquet_installed
from streamer.records import ExportBlock

__all__ = ["FEATURES", "KEYS", "NpyFolder"]

FEATURES = "img_emb/img_emb_0.npy"
KEYS = "keys.csv"
_METADATA = "metadata/metadata_0.parquet"


class NpyFolder:
    """``img_emb/img_emb_0.npy``, ``keys.csv``, with pyarrow ``metadata/metadata_0.parquet``: a row an image in each.

    Parameters
    ----------
    folder : Path
        Empty.
    output : str
    shape : tuple of int
        Of one image's feature. ``autofaiss`` takes vectors only.
    """

    def __init__(self, folder: Path, output: str, shape: tuple[int, ...]) -> None:
        self._output = output
        self._shape = shape
        self._rows = 0
        features = folder / FEATURES
        features.parent.mkdir()
        self._keys = KeysWriter(folder / KEYS)
        self._metadata: ParquetWriter | None = None
        if parquet_installed():
            metadata = folder / _METADATA
            metadata.parent.mkdir()
            # clip-retrieval looks for the photo under this name.
            self._metadata = ParquetWriter(metadata, path_column="image_path")
        self._file = features.open("wb")
        self._write_header()
        self._header_bytes = self._file.tell()

    def append(self, block: ExportBlock) -> None:
        """Write the next images."""
        self._file.write(np.ascontiguousarray(block.features[self._output], dtype="<f4").data)
        self._rows += len(block.ids)
        self._keys.append(block)
        if self._metadata is not None:
            self._metadata.append(block)

    def close(self) -> None:
        """Note the number of images, and close the files."""
        try:
            self._file.seek(0)
            self._write_header()
            # numpy leaves room in a header for the first axis to grow, so it is as long as it was.
            assert self._file.tell() == self._header_bytes
        finally:
            self._file.close()
            self._keys.close()
            if self._metadata is not None:
                self._metadata.close()

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
