"""Fewer numbers for many: PCA of the features, and clusters of what it leaves. scikit-learn lives here only."""

from streamer.reduction.kmeans import fit_centroids
from streamer.reduction.pca import Reducer, block_sizes, fit, fit_bytes, unit_rows, usable_components
from streamer.reduction.plane import Plane, fit_plane, plane_of

__all__ = [
    "Plane",
    "Reducer",
    "block_sizes",
    "fit",
    "fit_bytes",
    "fit_centroids",
    "fit_plane",
    "plane_of",
    "unit_rows",
    "usable_components",
]
