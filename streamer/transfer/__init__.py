"""Transfer learning: heads trained on stored features, and what they say of new pictures.

The route: `labels` says what each image is, `moments` measures the features, `fit` runs the epochs of a trainer (`linear`
or `dense`, as `plan` fits it into the memory budget), `measure` says how good a `head` is. `train` wires them, `predict`
asks a head.
"""

from streamer.transfer.head import HEAD_FORMAT, Head
from streamer.transfer.train import KINDS, train
from streamer.transfer.training import TrainingReport

__all__ = ["HEAD_FORMAT", "KINDS", "Head", "TrainingReport", "train"]
