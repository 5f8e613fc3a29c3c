"""Transfer learning: heads trained on stored features, and what they say of new pictures.

The route: `labels` says what each image is, `sides` whether that is enough, `moments` measures the features, `fit` runs
the epochs of a trainer (`linear` or `dense`, as `plan` fits it into the memory budget), `measure` says how good a
`head` is. `experiment` wires them, `training` is what it came to, `sheet` and `streamer.plots` show it. `predict` asks
a head.
"""

from streamer.transfer.experiment import KINDS, train
from streamer.transfer.head import HEAD_FORMAT, Head
from streamer.transfer.predict import Prediction, Predictor, predict_stored
from streamer.transfer.sheet import write_report
from streamer.transfer.training import TrainingReport

__all__ = [
    "HEAD_FORMAT",
    "KINDS",
    "Head",
    "Prediction",
    "Predictor",
    "TrainingReport",
    "predict_stored",
    "train",
    "write_report",
]
