"""A head from the features of a store: labels, split, statistics, epochs, and what came of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.config import format_bytes
from streamer.config.schema import Images
from streamer.engines import choose_device
from streamer.errors import ConfigError, Interrupted
from streamer.records import Progress
from streamer.store import FeatureDataset, Split, Store
from streamer.transfer.dense import DENSE_BATCH, UNITS, DenseTrainer
from streamer.transfer.fit import Fitted, class_weights_of, fit
from streamer.transfer.head import Head, untrained
from streamer.transfer.labels import ChosenLabels
from streamer.transfer.linear import LINEAR_BATCH, PENALTIES, LinearTrainer
from streamer.transfer.measure import Measured, measure
from streamer.transfer.moments import moments
from streamer.transfer.plan import TrainPlan, plan_dense, plan_linear
from streamer.transfer.sides import require_enough, split_notes
from streamer.transfer.training import TrainingReport

__all__ = ["KINDS", "train"]

_LOG = logging.getLogger(__name__)

KINDS = ("linear", "dense")
"""What a head can be."""

_EPOCHS = 40
_PATIENCE = 6


def train(
    store: Store,
    *,
    kind: str = "linear",
    output: str | None = None,
    labels: Path | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
    test_share: float = 0.2,
    validation_share: float = 0.1,
    epochs: int = _EPOCHS,
    balanced: bool = True,
    pool: str = "flatten",
    units: int | None = None,
    device: str = "auto",
    budget_bytes: int | None = None,
    progress: Progress = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingReport:
    """Train a head on stored features, and measure it on images that it has not seen.

    The same store, arguments and machine give the same head, byte for byte. When `should_stop` says so, training ends
    after the batch at hand, and the best head of the epochs before is what is measured.

    Parameters
    ----------
    store : Store
    kind : {"linear", "dense"}
        Logistic regression, or a hidden layer in Keras.
    output : str, optional
        Whose features; by default the store's first.
    labels : Path, optional
        A CSV file, ``key,label``, in the place of the labels in the store.
    exclude : sequence of str
        Labels that are left out.
    seed : int
        Of the split, the order and the first weights.
    test_share, validation_share : float
        See `Split`.
    epochs : int
        The most; it ends earlier when the validation side gets no better.
    balanced : bool
        Whether rare classes count as much as frequent ones.
    pool : {"flatten", "gap"}
        What is done with unpooled maps: every place has weights of its own, or global average pooling.
    units : int, optional
        Of the hidden layer of ``dense``; by default 256, or what the budget allows.
    device : {"auto", "cpu", "gpu"}
        Where ``dense`` is trained.
    budget_bytes : int, optional
        Memory for the whole process; by default that of the last run over the store.
    progress : callable, optional
    should_stop : callable, optional

    Returns
    -------
    TrainingReport
        With the head, not yet saved.

    Raises
    ------
    ConfigError
        If there is no such output, it is no map and `pool` is ``gap``, or the labels file is wrong.
    StreamerError
        If there is no label, one class only, or nothing to test on.
    StoreCorruptError
        If a feature is no finite number, or a shard is damaged or of another fingerprint.
    BudgetTooSmallError
        If the head does not fit into the budget.
    EngineUnavailableError
        If ``dense`` is asked for and Keras is not there.
    Interrupted
        If it is stopped before the first epoch is over.
    ValueError
        If an argument is none of those above.
    """
    if kind not in KINDS or pool not in ("flatten", "gap") or epochs < 1 or (units is not None and units < 1):
        raise ValueError(f"kind={kind!r}, pool={pool!r}, epochs={epochs}, units={units}: not all of them are possible")
    began = time.perf_counter()
    output = store.spec.indexed if output is None else output
    if output not in store.spec.outputs:
        raise ConfigError(f"{store.path}: no output {output!r}; there are: {', '.join(store.spec.outputs)}")
    chosen = ChosenLabels(store, labels, exclude)
    split = Split(seed, test_share, validation_share)
    examples = chosen.by_side(split)
    classes = examples["train"].classes
    counts = {side: np.bincount(each.labels, minlength=len(classes)) for side, each in examples.items()}
    require_enough(store, examples, split)
    batch_size = LINEAR_BATCH if kind == "linear" else DENSE_BATCH

    def dataset(side: str, buffer_bytes: int) -> FeatureDataset:
        return store.batches_of(
            examples[side],
            output,
            batch_size=batch_size,
            shuffle=side == "train",
            seed=seed,
            buffer_bytes=buffer_bytes,
        )

    shape = store.spec.outputs[output]
    if pool == "gap" and len(shape) == 1:
        raise ConfigError(f"{store.path}: pool 'gap' is for maps, and {output} of {shape[0]} numbers is pooled already")
    inputs = shape[-1] if pool == "gap" else prod(shape)
    budget = budget_bytes or int(store.catalog.settings().get("extract", {}).get("budget_bytes", 2**30))
    plan = _plan(kind, budget, inputs, 4 * prod(shape), len(classes), batch_size, units)
    what = f"{plan.choice} penalties" if kind == "linear" else f"{plan.choice} units"
    _LOG.info("plan within %s: %s, %s expected", format_bytes(budget), what, format_bytes(plan.expected_bytes))

    sides = {
        "train": dataset("train", plan.buffer_bytes),
        **{side: dataset(side, plan.plain_buffer_bytes) for side in ("validation", "test")},
    }
    mean, scale = _statistics(dataset("train", plan.plain_buffer_bytes), progress, should_stop)
    hidden = [] if kind == "linear" else [plan.choice]
    start = Head(
        kind=kind,
        classes=classes,
        spec=store.spec.of_queries().for_output(output),
        fingerprint=store.spec.of_queries().fingerprint,
        pool=pool,
        mean=mean,
        scale=scale,
        layers=untrained([inputs, *hidden, len(classes)], seed),
        facts={},
        images=_image_limits(store),
    )
    before = _measured(start, sides["test"], "before", progress)
    fitted = _fit(
        start, plan, sides, class_weights_of(counts["train"], balanced), seed, device, epochs, progress, should_stop
    )
    after = _measured(fitted.head, sides["test"], "test", progress)
    report = TrainingReport(
        head=fitted.head,
        untrained=start,
        before=before,
        after=after,
        rows={side: int(each.sum()) for side, each in counts.items()},
        split=split,
        class_weights="balanced" if balanced else "none",
        settings={**fitted.settings, "pool": pool},
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        stopped=fitted.stopped,
        seconds=time.perf_counter() - began,
        test_ids=sides["test"].ids,
        test_labels=sides["test"].labels,
        notes=[*chosen.notes, *split_notes(classes, counts)],
    )
    report.head = replace(report.head, facts=report.facts())
    return report


def _image_limits(store: Store) -> Images:
    """What the store's pictures were held to."""
    extracted = store.catalog.settings().get("extract", {})
    names = {"max_pixels": "max_pixels", "max_file": "max_file_bytes"}
    return Images(**{name: extracted[there] for name, there in names.items() if there in extracted})


