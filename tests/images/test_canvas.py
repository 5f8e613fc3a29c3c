"""Thumbnails and the canvas that reports are drawn on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamer.images.canvas import Canvas, thumbnail
from tests.images.hostile import photo


def test_a_thumbnail_keeps_the_aspect_on_a_neutral_ground(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), (255, 0, 0)).save(tmp_path / "wide.png")
    pixels = thumbnail(tmp_path / "wide.png", 40)
    assert pixels.shape == (40, 40, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[10:30] == (255, 0, 0)).all()
    for band in (pixels[:10], pixels[30:]):
        assert (band == band[0, 0, 0]).all()
        assert band[0, 0, 0] > 200


def test_a_thumbnail_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100), (255, 0, 0)).save(tmp_path / "turned.jpg", exif=exif)
    pixels = thumbnail(str(tmp_path / "turned.jpg"), 40)
    assert (pixels[:, 5] == pixels[0, 5]).all()  # the ground is left and right now
    assert pixels[0, 20, 0] > 250
    assert pixels[0, 20, 1] < 5


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (3, 2)])
def test_extreme_aspects_have_a_thumbnail(tmp_path: Path, size: tuple[int, int]) -> None:
    photo(*size).save(tmp_path / "a.png")
    assert thumbnail(tmp_path / "a.png", 32).shape == (32, 32, 3)


def test_what_cannot_be_read_is_a_crossed_out_square(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0nonsense")
    bad, gone = thumbnail(tmp_path / "bad.jpg", 33), thumbnail(tmp_path / "gone.jpg", 33)
    assert (bad == gone).all()
    assert bad.shape == (33, 33, 3)
    assert (bad[16, 16] != bad[16, 8]).all()  # the cross, and the ground between its arms


def test_paste_rectangle_and_save(tmp_path: Path) -> None:
    canvas = Canvas(30, 20, background=(9, 9, 9))
    canvas.paste(np.full((5, 6, 3), 200, np.uint8), 2, 3)
    canvas.paste(np.full((50, 50, 3), 100, np.uint8), 25, 15)  # over the edge
    canvas.rectangle(10, 0, 4, 3, outline=(255, 0, 0))
    canvas.rectangle(20, 0, 2, 2, fill=(0, 255, 0))
    canvas.save(tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with Image.open(tmp_path / "sheet.png") as saved:
        assert saved.format == "PNG"
        pixels = np.asarray(saved)
    assert (pixels == canvas.pixels).all()
    assert pixels.shape == (20, 30, 3)
    assert (pixels[3:8, 2:8] == 200).all()
    assert (pixels[8, 2:8] == 9).all()
    assert (pixels[15:, 25:] == 100).all()
    assert pixels[0, 10:14].tolist() == [[255, 0, 0]] * 4
    assert pixels[1, 11].tolist() == [9, 9, 9]
    assert pixels[0, 14].tolist() == [9, 9, 9]
    assert (pixels[:2, 20:22] == (0, 255, 0)).all()
    assert (pixels[2, 20:22] == 9).all()


def inked(canvas: Canvas) -> np.ndarray:
    return np.argwhere((canvas.pixels != 255).any(axis=2))


def test_text_is_drawn_where_it_is_asked_for() -> None:
    canvas = Canvas(200, 60)
    width = canvas.text(50, 20, "bottle", size=16, colour=(255, 0, 0))
    places = inked(canvas)
    assert 18 <= places[:, 0].min() < places[:, 0].max() <= 20 + 20
    assert 48 <= places[:, 1].min() < places[:, 1].max() <= 50 + width + 1
    assert canvas.pixels[places[:, 0], places[:, 1], 0].min() > 250  # red ink keeps full red
    assert Canvas(9, 9).text(0, 0, "bottle", size=32) > 1.8 * width


def test_a_long_text_is_cut_to_the_width_and_ends_in_dots() -> None:
    canvas = Canvas(400, 30)
    assert canvas.text(5, 5, "a name that is far too long.jpg", max_width=90) <= 90
    assert inked(canvas)[:, 1].max() <= 5 + 91
    dots = Canvas(400, 30)
    assert 0 < dots.text(5, 5, "a" * 500, max_width=14) <= 14
    assert dots.text(5, 5, "short", max_width=90) == dots.text(5, 5, "short")
    nothing = Canvas(400, 30)
    assert nothing.text(5, 5, "long", max_width=1) == 0
    assert len(inked(nothing)) == 0


@pytest.mark.parametrize(
    "text",
    ["", "\u65e5\u672c\u8a9e", "\u0645\u0631\u062d\u0628\u0627", "\U0001f600", "a\nb\tc", "\udce9", "\0", "x" * 10**6],
)
def test_no_text_makes_it_fail(text: str) -> None:
    Canvas(100, 30).text(0, 0, text, max_width=80)
    Canvas(100, 30).text(0, 0, text)


def test_accents_are_left_out_because_the_font_has_none() -> None:
    plain, accented = Canvas(100, 30), Canvas(100, 30)
    plain.text(0, 0, "Cafe uber")
    accented.text(0, 0, "Caf\u00e9 \u00fcber")
    assert (plain.pixels == accented.pixels).all()
