"""Copies of pictures: what is drawn for them, and that nothing else decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streamer.images.augment import AUGMENT_RECIPE, augmented, augmented_pixels
from streamer.records import Augmentation, Decoded, ImageRef, Known, Rejected

AUGMENTATION = Augmentation(copies=3, flip=True, crop=0.2, brightness=0.3, seed=7, recipe=AUGMENT_RECIPE)
STILL = replace(AUGMENTATION, flip=False, crop=0.0, brightness=0.0)


def picture(seed: int = 0, side: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)


def decoded(number: int) -> Decoded:
    return Decoded(ImageRef(f"{number}.jpg", "", 0, 0, ""), picture(number), bytes([number] * 16))


def test_copies_come_before_the_picture_which_is_left_as_it_is() -> None:
    ref = ImageRef("r.jpg", "", 0, 0, "")
    items = [decoded(0), Known(ref, b"k"), Rejected(ref, "broken"), decoded(1)]
    found = list(augmented(items, AUGMENTATION))
    assert [getattr(item, "copy", None) for item in found] == [1, 2, 3, 0, None, None, 1, 2, 3, 0]
    assert [item for item in found if getattr(item, "copy", 0) == 0] == items
    for item in found[:3]:
        assert isinstance(item, Decoded) and (item.ref, item.content) == (decoded(0).ref, decoded(0).content)
        assert item.pixels.dtype == np.uint8 and item.pixels.shape == picture().shape
        assert (item.pixels != picture(0)).any()


def test_nothing_asked_for_changes_nothing() -> None:
    for copy in range(1, 20):
        np.testing.assert_array_equal(augmented_pixels(picture(), b"x", copy, STILL), picture())


def test_half_of_the_copies_are_mirrored() -> None:
    mirrored = 0
    for copy in range(1, 201):
        pixels = augmented_pixels(picture(), b"x", copy, replace(STILL, flip=True))
        assert (pixels == picture()).all() or (pixels == picture()[:, ::-1]).all()
        mirrored += bool((pixels == picture()[:, ::-1]).all())
    assert 70 < mirrored < 130


def test_brightness_keeps_within_its_bounds_and_reaches_them() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    drawn = [int(augmented_pixels(grey, b"x", copy, replace(STILL, brightness=0.3))[0, 0, 0]) for copy in range(1, 201)]
    assert min(drawn) >= 70 and max(drawn) <= 130
    assert min(drawn) < 74 and max(drawn) > 126
    white = np.full((4, 4, 3), 250, np.uint8)
    lit = [augmented_pixels(white, b"x", copy, replace(STILL, brightness=1.0)) for copy in range(1, 50)]
    assert max(pixels.max() for pixels in lit) == 255  # and never 250 * 2 - 256
    assert all((pixels == pixels[0, 0, 0]).all() for pixels in lit)


def test_a_crop_keeps_what_it_must_of_each_side() -> None:
    """A ramp tells by its ends how much of it is shown."""
    width = 400
    ramp = np.repeat(np.linspace(0, 255, width)[None, :, None], 300, axis=0).repeat(3, axis=2).astype(np.uint8)
    for pixels, axis in ((ramp, 1), (ramp.swapaxes(0, 1).copy(), 0)):
        shown = []
        for copy in range(1, 101):
            found = augmented_pixels(pixels, b"x", copy, replace(STILL, crop=0.25)).astype(int)
            assert found.shape == pixels.shape
            ends = np.take(found, [0, -1], axis=axis).reshape(2, -1)[:, 0] if axis == 0 else found[0, [0, -1], 0]
            shown.append((ends[1] - ends[0]) / 255)
        assert 0.74 < min(shown) < 0.78 and 0.97 < max(shown) <= 1


def test_the_draw_hangs_on_seed_content_and_copy_alone() -> None:
    first = augmented_pixels(picture(), b"x", 1, AUGMENTATION)
    augmented_pixels(picture(1), b"y", 2, AUGMENTATION)
    np.testing.assert_array_equal(augmented_pixels(picture(), b"x", 1, AUGMENTATION), first)
    for other in (
        augmented_pixels(picture(), b"y", 1, AUGMENTATION),
        augmented_pixels(picture(), b"x", 2, AUGMENTATION),
        augmented_pixels(picture(), b"x", 1, replace(AUGMENTATION, seed=8)),
    ):
        assert (other != first).any()


def test_the_draw_is_the_same_with_every_release() -> None:
    """Copies of a store that were made later must be like those made before."""
    grey = np.full((2, 2, 3), 100, np.uint8)
    drawn = [int(augmented_pixels(grey, b"content", copy, AUGMENTATION)[0, 0, 0]) for copy in range(1, 6)]
    assert drawn == [104, 97, 109, 94, 90]