def _plan(
    kind: str, budget: int, inputs: int, row_bytes: int, classes: int, batch: int, units: int | None
) -> TrainPlan:
    size: dict[str, Any] = {"inputs": inputs, "row_bytes": row_bytes, "classes": classes, "batch": batch}
    if kind == "linear":
        return plan_linear(budget, candidates=len(PENALTIES), **size)
    return plan_dense(budget, units=UNITS if units is None else (units,), **size)


def _statistics(
    train: FeatureDataset, progress: Progress, should_stop: Callable[[], bool]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    done = 0

    def seen(images: int) -> None:
        nonlocal done
        done += images
        progress("statistics", done, len(train.ids))
        if should_stop():
            raise Interrupted("stopped before the first epoch was over: no head was made")

    return moments(train, seen)


def _measured(head: Head, test: FeatureDataset, stage: str, progress: Progress) -> Measured:
    done = 0

    def seen(images: int) -> None:
        nonlocal done
        done += images
        progress(stage, done, len(test.ids))

    return measure([head], test, confusion=True, seen=seen)[0]


def _fit(
    start: Head,
    plan: TrainPlan,
    sides: dict[str, FeatureDataset],
    class_weights: NDArray[np.float32],
    seed: int,
    device: str,
    epochs: int,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> Fitted:
    options: dict[str, Any] = {
        "epochs": epochs,
        "patience": _PATIENCE,
        "progress": progress,
        "should_stop": should_stop,
    }
    given = (start, sides["train"], sides["validation"], class_weights)
    if start.kind == "linear":
        # Without images to validate on there is nothing to choose by.
        penalties = PENALTIES[: plan.choice if len(sides["validation"].ids) else 1]
        inputs, classes = start.layers[0].kernel.shape
        return fit(LinearTrainer(inputs, classes, penalties, seed), *given, **options)
    trainer = DenseTrainer(start.layers, seed, choose_device(device))
    try:
        return fit(trainer, *given, **options)
    finally:
        trainer.close()
