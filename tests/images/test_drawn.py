"""The drawn picture set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamer.images.drawn import CLASSES, draw_pictures


def test_the_files_are_one_folder_a_class(tmp_path: Path) -> None:
    paths = draw_pictures(tmp_path / "set", classes=3, per_class=2, side=32, seed=0)
    names = [path.relative_to(tmp_path / "set").as_posix() for path in paths]
    assert names == [f"{name}/{name}_{number:03d}.jpg" for name in list(CLASSES)[:3] for number in range(2)]
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
            assert np.asarray(image).std() > 15  # not one flat colour


def test_the_same_arguments_draw_the_same_and_a_seed_draws_anew(tmp_path: Path) -> None:
    first = draw_pictures(tmp_path / "a", per_class=2, side=24, seed=7)
    again = draw_pictures(tmp_path / "b", per_class=2, side=24, seed=7)
    other = draw_pictures(tmp_path / "c", per_class=2, side=24, seed=8)
    assert len(first) == 2 * len(CLASSES)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert len({path.read_bytes() for path in [*first, *other]}) == 4 * len(CLASSES)


def test_a_picture_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few = draw_pictures(tmp_path / "few", classes=2, per_class=1, side=24, seed=1)
    draw_pictures(tmp_path / "many", classes=4, per_class=3, side=24, seed=1)
    for path in few:
        same = tmp_path / "many" / path.relative_to(tmp_path / "few")
        assert path.read_bytes() == same.read_bytes()


def test_colour_alone_does_not_tell_the_classes(tmp_path: Path) -> None:
    """A nearest-mean guess by mean colour does little better than chance (1 in 12)."""
    paths = draw_pictures(tmp_path, per_class=24, side=24, seed=0)
    colours = []
    for path in paths:
        with Image.open(path) as image:
            colours.append(np.asarray(image).astype(float).mean(axis=(0, 1)))
    table = np.array(colours).reshape(len(CLASSES), 24, 3)
    means = table[:, :12].mean(axis=1)
    distances = np.linalg.norm(table[:, 12:, np.newaxis] - means, axis=-1)
    right = distances.argmin(axis=-1) == np.arange(len(CLASSES))[:, np.newaxis]
    assert right.mean() < 0.25


@pytest.mark.parametrize("classes", [0, -1, 13])
def test_an_impossible_number_of_classes_is_an_error(tmp_path: Path, classes: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 12, not {classes}"):
        draw_pictures(tmp_path, classes=classes, per_class=1, side=24, seed=0)
