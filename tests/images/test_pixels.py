"""One file into pixels: right colours, the right way up, within the limits, and a reason where it cannot be done."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import tracemalloc
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from streamer.images import formats, pixels
from streamer.images.cost import decoding_bytes
from streamer.images.gate import ByteGate
from streamer.images.pixels import DecodeLimits, decode_file
from streamer.images.sources import FolderSource
from streamer.records import Decoded, ImageRef, Rejected
from tests.images.hostile import EXPECTED_LIMITS, encoded, photo, write_hostile_files

LIMITS = DecodeLimits(**EXPECTED_LIMITS)


def ref_to(path: Path) -> ImageRef:
    return ImageRef(path.name, str(path), 0, 0, "")


def pixels_of(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    result = decode_file(ref_to(path), (height, width), LIMITS)
    assert isinstance(result, Decoded), result
    assert result.pixels.dtype == np.uint8
    assert result.pixels.shape == (height, width, 3)
    assert result.pixels.flags.c_contiguous
    return result.pixels


def reason_of(path: Path, limits: DecodeLimits = LIMITS) -> str:
    result = decode_file(ref_to(path), (32, 32), limits)
    assert isinstance(result, Rejected), "it decoded"
    return result.reason


def apart(left: NDArray[Any], right: Any) -> int:
    return int(np.abs(left.astype(int) - np.asarray(right).astype(int)).max())


def test_hostile_files_end_as_they_must(tmp_path: Path) -> None:
    expected = write_hostile_files(tmp_path / "hostile")
    assert len(expected) >= 45
    outcomes: dict[str, str | None] = {}
    for item in FolderSource(tmp_path / "hostile"):
        result = item if isinstance(item, Rejected) else decode_file(item, (48, 64), LIMITS)
        outcomes[result.ref.key] = result.reason if isinstance(result, Rejected) else None
    assert set(outcomes) == set(expected)
    for key, part in expected.items():
        reason = outcomes[key]
        assert (reason is None) == (part is None), f"{key}: {reason}"
        if reason is not None and part is not None:
            assert part in reason, f"{key}: {reason}"
            assert "\n" not in reason
            assert not re.search("0x[0-9a-f]{6}", reason), f"{key}: {reason}"


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    photo(40, 30).save(tmp_path / "a.jpg")
    result = decode_file(ref_to(tmp_path / "a.jpg"), (8, 8), LIMITS)
    assert isinstance(result, Decoded)
    assert result.content == hashlib.blake2b((tmp_path / "a.jpg").read_bytes(), digest_size=16).digest()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_orientation_is_applied(tmp_path: Path, turn: int, suffix: str) -> None:
    quarters = np.zeros((40, 80, 3), np.uint8)
    quarters[:20, :40], quarters[:20, 40:] = (255, 0, 0), (0, 255, 0)
    quarters[20:, :40], quarters[20:, 40:] = (0, 0, 255), (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"a{suffix}"
    Image.fromarray(quarters).save(path, exif=exif, quality=95)
    with Image.open(path) as stored:
        upright = ImageOps.exif_transpose(stored)
    assert upright.size == ((80, 40) if turn < 5 else (40, 80))
    got = pixels_of(path, upright.height, upright.width)
    assert apart(got, upright) <= 3
    # Not by Pillow's own word alone: (row, column) of the red corner, by the table of the standard.
    row, column = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[turn]
    corner = got[(5, -5)[row], (5, -5)[column]].astype(int)
    assert corner[0] > 200
    assert corner[1] < 60
    assert corner[2] < 60


def test_a_turned_photo_is_resized_to_what_was_asked_for(tmp_path: Path) -> None:
    image = photo(900, 600)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    wanted = image.transpose(Image.Transpose.ROTATE_270).resize((50, 80), Image.Resampling.BILINEAR)
    assert apart(pixels_of(tmp_path / "a.jpg", 80, 50), wanted) <= 8


def test_resizing_is_pillows_antialiased_bilinear_to_the_bit(tmp_path: Path) -> None:
    image = photo(333, 217)
    image.save(tmp_path / "a.png")
    assert apart(pixels_of(tmp_path / "a.png", 64, 48), image.resize((48, 64), Image.Resampling.BILINEAR)) == 0
    assert apart(pixels_of(tmp_path / "a.png", 217, 333), image) == 0


def test_draft_mode_equals_full_decoding_within_tolerance(tmp_path: Path) -> None:
    photo(4000, 3000).save(tmp_path / "a.jpg", quality=92)
    with Image.open(tmp_path / "a.jpg") as full:
        wanted = np.asarray(full.resize((224, 224), Image.Resampling.BILINEAR)).astype(float)
    difference = np.abs(pixels_of(tmp_path / "a.jpg", 224, 224) - wanted)
    assert difference.mean() < 1
    assert difference.max() <= 6
    assert wanted.std() > 20  # there is something to be wrong about


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_photo_whose_sides_no_power_of_two_divides_is_not_stretched(tmp_path: Path, mode: str) -> None:
    """2709 x 2701 pixels become 678 x 676, of which the last row and column are not whole: they moved the others."""
    photo(2709, 2701).convert(mode).save(tmp_path / "a.jpg", quality=92)
    with Image.open(tmp_path / "a.jpg") as full:
        wanted = np.asarray(full.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)).astype(float)
    difference = np.abs(pixels_of(tmp_path / "a.jpg", 224, 224) - wanted)
    assert difference.mean() < 0.5  # it was 2.5
    assert difference.max() <= 6


@pytest.mark.parametrize(("width", "drafted"), [(895, 1), (896, 2), (1792, 4), (3583, 4), (3584, 8)])
def test_draft_never_goes_below_twice_the_size_wanted(
    tmp_path: Path, width: int, drafted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(width, width).save(tmp_path / "a.jpg")
    sizes = []
    real_resize = Image.Image.resize

    def resize(self: Image.Image, *args: Any, **options: Any) -> Image.Image:
        sizes.append(self.size)
        return real_resize(self, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", resize)
    pixels_of(tmp_path / "a.jpg", 224, 224)
    assert sizes == [(-(-width // drafted),) * 2]


def test_alpha_is_laid_over_white_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rgba = rng.integers(0, 256, (32, 48, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    colour, alpha = rgba[..., :3].astype(int), rgba[..., 3:].astype(int)
    exact = np.rint((colour * alpha + 255 * (255 - alpha)) / 255)
    assert apart(pixels_of(tmp_path / "rgba.png", 32, 48), exact) == 0

    Image.fromarray(rgba[..., :2]).save(tmp_path / "la.png")
    grey = np.rint((colour[..., :1] * colour[..., 1:2] + 255 * (255 - colour[..., 1:2])) / 255).repeat(3, axis=2)
    assert apart(pixels_of(tmp_path / "la.png", 32, 48), grey) == 0


def test_hidden_colours_do_not_bleed_from_under_transparent_pixels(tmp_path: Path) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, ::2] = (0, 255, 0, 0)  # green that nobody can see
    rgba[:, 1::2] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    middle = pixels_of(tmp_path / "a.png", 16, 16)[4:-4, 4:-4]
    assert apart(middle, np.full_like(middle, (255, 127, 127))) <= 2  # red and white, half each


def test_palette_transparency_and_colour_keys(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    palette.putdata([0, 1, 2, 3])
    palette.save(tmp_path / "one.png", transparency=1)
    assert pixels_of(tmp_path / "one.png", 1, 4)[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255], [9, 9, 9]]
    palette.save(tmp_path / "many.png", transparency=bytes([255, 0, 51, 255]))
    assert pixels_of(tmp_path / "many.png", 1, 4)[0].tolist() == [
        [255, 0, 0],
        [255, 255, 255],
        [204, 204, 255],
        [9, 9, 9],
    ]
    palette.save(tmp_path / "a.gif", transparency=3)
    assert pixels_of(tmp_path / "a.gif", 1, 4)[0].tolist()[3] == [255, 255, 255]

    rgb = Image.fromarray(np.array([[(1, 2, 3), (4, 5, 6)]], np.uint8))
    rgb.save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    assert pixels_of(tmp_path / "rgb.png", 1, 2)[0].tolist() == [[255, 255, 255], [4, 5, 6]]
    grey = Image.fromarray(np.array([[7, 8]], np.uint8))
    grey.save(tmp_path / "grey.png", transparency=8)
    assert pixels_of(tmp_path / "grey.png", 1, 2)[0].tolist() == [[7, 7, 7], [255, 255, 255]]


def test_palette_and_one_bit_pictures_are_resized_as_colours(tmp_path: Path) -> None:
    stripes = np.zeros((40, 40), np.uint8)
    stripes[:, ::2] = 1
    palette = Image.fromarray(stripes, "L").convert("P")
    palette.putpalette([0, 0, 0, 200, 100, 0])
    palette.save(tmp_path / "p.png")
    assert apart(pixels_of(tmp_path / "p.png", 10, 10)[5, 5], (100, 50, 0)) <= 2
    Image.fromarray(stripes * 255, "L").convert("1").save(tmp_path / "one.png")
    assert apart(pixels_of(tmp_path / "one.png", 10, 10)[5, 5], (127, 127, 127)) <= 2


def test_cmyk_and_adobe_ycck(tmp_path: Path) -> None:
    image = photo(64, 48)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98, subsampling=0)
    content = (tmp_path / "cmyk.jpg").read_bytes()
    assert b"Adobe" in content
    assert apart(pixels_of(tmp_path / "cmyk.jpg", 48, 64), image) <= 12
    # The same with transform 2, YCCK: Adobe stores YCbCr of the inverted colours, and K inverted. Pillow inverts what
    # it saves, so it is given the negative of what shall be stored.
    ycc = ImageOps.invert(image).convert("YCbCr").split()
    negative = [channel.point([255 - value for value in range(256)]) for channel in ycc]
    ycck = Image.merge("CMYK", [*negative, Image.new("L", image.size, 0)])
    ycck.save(tmp_path / "ycck.jpg", quality=98, subsampling=0)
    content = bytearray((tmp_path / "ycck.jpg").read_bytes())
    content[content.index(b"Adobe") + 11] = 2
    (tmp_path / "ycck.jpg").write_bytes(content)
    assert apart(pixels_of(tmp_path / "ycck.jpg", 48, 64), image) <= 16


def test_grey_ycbcr_and_lab(tmp_path: Path) -> None:
    image = photo(64, 48)
    grey = image.convert("L")
    grey.save(tmp_path / "grey.png")
    assert apart(pixels_of(tmp_path / "grey.png", 48, 64), Image.merge("RGB", [grey] * 3)) == 0
    # Uncompressed, Pillow 12.3 cannot read what it has written; 13.0 can.
    image.convert("YCbCr").save(tmp_path / "ycbcr.tif", compression="tiff_lzw")
    assert apart(pixels_of(tmp_path / "ycbcr.tif", 48, 64), image) <= 3
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "lab.tif")
    assert apart(pixels_of(tmp_path / "lab.tif", 48, 64), image) <= 8


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, mode: str) -> None:
    ramp = np.linspace(0, 65535, 256 * 4).reshape(4, 256)
    big = mode == "I;16B"
    image = Image.frombytes(mode, (256, 4), ramp.astype(">u2" if big else "<u2").tobytes())
    image.save(tmp_path / "a.tif")
    if not big:
        image.save(tmp_path / "a.png")
    for path in tmp_path.iterdir():
        with Image.open(path) as opened:
            assert opened.mode.startswith("I;16"), path
        exact = np.rint(ramp.astype(np.uint16) / 257)[..., np.newaxis].repeat(3, axis=2)
        assert apart(pixels_of(path, 4, 256), exact) == 0
        # Pillow 13.0 resizes I;16B in the wrong byte order.
        smooth = np.asarray(Image.fromarray(ramp.astype(np.float32)).resize((32, 2), Image.Resampling.BILINEAR)) / 257
        assert apart(pixels_of(path, 2, 32), smooth.round()[..., np.newaxis].repeat(3, axis=2)) <= 1


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (np.array([[0, 65535], [257, 514]], np.int32), None),
        (np.array([[0, 65536], [257, 514]], np.int32), "from 0 to 65536: their scale is unknown"),
        (np.array([[-1, 5], [257, 514]], np.int32), "from -1 to 514"),
        (np.array([[0, 1], [0.5, 0.25]], np.float32), None),
        (np.array([[0, 1.01], [0.5, 0.25]], np.float32), "from 0 to 1.01"),
        (np.array([[0, np.nan], [0.5, 0.25]], np.float32), "not numbers"),
        (np.array([[np.nan, 0], [0.5, 0.25]], np.float32), "not numbers"),
        (np.array([[0, np.inf], [0.5, 0.25]], np.float32), "to inf"),
    ],
)
def test_deep_pixels_are_read_only_where_their_range_is_known(
    tmp_path: Path, values: NDArray[Any], part: str | None
) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    if part is None:
        exact = np.rint(values / (65535 if values.dtype == np.int32 else 1) * 255)[..., np.newaxis].repeat(3, axis=2)
        assert apart(pixels_of(path, 2, 2), exact) == 0
    else:
        assert part in reason_of(path)


@pytest.mark.parametrize(
    ("suffix", "options"), [(".gif", {}), (".webp", {"lossless": True}), (".png", {}), (".tif", {})]
)
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / f"a{suffix}") as stored:
        assert getattr(stored, "n_frames", 1) == 3
    assert pixels_of(tmp_path / f"a{suffix}", 5, 5)[2, 2].tolist() == [255, 0, 0]


def test_a_multi_picture_jpeg_gives_its_first(tmp_path: Path) -> None:
    first, second = photo(64, 48), Image.new("RGB", (64, 48), "red")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    assert apart(pixels_of(tmp_path / "a.jpg", 48, 64), first) <= 25


def test_a_strip_is_resized_without_a_giant_half_way_picture(tmp_path: Path) -> None:
    """Pillow would go across first: 1 x 200,000 pixels at a width of 224 make 179 MB on the way."""
    strip = Image.new("RGB", (1, 200_000), (10, 200, 30))
    strip.save(tmp_path / "a.png")
    tight = DecodeLimits(10**6, 10**6, 16 * 2**20)
    result = decode_file(ref_to(tmp_path / "a.png"), (224, 224), tight)
    assert isinstance(result, Decoded)
    assert (result.pixels == (10, 200, 30)).all()


def test_limits_are_named_in_the_reason(tmp_path: Path) -> None:
    photo(300, 200).save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    assert "300 x 200 = 60000 pixels is more than the limit of 59999" in reason_of(
        tmp_path / "a.png", DecodeLimits(59_999, 10**9, 10**9)
    )
    assert f"a file of {size} bytes is larger than the limit of {size - 1}" in reason_of(
        tmp_path / "a.png", DecodeLimits(10**6, size - 1, 10**9)
    )
    reason = reason_of(tmp_path / "a.png", DecodeLimits(10**6, 10**9, 1_000_000))
    assert "raise memory.budget" in reason
    needed = re.search(r"takes (\d+) bytes", reason)
    assert needed
    enough = DecodeLimits(60_000, size, int(needed[1]))
    assert isinstance(decode_file(ref_to(tmp_path / "a.png"), (32, 32), enough), Decoded)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_put_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.append(reason_of(tmp_path / "a.jpg")), daemon=True)
    thread.start()
    thread.join(10)
    assert reasons == ["not a regular file"]


def test_a_file_that_is_gone_or_was_never_a_file(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "gone.jpg") == "the file cannot be read: No such file or directory"
    (tmp_path / "folder.jpg").mkdir()
    assert reason_of(tmp_path / "folder.jpg")
    assert reason_of(Path("a\0b.jpg"))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    photo(30, 20).save(path)
    real_examine = pixels.examine

    def examine(*args: Any) -> formats.Header:
        with path.open("ab") as file:
            file.write(b"more")
        return real_examine(*args)

    monkeypatch.setattr(pixels, "examine", examine)
    assert reason_of(path) == "the file changed while it was read"


def test_lying_about_the_size_does_not_get_past_the_cap(tmp_path: Path) -> None:
    """A baseline JPEG's embedded thumbnail has a frame header of its own: the photo's counts."""
    thumbnail = encoded(photo(16, 16), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 1
    content = encoded(photo(200, 100), "JPEG", exif=exif.tobytes() + thumbnail)
    (tmp_path / "a.jpg").write_bytes(content)
    assert "200 x 100" in reason_of(tmp_path / "a.jpg", DecodeLimits(19_999, 10**9, 10**9))


def header_of(content: bytes) -> formats.Header:
    name = formats.sniff(content)
    assert name
    return formats.examine(BytesIO(content), content[: formats.HEAD_BYTES], name)


@pytest.mark.parametrize(
    ("options", "coefficient_bytes"),
    [
        ({}, 0),
        ({"progressive": True, "subsampling": 2}, 3),
        ({"progressive": True, "subsampling": 1}, 4),
        ({"progressive": True, "subsampling": 0}, 6),
    ],
)
def test_progressive_jpegs_are_known_to_hold_all_coefficients(options: dict[str, Any], coefficient_bytes: int) -> None:
    assert header_of(encoded(photo(64, 48), "JPEG", **options)).coefficient_bytes == coefficient_bytes


@pytest.mark.parametrize(
    ("format_name", "options"),
    [("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"MM\0*\0\0\0\x08\0\0"}), ("AVIF", {})],
)
def test_size_is_told_without_opening_the_file(format_name: str, options: dict[str, Any]) -> None:
    header = header_of(encoded(photo(123, 77), format_name, **options)[:400])
    assert (header.width, header.height) == (123, 77)


def test_cost_grows_with_what_pillow_holds() -> None:
    size = (224, 224)

    def cost(format_name: str, mode: str, coefficient_bytes: float = 0) -> float:
        return decoding_bytes(formats.Header(format_name, mode, 4000, 3000, 1, coefficient_bytes), 0, size) / 12e6

    assert cost("JPEG", "RGB") < 0.8  # a quarter of each side
    assert cost("JPEG", "RGB", 6) > 6
    assert cost("PNG", "L") < cost("PNG", "RGB") < cost("PNG", "RGBA") < cost("PNG", "RGB+A") < cost("WEBP", "RGB")
    small = decoding_bytes(formats.Header("JPEG", "RGB", 4000, 3000), 0, (3000, 4000)) / 12e6
    assert small > 4  # no draft where the full size is wanted


def test_foreseen_memory_covers_what_python_allocates(tmp_path: Path) -> None:
    photo(1500, 1000).convert("RGBA").save(tmp_path / "a.bmp")
    limits = DecodeLimits(10**8, 10**8, 10**9)
    tracemalloc.start()
    decode_file(ref_to(tmp_path / "a.bmp"), (64, 64), limits)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    file_bytes = (tmp_path / "a.bmp").stat().st_size
    assert peak_bytes < file_bytes + 2**20, "the file is in memory more than once"


def test_no_warning_escapes_and_no_filter_turns_one_into_a_refusal(tmp_path: Path) -> None:
    """Pillow warns about these bytes (corrupt EXIF); with the filter "error" that raised in the decoding thread."""
    broken_exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\xff\xff\xff\x7f\x06\0"
    (tmp_path / "a.jpg").write_bytes(encoded(photo(20, 20), "JPEG", exif=broken_exif))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning), Image.open(tmp_path / "a.jpg") as opened:
            opened.getexif()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        pixels_of(tmp_path / "a.jpg", 8, 8)
    assert caught == []


def test_pillows_guard_is_left_alone_unless_our_cap_lies_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    formats.make_way(2000)
    assert Image.MAX_IMAGE_PIXELS == 1000
    formats.make_way(2001)
    assert Image.MAX_IMAGE_PIXELS == 2001
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    formats.make_way(5)
    assert Image.MAX_IMAGE_PIXELS is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif", ".bmp"])
def test_pillows_guard_does_not_interfere(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(60, 50).save(tmp_path / f"a{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    pixels_of(tmp_path / f"a{suffix}", 8, 8)


def test_a_gate_is_held_while_decoding_and_given_back_after(tmp_path: Path) -> None:
    photo(60, 50).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    gate = ByteGate(LIMITS.memory_bytes)
    held = []
    real_read = pixels._read_unchanged

    def read(*args: Any) -> bytes:
        held.append(gate.held_bytes)
        return real_read(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "_read_unchanged", read)
        assert isinstance(decode_file(ref_to(tmp_path / "a.png"), (8, 8), LIMITS, gate), Decoded)
        assert isinstance(decode_file(ref_to(tmp_path / "b.png"), (8, 8), LIMITS, gate), Rejected)
    assert all(n_bytes > 60 * 50 * 4 for n_bytes in held)
    assert len(held) == 2
    assert gate.held_bytes == 0


def test_an_unforeseen_exception_class_is_a_reason_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NobodyForesawThisError(Exception):
        pass

    def rgb_pixels(*_args: Any) -> None:
        raise NobodyForesawThisError(f"bad {BytesIO()}\nthing")

    photo(20, 20).save(tmp_path / "a.png")
    monkeypatch.setattr(pixels, "rgb_pixels", rgb_pixels)
    assert reason_of(tmp_path / "a.png") == "damaged PNG: bad the file thing"


ORIGINALS = [
    encoded(photo(48, 36), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    encoded(photo(48, 36), "JPEG", progressive=True),
    encoded(photo(48, 36), "PNG"),
    encoded(photo(48, 36).convert("P"), "PNG", transparency=3),
    encoded(photo(48, 36).convert("P"), "GIF"),
    encoded(photo(48, 36), "WEBP"),
    encoded(photo(48, 36).convert("RGBA"), "WEBP", lossless=True),
    encoded(photo(48, 36), "TIFF", compression="tiff_lzw"),
    encoded(photo(48, 36), "BMP"),
]


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    original=st.sampled_from(ORIGINALS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    kept=st.floats(0.02, 1),
    header_first=st.booleans(),
)
def test_mutated_files_never_raise(
    tmp_path: Path, original: bytes, changes: list[tuple[float, int]], kept: float, header_first: bool
) -> None:
    content = bytearray(original)
    reach = min(200, len(content)) if header_first else len(content)
    for place, value in changes:
        content[int(place * reach)] = value
    (tmp_path / "a.bin").write_bytes(content[: max(1, int(kept * len(content)))])
    small = DecodeLimits(10**6, 10**6, 2**26)
    result = decode_file(ref_to(tmp_path / "a.bin"), (16, 12), small)
    if isinstance(result, Decoded):
        assert result.pixels.shape == (16, 12, 3)
    else:
        assert result.reason
        assert "\n" not in result.reason
        assert " at 0x" not in result.reason


@pytest.mark.parametrize("size", [(191, 300), (300, 191), (20, 30), (223, 225)])
def test_a_jpeg_smaller_than_the_network_wants_is_enlarged(tmp_path: Path, size: tuple[int, int]) -> None:
    """A draft that scales nothing still names a box, which once made narrow photos fail."""
    photo(*size).save(tmp_path / "a.jpg", quality=95)
    plain = Image.open(tmp_path / "a.jpg").resize((224, 224), Image.Resampling.BILINEAR)
    assert apart(pixels_of(tmp_path / "a.jpg", 224, 224), plain) <= 1
