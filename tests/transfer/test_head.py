"""A head's file and its arithmetic."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamer.config.schema import Images
from streamer.errors import StreamerError
from streamer.transfer import HEAD_FORMAT, Head
from streamer.transfer.head import Dense, untrained
from tests.conftest import spec


def a_head(shape: tuple[int, ...] = (3, 3, 4), pool: str = "flatten", skip: bool = False) -> Head:
    random = np.random.default_rng(1)
    inputs = shape[-1] if pool == "gap" else int(np.prod(shape))
    return Head(
        kind="dense",
        classes=("cat", "dog", "Ünal"),
        spec=replace(spec(), outputs={"map": shape}),
        fingerprint="f" * 32,
        pool=pool,
        mean=random.normal(size=shape[-1]).astype(np.float32),
        scale=random.uniform(1, 2, shape[-1]).astype(np.float32),
        layers=untrained([inputs, 5, 3], seed=7),
        facts={"seed": 7},
        images=Images(max_pixels=5000),
        skip=random.normal(size=(inputs, 3)).astype(np.float32) if skip else None,
    )


@pytest.mark.parametrize(("pool", "skip"), [("flatten", False), ("gap", False), ("flatten", True), ("gap", True)])
def test_probabilities_are_those_of_the_formula_in_float64(pool: str, skip: bool) -> None:
    head = a_head(pool=pool, skip=skip)
    features = np.random.default_rng(2).normal(size=(6, 3, 3, 4)).astype(np.float32)
    given = features.copy()
    x = (features.astype(np.float64) - head.mean) / head.scale
    x = x.mean(axis=(1, 2)) if pool == "gap" else x.reshape(6, -1)
    first, last = head.layers
    logits = np.maximum(x @ first.kernel + first.bias, 0) @ last.kernel + last.bias
    if head.skip is not None:
        logits += x @ head.skip
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = head.probabilities(features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(features, given)
    with pytest.raises(ValueError, match=r"\(4,\); this head takes \(3, 3, 4\) of map"):
        head.probabilities(features[:, 0, 0])


def test_large_logits_do_not_overflow() -> None:
    head = replace(a_head((4,)), layers=(Dense(np.full((4, 3), 1e4, np.float32), np.arange(3, dtype=np.float32)),))
    found = head.probabilities(np.full((1, 4), 100, np.float32))
    assert np.isfinite(found).all() and found.sum() == pytest.approx(1)


@pytest.mark.parametrize("skip", [False, True])
def test_it_comes_back_as_it_was_and_equal_heads_are_equal_bytes(tmp_path: Path, skip: bool) -> None:
    head = a_head(skip=skip)
    head.save(tmp_path / "a.npz")
    head.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}
    again = Head.load(tmp_path / "a.npz")
    features = np.random.default_rng(2).normal(size=(6, 3, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(again.probabilities(features), head.probabilities(features))
    names = ("kind", "classes", "spec", "fingerprint", "pool", "facts", "images", "output", "shape")
    assert [getattr(again, name) for name in names] == [getattr(head, name) for name in names]


def test_a_head_of_the_format_before_skips_is_still_read(tmp_path: Path) -> None:
    a_head().save(tmp_path / "a.npz")
    change(tmp_path / "a.npz", format=1)
    assert Head.load(tmp_path / "a.npz").skip is None


def test_drawn_weights_are_the_same_each_time_and_of_glorots_size() -> None:
    (one,), (again,), (other,) = (untrained([600, 400], seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.kernel, again.kernel)
    assert not np.array_equal(one.kernel, other.kernel)
    limit = np.sqrt(6 / 1000)
    assert 0.99 * limit < np.abs(one.kernel).max() <= limit * 1.000001 and abs(one.kernel.mean()) < 1e-3
    assert one.kernel.dtype == np.float32 and not one.bias.any()


def change(path: Path, **about: object) -> None:
    with np.load(path) as data:
        arrays = dict(data)
    said = json.loads(arrays["about"].tobytes()) | about
    arrays["about"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    np.savez(path, **arrays)


def test_what_is_no_head_or_a_damaged_one_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def refused(match: str) -> None:
        with pytest.raises(StreamerError, match=match) as error:
            Head.load(path)
        assert str(path) in str(error.value)

    refused("no head here; make it with 'streamer train STORE'")
    path.write_text("label,probability")
    refused("no head, or a damaged one")
    np.savez(path, mean=np.zeros(3))
    refused("this .npz file is no head")
    a_head().save(path)
    whole = path.read_bytes()
    change(path, format=HEAD_FORMAT + 1)
    refused(f"format {HEAD_FORMAT + 1}, made by a newer release; .*upgrade streamer")
    for about, match in (
        ({"classes": ["cat", "cat", "dog"]}, "3 classes are not two or more different names"),
        (
            {"classes": ["cat", "dog"]},
            r"kernel_1 is float32 of shape \(5, 3\), and should be float32 of shape \(5, 2\)",
        ),
        ({"pool": "max"}, "pool is 'max'"),
        ({"layers": 3}, "no head, or a damaged one"),
        ({"spec": 4}, "no head, or a damaged one"),
    ):
        path.write_bytes(whole)
        change(path, **about)
        refused(match)
    for cut in (20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused("no head, or a damaged one")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    refused("no head, or a damaged one")
    bad = a_head()
    bad.layers[0].kernel[2, 1] = np.nan
    bad.save(path)
    refused("kernel_0 holds values that are no finite numbers")
    replace(a_head(), skip=np.zeros((36, 2), np.float32)).save(path)
    refused(r"skip is float32 of shape \(36, 2\), and should be float32 of shape \(36, 3\)")
    replace(a_head(), scale=np.zeros(4, np.float32)).save(path)
    refused("scale holds values that are not above zero")
    path.unlink()
    path.mkdir()
    refused("a folder, not a head")
