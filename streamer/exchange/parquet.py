"""Apache Parquet by way of pyarrow, which lives here only (extra: parquet)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamer.errors import EngineUnavailableError
from streamer.records import ExportBlock

__all__ = ["ParquetWriter", "is_parquet_export", "parquet_installed", "require_parquet"]

_MARK = b"streamer_export"


def parquet_installed() -> bool:
    """Whether pyarrow is there."""
    return importlib.util.find_spec("pyarrow") is not None


def require_parquet() -> None:
    """Refuse what takes pyarrow where it is missing.

    Raises
    ------
    EngineUnavailableError
    """
    if not parquet_installed():
        raise EngineUnavailableError(
            "--format parquet takes pyarrow, which is not installed: pip install '.[parquet]', or take another format"
        )


class ParquetWriter:
    """One file: id, key, label, path and, if asked for, features as float32 lists of fixed size. A row group a block.

    Parameters
    ----------
    path : Path
    output : str, optional
        Whose features; without it, names only.
    shape : tuple of int
        Of one image's feature. Lists are flat; the shape is kept in the metadata of the schema.
    path_column : str
        What the column of the paths is called.
    facts : mapping, optional
        Further metadata of the schema.
    """

    def __init__(
        self,
        path: Path,
        output: str | None = None,
        shape: tuple[int, ...] = (),
        *,
        path_column: str = "path",
        facts: Mapping[str, str] | None = None,
    ) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._output = output
        self._length = int(np.prod(shape))
        columns = [("id", pa.int64()), ("key", pa.string()), ("label", pa.string()), (path_column, pa.string())]
        if output is not None:
            columns.append(("features", pa.list_(pa.float32(), self._length)))
        metadata = {_MARK: b"1", **{name.encode(): text.encode() for name, text in (facts or {}).items()}}
        self._schema = pa.schema(columns, metadata=metadata)
        # A dictionary and statistics of floats that hardly repeat cost time and gain nothing.
        names = [name for name, _ in columns[:4]]
        self._writer = parquet.ParquetWriter(path, self._schema, use_dictionary=["label"], write_statistics=names)

    def append(self, block: ExportBlock) -> None:
        """Write the next images as a row group."""
        import pyarrow as pa

        texts = [pa.array(each, pa.string()) for each in (block.keys, block.labels, block.paths)]
        arrays: list[Any] = [pa.array(block.ids), *texts]
        if self._output is not None:
            flat = pa.array(block.features[self._output].reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, self._length))
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(block.ids))

    def close(self) -> None:
        """Write what ends the file."""
        self._writer.close()


def is_parquet_export(path: Path) -> bool:
    """Whether `ParquetWriter` has written this file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return _MARK in (parquet.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False
