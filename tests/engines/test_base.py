from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from streamer.backbones import get_backbone
from streamer.engines import Engine, engine_modes, forward, open_engine
from streamer.errors import ConfigError
from streamer.records import Batch, ImageRef, Rejected


class _Mean(Engine):
    """The simplest network: the mean colour."""

    name, device, batch_size, input_size = "mean", "cpu", 3, (4, 4)
    outputs = {"mean": (3,)}  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.closed = False

    def _extract(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        self.calls.append(len(pixels))
        return {"mean": pixels.mean(axis=(1, 2), dtype=np.float32)}

    def close(self) -> None:
        self.closed = True


def _batch(keys: str, rejected: str = "") -> Batch:
    refs = [ImageRef(key, key, 1, 1, "") for key in keys + rejected]
    pixels = (
        np.stack([np.full((4, 4, 3), ord(key), np.uint8) for key in keys]) if keys else np.empty((0, 4, 4, 3), np.uint8)
    )
    return Batch(
        tuple(refs[: len(keys)]),
        tuple(key.encode() for key in keys),
        pixels,
        tuple(Rejected(ref, "broken") for ref in refs[len(keys) :]),
    )


def test_forward_keeps_order_records_and_empty_batches() -> None:
    with _Mean() as engine:
        batches = [_batch("abc"), _batch("", "xyz"), _batch("d", "e")]
        results = list(forward(engine, iter(batches)))
    assert engine.closed
    assert engine.calls == [3, 1]  # an all-bad batch never reaches the network
    for batch, result in zip(batches, results, strict=True):
        assert (result.refs, result.contents, result.rejected) == (batch.refs, batch.contents, batch.rejected)
        features = result.features["mean"]
        assert features.shape == (len(batch.refs), 3) and features.dtype == np.float32
        assert features[:, 0].tolist() == [ord(ref.key) for ref in batch.refs]


@pytest.mark.parametrize("ahead", [1, 2, 10])
def test_forward_ahead_gives_the_same_in_the_same_order(ahead: int) -> None:
    batches = [_batch("abc"), _batch("", "xyz"), _batch("d", "e"), _batch("fg"), _batch("h")]
    expected = list(forward(_Mean(), batches))
    for found, wanted in zip(forward(_Mean(), batches, ahead=ahead), expected, strict=True):
        assert (found.refs, found.contents, found.rejected) == (wanted.refs, wanted.contents, wanted.rejected)
        np.testing.assert_array_equal(found.features["mean"], wanted.features["mean"])
    assert list(forward(_Mean(), [], ahead=ahead)) == []


def test_a_gpu_is_given_the_next_batches_before_features_are_asked_for() -> None:
    engine = _Mean()
    engine.device = "gpu"
    taken = []
    stream = forward(engine, (taken.append(key) or _batch(key) for key in "abcdef"))
    next(stream)
    assert taken == ["a", "b", "c"]
    stream.close()
    assert len(engine.calls) <= 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine")]


def test_an_error_in_an_engine_that_runs_ahead_reaches_the_consumer() -> None:
    wrong = dataclasses.replace(_batch("b"), pixels=np.zeros((1, 5, 5, 3), np.uint8))
    stream = forward(_Mean(), iter([_batch("a"), wrong, _batch("c")]), ahead=2)
    assert next(stream).refs[0].key == "a"
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        list(stream)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine")]


def test_forward_is_lazy() -> None:
    engine = _Mean()
    stream = forward(engine, iter([_batch("a"), _batch("b")]))
    next(stream)
    assert engine.calls == [1]


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4, 4, 3), np.uint8), np.zeros((1, 5, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.float32)],
    ids=["too many", "wrong size", "wrong dtype"],
)
def test_wrong_pixels_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"up to 3, 4, 4, 3\)"):
        _Mean().extract(pixels)


def test_unknown_engines_are_refused() -> None:
    vgg16 = get_backbone("vgg16")
    with pytest.raises(ConfigError, match=r"'caffe'.*keras"):
        engine_modes("caffe", vgg16, [vgg16.default_output])
    with pytest.raises(ConfigError, match=r"'caffe'.*keras"):
        open_engine("caffe", vgg16, [vgg16.default_output], None, batch_size=1)  # type: ignore[arg-type]
