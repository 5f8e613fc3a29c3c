"""L2 -> PCA -> L2, fitted out of core on blocks of rows.

The vectors that come out serve to find candidates; the answer is ranked on the full-precision features.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.errors import IndexMissingError
from streamer.files import published

__all__ = ["Reducer", "block_sizes", "fit", "fit_bytes", "unit_rows"]

_LOG = logging.getLogger(__name__)


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each row by its Euclidean length; a row of zeros stays one.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32

    Returns
    -------
    ndarray of shape (n, d), float32
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    lengths[lengths == 0] = 1
    unit: NDArray[np.float32] = rows / lengths[:, None].astype(np.float32)
    return unit


@dataclass(frozen=True)
class Reducer:
    """A fitted L2 -> PCA -> L2.

    Attributes
    ----------
    mean : ndarray of shape (d,), float32
        Mean of the L2-normalised rows.
    components : ndarray of shape (k, d), float32
        Principal axes, the first explains most. Whitening, when asked for, is already multiplied in.
    explained_variance : ndarray of shape (k,), float32
        Variance along each axis.
    explained_variance_ratio : ndarray of shape (k,), float32
        Its share of the whole variance.
    n_rows : int
        Rows it was fitted on.
    whiten : bool
    asked : int
        Components that were asked for; fewer are there when there were too few rows or features.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    explained_variance: NDArray[np.float32]
    explained_variance_ratio: NDArray[np.float32]
    n_rows: int
    whiten: bool
    asked: int

    def transform(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reduce rows.

        Parameters
        ----------
        rows : ndarray of shape (n, d), float32

        Returns
        -------
        ndarray of shape (n, k), float32
            Of unit length.
        """
        return unit_rows(unit_rows(rows) @ self.components.T - self._centre)

    @cached_property
    def _centre(self) -> NDArray[np.float32]:
        """The mean along the axes."""
        centre: NDArray[np.float32] = self.components @ self.mean
        return centre

    def save(self, path: Path) -> None:
        """Write it as plain arrays (``.npz``), atomically."""
        with published(path) as partial, partial.open("wb") as file:
            np.savez(file, **{each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Reducer:
        """The inverse of `save`.

        Raises
        ------
        IndexMissingError
            If the file is missing or damaged.
        """
        try:
            # Opened here: numpy leaves a file of its own open when the archive is damaged.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                arrays = {name: data[name] for name in ("mean", "components", *_SPECTRUM)}
                return cls(**arrays, n_rows=int(data["n_rows"]), whiten=bool(data["whiten"]), asked=int(data["asked"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise IndexMissingError(f"{path}: the reducer is damaged ({error}); run 'streamer reduce'") from error


_SPECTRUM = ("explained_variance", "explained_variance_ratio")


def usable_components(components: int, n_rows: int, n_features: int) -> int:
    """How many components n rows of d features can give: centring takes one degree of freedom away."""
    return max(1, min(components, n_rows - 1, n_features))


def block_sizes(n_rows: int, target: int, minimum: int) -> Iterator[int]:
    """Cut `n_rows` into nearly equal blocks of at most about `target` rows, none below `minimum`.

    IncrementalPCA refuses a block with fewer rows than components, so no small rest may be left over.
    """
    count = max(1, min(-(-n_rows // max(target, 1)), n_rows // max(minimum, 1)))
    for number in range(count):
        yield n_rows // count + (number < n_rows % count)


def fit_bytes(block_rows: int, n_components: int, n_features: int) -> int:
    """Memory that `fit` needs for a block, bytes.

    scikit-learn works in float64 whatever it is given, on a stack of the block and the components, and its SVD
    makes copies: 6 x the stack was measured (25,088 features; 128 + 128 and 256 + 256 rows).
    """
    return 6 * 8 * (block_rows + n_components) * n_features


def fit(blocks: Iterable[NDArray[np.float32]], n_rows: int, n_features: int, components: int, whiten: bool) -> Reducer:
    """Fit on blocks of rows.

    Parameters
    ----------
    blocks : iterable of ndarray of shape (block, d), float32
        As `block_sizes` cuts them.
    n_rows : int
        Rows in all blocks together.
    n_features : int
        d.
    components : int
        Axes to keep. Fewer are kept, with a warning, when there are too few rows or features.
    whiten : bool
        Scale each axis to unit variance.

    Returns
    -------
    Reducer

    References
    ----------
    Ross, Lim, Lin, Yang 2008, "Incremental Learning for Robust Visual Tracking" (the method of scikit-learn's
    IncrementalPCA). Jegou and Chum 2012, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA
    and whitening" (L2 -> PCA -> L2).
    """
    if n_rows < 1:
        raise ValueError("PCA needs at least one row")
    usable = usable_components(components, n_rows, n_features)
    if usable < components:
        _LOG.warning(
            "PCA keeps %d components, not %d: there are %d images of %d features",
            *(usable, components, n_rows, n_features),
        )
    if n_rows == 1:
        return _single(blocks, whiten, components)
    from sklearn.decomposition import IncrementalPCA  # 100 MB and a second: only those who fit pay for it

    pca = IncrementalPCA(n_components=usable)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        # A library of identical images has no variance at all, and the ratios become 0 / 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        for block in blocks:
            pca.partial_fit(unit_rows(block))
    scale = 1.0 / np.sqrt(np.maximum(pca.explained_variance_, 1e-12)) if whiten else np.ones(usable)
    return Reducer(
        mean=pca.mean_.astype(np.float32),
        components=(pca.components_ * scale[:, None]).astype(np.float32),
        explained_variance=pca.explained_variance_.astype(np.float32),
        explained_variance_ratio=np.nan_to_num(pca.explained_variance_ratio_).astype(np.float32),
        n_rows=n_rows,
        whiten=whiten,
        asked=components,
    )


def _single(blocks: Iterable[NDArray[np.float32]], whiten: bool, asked: int) -> Reducer:
    """One row has no variance; its own direction, uncentred, keeps it findable."""
    row = unit_rows(next(iter(blocks)))
    zeros = np.zeros(1, dtype=np.float32)
    return Reducer(np.zeros_like(row[0]), row, zeros, zeros, n_rows=1, whiten=whiten, asked=asked)
