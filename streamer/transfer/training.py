"""What a training came to: the object that ``streamer train --json`` prints, and what its report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ExitCode
from streamer.store import Split
from streamer.transfer.fit import Epoch
from streamer.transfer.head import Head
from streamer.transfer.measure import Measured

__all__ = ["TrainingReport"]


@dataclass
class TrainingReport:
    """A trained head and how good it is.

    Attributes
    ----------
    head, untrained : Head
        After training and before it, with weights drawn by the same seed.
    before, after : Measured
        Of these two, on the same test side.
    rows : mapping of str to int
        Images on each side of the split.
    split : Split
    class_weights : {"balanced", "none"}
    settings : mapping
        Of the candidate that was chosen.
    epochs : list of Epoch
        The learning curve.
    best_epoch : int
        Where the head comes from.
    stopped : bool
        Whether it was asked to stop before it was done.
    seconds : float
    test_ids, test_labels : ndarray of shape (test rows,), int64
        Ids in the store, and places in the classes.
    notes : list of str
        What weakens the figures.
    """

    head: Head
    untrained: Head
    before: Measured
    after: Measured
    rows: Mapping[str, int]
    split: Split
    class_weights: str
    settings: Mapping[str, Any]
    epochs: list[Epoch]
    best_epoch: int
    stopped: bool
    seconds: float
    test_ids: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    notes: list[str]

    @property
    def exit_code(self) -> int:
        """0, or 130 when it was asked to stop."""
        return ExitCode.INTERRUPTED if self.stopped else ExitCode.DONE

    @property
    def test_accuracy(self) -> float:
        """Share of the test side that the head is right about."""
        return self.after.accuracy

    @property
    def before_accuracy(self) -> float:
        """The same of the untrained head."""
        return self.before.accuracy

    def averages(self) -> dict[str, float]:
        """Precision, recall and F1 over the classes that have images to test on, each class counted the same."""
        tested = [each for each in self.after.per_class(self.head.classes) if each["support"]]
        return {
            name: round(float(np.mean([each[name] for each in tested])), 4) for name in ("precision", "recall", "f1")
        }

    def facts(self) -> dict[str, Any]:
        """What is kept in the head: nothing that another run of the same training would give otherwise."""
        return {
            "train_rows": self.rows["train"],
            "validation_rows": self.rows["validation"],
            "test_rows": self.rows["test"],
            "before_accuracy": round(self.before.accuracy, 5),
            "test_accuracy": round(self.after.accuracy, 5),
            "seed": self.split.seed,
            "split": {"test": self.split.test, "validation": self.split.validation},
            "class_weights": self.class_weights,
            "settings": dict(self.settings),
            "best_epoch": self.best_epoch,
        }

    def to_dict(self, path: str) -> dict[str, Any]:
        """The object that ``--json`` prints, of a head that was saved at `path`."""
        facts = self.facts()
        confusion = self.after.confusion
        return {
            "head": path,
            "kind": self.head.kind,
            "classes": len(self.head.classes),
            "train_rows": facts["train_rows"],
            "test_rows": facts["test_rows"],
            "before_accuracy": facts["before_accuracy"],
            "test_accuracy": facts["test_accuracy"],
            "validation_rows": facts["validation_rows"],
            "output": self.head.output,
            "averages": self.averages(),
            "per_class": self.after.per_class(self.head.classes),
            "confusion": None if confusion is None else confusion.tolist(),
            "epochs": len(self.epochs),
            "best_epoch": self.best_epoch,
            "learning_curve": [asdict(each) for each in self.epochs],
            "seconds": round(self.seconds, 3),
            "seed": facts["seed"],
            "split": facts["split"],
            "class_weights": self.class_weights,
            "settings": facts["settings"],
            "stopped": self.stopped,
            "notes": self.notes,
        }
