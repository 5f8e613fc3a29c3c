"""The photos as the catalog names them: by id, by key, by label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.store.catalog import Catalog

__all__ = ["CatalogPhotos", "Photo"]


class Photo(NamedTuple):
    """An image of the library.

    Attributes
    ----------
    id : int
    key, path, label : str
    size : int
        Of the file that was extracted, bytes.
    content : bytes
        BLAKE2b-128 digest of that file.
    """

    id: int
    key: str
    path: str
    label: str
    size: int
    content: bytes


class CatalogPhotos:
    """Questions about photos, asked of an open catalog.

    Parameters
    ----------
    catalog : Catalog
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def by_id(self, number: int) -> Photo | None:
        """The photo with this id; None where none is live."""
        return self._one("id", number)

    def by_key(self, key: str) -> Photo | None:
        """The photo with this key; None where none is live."""
        return self._one("key", key)

    def _one(self, column: str, value: int | str) -> Photo | None:
        query = f"SELECT id, key, path, label, size, content FROM images WHERE {column} = ?"  # noqa: S608 - id or key
        found = self._catalog.execute(query, (value,))
        return Photo(*found[0]) if found else None

    def label_counts(self, most: int) -> list[tuple[str, int]]:
        """Label and number of photos, the most frequent labels first; photos without a label are left out."""
        query = (
            "SELECT label, count(*) AS photos FROM images WHERE label <> '' "
            "GROUP BY label ORDER BY photos DESC, label LIMIT ?"
        )
        return [(str(label), int(photos)) for label, photos in self._catalog.execute(query, (most,))]

    def ids_of_label(self, label: str) -> NDArray[np.int64]:
        """Ids of the photos with this label, ascending: shape (n,), int64."""
        query = "SELECT id FROM images WHERE label = ? ORDER BY id"
        return np.fromiter((number for (number,) in self._catalog.iterate(query, (label,))), np.int64)

    def labels_of(self, ids: Iterable[int]) -> dict[int, str]:
        """Labels by id. An id that is not live is left out."""
        return {number: label for number, (_, _, label) in self._catalog.names(list(ids)).items()}
