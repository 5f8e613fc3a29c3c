"""A small labelled picture set that is drawn, not downloaded: for the demo and for tests."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["CLASSES", "draw_pictures"]

_SUPERSAMPLE = 4
_JPEG_QUALITY = 90

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Form = Callable[[Field, Field], Mask]


def draw_pictures(folder: Path, *, classes: int | None = None, per_class: int, side: int, seed: int) -> list[Path]:
    """Draw pictures of shapes and patterns, one folder a class.

    Colours, place, size, turn, background and noise are drawn at random, alike for all classes: only the form tells
    them apart. The same arguments give the same pixels, and picture `i` of a class does not depend on how many others
    there are.

    Parameters
    ----------
    folder : Path
        Made when missing. The files are ``folder/<class>/<class>_000.jpg`` and so on.
    classes : int, optional
        How many of `CLASSES`, from the first on; all by default.
    per_class : int
        Pictures of each class.
    side : int
        Width and height, pixels.
    seed : int

    Returns
    -------
    list of Path
        The files, in the order of their names within the order of the classes.

    Raises
    ------
    ValueError
        There are not that many classes.
    """
    wanted = len(CLASSES) if classes is None else classes
    if not 1 <= wanted <= len(CLASSES):
        raise ValueError(f"classes must be from 1 to {len(CLASSES)}, not {classes}")
    paths = []
    for place, (name, form) in enumerate(list(CLASSES.items())[:wanted]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            path = folder / name / f"{name}_{number:03d}.jpg"
            pixels = _picture(form, side, np.random.default_rng([seed, place, number]))
            Image.fromarray(pixels).save(path, format="JPEG", quality=_JPEG_QUALITY)
            paths.append(path)
    return paths


def _picture(form: Form, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lay a shaded form with a soft shadow over a shaded ground, then add noise."""
    cover = _cover(form, side, rng)
    ground, figure = _colours(rng)
    shade = max(1.0, side / 40)
    blurred = Image.fromarray((cover * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(shade))
    shadow = np.roll(np.asarray(blurred, np.float32), round(shade), axis=(0, 1))[..., np.newaxis] / 255
    pixels = _shaded(ground, side, rng) * (1 - 0.35 * shadow)
    pixels += cover[..., np.newaxis] * (_shaded(figure, side, rng) - pixels)
    pixels += rng.normal(0, rng.uniform(1, 8), (side, side, 1)).astype(np.float32)
    rounded: Field = np.rint(pixels.clip(0, 255))
    return rounded.astype(np.uint8)


def _cover(form: Form, side: int, rng: np.random.Generator) -> Field:
    """Return how much of each pixel the form covers: float32 of shape (side, side), 0 to 1, edges smooth."""
    fine = side * _SUPERSAMPLE
    steps = ((np.arange(fine, dtype=np.float32) + 0.5) / fine) * 2 - 1
    x, y = np.meshgrid(steps - rng.uniform(-0.25, 0.25), steps - rng.uniform(-0.25, 0.25))
    turn, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.8)
    u = ((x * np.cos(turn) + y * np.sin(turn)) / size).astype(np.float32)
    v = ((y * np.cos(turn) - x * np.sin(turn)) / size).astype(np.float32)
    blocks = form(u, v).reshape(side, _SUPERSAMPLE, side, _SUPERSAMPLE)
    cover: Field = blocks.mean(axis=(1, 3), dtype=np.float32)
    return cover


def _colours(rng: np.random.Generator) -> tuple[Field, Field]:
    """Choose colours of ground and figure: any two hues, one light and one dark, either way round."""
    hues = rng.uniform(0, 1, 2)
    values = [rng.uniform(0.2, 0.5), rng.uniform(0.8, 1.0)]
    if rng.random() < 0.5:
        values.reverse()
    colours = [
        np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.25, 0.8), value), np.float32) * 255
        for hue, value in zip(hues, values, strict=True)
    ]
    return colours[0], colours[1]


def _shaded(colour: Field, side: int, rng: np.random.Generator) -> Field:
    """Fill a square with a colour that grows lighter in one direction: float32 of shape (side, side, 3)."""
    steps = np.linspace(-1, 1, side, dtype=np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    slope = np.cos(turn) * steps[np.newaxis, :] + np.sin(turn) * steps[:, np.newaxis]
    shaded: Field = colour * (1 + rng.uniform(0.08, 0.25) * slope[..., np.newaxis]).astype(np.float32)
    return shaded


def _disk(u: Field, v: Field) -> Mask:
    return u**2 + v**2 < 0.9


def _ring(u: Field, v: Field) -> Mask:
    radius = np.hypot(u, v)
    return (radius > 0.6) & (radius < 1)


def _square(u: Field, v: Field) -> Mask:
    return np.maximum(abs(u), abs(v)) < 0.8


def _triangle(u: Field, v: Field) -> Mask:
    inside: Mask = np.maximum(v, abs(u) * np.float32(np.sqrt(3) / 2) - v / 2) < 0.5
    return inside


def _star(u: Field, v: Field) -> Mask:
    # Five-fold symmetry folds the plane onto half a point of the star: one straight edge is left, from the tip (1, 0)
    # to the notch.
    half = np.pi / 5
    angle = abs((np.arctan2(v, u) + half) % (2 * half) - half)
    x, y = np.hypot(u, v) * np.cos(angle) - 1, np.hypot(u, v) * np.sin(angle)
    notch_x, notch_y = 0.42 * np.cos(half) - 1, 0.42 * np.sin(half)
    inside: Mask = notch_x * y - notch_y * x > 0
    return inside


def _cross(u: Field, v: Field) -> Mask:
    return (np.minimum(abs(u), abs(v)) < 0.28) & (np.maximum(abs(u), abs(v)) < 1)


def _crescent(u: Field, v: Field) -> Mask:
    return (u**2 + v**2 < 1) & ((u - 0.5) ** 2 + v**2 > 0.7)


def _stripes(u: Field, _v: Field) -> Mask:
    return np.sin(u * 9) > 0


def _checkerboard(u: Field, v: Field) -> Mask:
    return np.sin(u * 7) * np.sin(v * 7) > 0


def _waves(u: Field, v: Field) -> Mask:
    inside: Mask = np.sin(v * 9 + 2 * np.sin(u * 5)) > 0.2
    return inside


def _dots(u: Field, v: Field) -> Mask:
    return ((u * 2.2) % 1 - 0.5) ** 2 + ((v * 2.2) % 1 - 0.5) ** 2 < 0.09


def _spiral(u: Field, v: Field) -> Mask:
    radius = np.hypot(u, v)
    inside: Mask = (np.sin(np.arctan2(v, u) + radius * 14) > 0) & (radius < 1.1)
    return inside


CLASSES: dict[str, Form] = {
    "disk": _disk,
    "stripes": _stripes,
    "star": _star,
    "checkerboard": _checkerboard,
    "ring": _ring,
    "dots": _dots,
    "triangle": _triangle,
    "waves": _waves,
    "cross": _cross,
    "spiral": _spiral,
    "square": _square,
    "crescent": _crescent,
}
"""What is drawn, by class: from coordinates, float32 arrays, about -1 to 1 within the form, to where the form is.

Shapes and patterns take turns, so that the first few classes are already far apart.
"""
