"""A dataset in the form that a framework takes: the one file of this room that knows Keras and TensorFlow."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import EngineUnavailableError
from streamer.store.dataset import FeatureDataset

__all__ = ["FRAMEWORKS", "for_framework"]

FRAMEWORKS = ("keras", "numpy", "tf")
"""What `for_framework` knows."""


def for_framework(dataset: FeatureDataset, framework: str) -> Any:
    """Give a dataset the form that a framework takes.

    Parameters
    ----------
    dataset : FeatureDataset
    framework : {"keras", "numpy", "tf"}

    Returns
    -------
    keras.utils.PyDataset, FeatureDataset or tf.data.Dataset
        The first and the last have its `classes`, `ids` and `labels` too. Of the last, every epoch has as many batches
        as the first: where images have been removed and compacted away meanwhile, some come twice.

    Raises
    ------
    EngineUnavailableError
        If the framework is not installed.
    """
    if framework == "numpy":
        return dataset
    package = "keras" if framework == "keras" else "tensorflow"
    try:
        return _py_dataset(dataset) if framework == "keras" else _tf_dataset(dataset)
    except ImportError as error:
        raise EngineUnavailableError(
            f"framework={framework!r} takes {package}, which does not import here ({error}); install it with "
            "pip install 'streamer[keras]', or take framework='numpy'"
        ) from error


def _py_dataset(dataset: FeatureDataset) -> Any:
    import keras

    class StoredFeatures(keras.utils.PyDataset):  # type: ignore[misc]
        """The batches of a `FeatureDataset`."""

        def __init__(self) -> None:
            super().__init__(workers=1, use_multiprocessing=False)
            self.classes, self.ids, self.labels = dataset.classes, dataset.ids, dataset.labels
            self._next = 0

        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            # Keras looks at the first batches before it begins, and its workers may overtake each other by a few.
            if abs(index - self._next) > self.max_queue_size and index > 1:
                warnings.warn(
                    "batches are asked for out of order, which costs much reading: they are shuffled already, so call "
                    "fit(..., shuffle=False)",
                    stacklevel=2,
                )
            self._next = index + 1
            return dataset[index]

        def on_epoch_end(self) -> None:
            self._next = 0
            dataset.on_epoch_end()

    return StoredFeatures()


def _tf_dataset(dataset: FeatureDataset) -> Any:
    import tensorflow

    signature = (
        tensorflow.TensorSpec((None, *dataset.shape), tensorflow.float32),
        tensorflow.TensorSpec((None,), tensorflow.int64),
    )
    batches = tensorflow.data.Dataset.from_generator(lambda: iter(dataset), output_signature=signature)
    # Keras wants to know the number of batches, and TensorFlow, where it is asserted, that it never changes. Of what
    # is repeated and cut off it is known, and an epoch that has become shorter ends with a few batches of the next.
    batches = batches.repeat().take(len(dataset))
    batches.classes, batches.ids, batches.labels = dataset.classes, dataset.ids, dataset.labels
    return batches
