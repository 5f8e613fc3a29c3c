"""k-means, out of core: on batches of rows, each forgotten before the next comes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_centroids"]


def fit_centroids(batches: Iterable[NDArray[np.float32]], clusters: int, seed: int) -> NDArray[np.float32]:
    """Find the centres of clusters.

    Parameters
    ----------
    batches : iterable of ndarray of shape (batch, d), float32
        Drawn at random from all rows. The first, of at least `clusters` rows, also gives the centres to begin with.
    clusters : int
    seed : int
        The same batches and seed give the same centres.

    Returns
    -------
    ndarray of shape (clusters, d), float32

    References
    ----------
    Sculley 2010, "Web-Scale K-Means Clustering" (the method of scikit-learn's MiniBatchKMeans). Arthur and
    Vassilvitskii 2007, "k-means++: The Advantages of Careful Seeding".
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    model = MiniBatchKMeans(clusters, random_state=seed, n_init=1, batch_size=1024, init_size=3 * clusters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer rows that differ than clusters: some stay empty
        for batch in batches:
            model.partial_fit(batch)
    centres: NDArray[np.float32] = model.cluster_centers_.astype(np.float32)
    return centres
