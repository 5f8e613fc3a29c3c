"""STL-10's binary format: images in planes, column after column, and their labels."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from streamer.errors import StreamerError
from streamer.images import SourceUnavailableError, Stl10Source
from streamer.images.canvas import thumbnail
from streamer.images.decode import decode_stream
from streamer.images.pixels import DecodeLimits
from streamer.images.places import member_of
from streamer.images.sources.stl10 import IMAGE_BYTES
from streamer.records import Decoded, ImageRef, Known, Rejected

LIMITS = DecodeLimits(10**7, 10**8, 10**8)
NAMES = ["airplane", "bird", "car"]


def images(count: int, seed: int = 0) -> np.ndarray:
    """Smooth colours that differ along both sides: a transposed one would show."""
    random = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 1, 96)[:, None, None], np.linspace(0, 1, 96)[None, :, None]
    made = [255 * (rows ** random.uniform(0.5, 3, 3) + columns ** random.uniform(0.5, 3, 3)) / 2 for _ in range(count)]
    return np.stack(made).astype(np.uint8)


def write(folder: Path, pixels: np.ndarray, labels: list[int] | None = None, names: list[str] | None = None) -> Path:
    """As the data set is laid out: ``(n, channel, column, row)`` bytes."""
    path = folder / ("train_X.bin" if labels else "unlabeled_X.bin")
    path.write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
    if labels:
        (folder / "train_y.bin").write_bytes(bytes(labels))
    if names:
        (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    return path


def listed(path: Path) -> list[ImageRef]:
    found = list(Stl10Source(path))
    assert all(isinstance(each, ImageRef) for each in found)
    return found  # type: ignore[return-value]


def test_keys_are_in_order_and_labels_have_names(tmp_path: Path) -> None:
    path = write(tmp_path, images(12), [1, 2, 3] * 4, NAMES)
    refs = listed(path)
    assert [ref.key for ref in refs] == sorted(ref.key for ref in refs) and refs[3].key == "train_X/0000003"
    assert [ref.label for ref in refs] == NAMES * 4
    assert refs[11].path == f"{path}#11" and {ref.size for ref in refs} == {IMAGE_BYTES}
    assert {ref.label for ref in listed(write(tmp_path, images(2)))} == {""}


def test_an_image_is_what_the_same_picture_as_a_file_is(tmp_path: Path) -> None:
    pixels = images(5)
    refs = listed(write(tmp_path, pixels))
    files = []
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{number}.png")
        files.append(ImageRef(str(number), str(tmp_path / f"{number}.png"), 1, 1, ""))
    for size in ((96, 96), (224, 224), (64, 80)):
        ours, theirs = (
            list(decode_stream(each, size=size, threads=2, lookahead_images=4, limits=LIMITS)) for each in (refs, files)
        )
        for one, other, raw in zip(ours, theirs, pixels, strict=True):
            assert isinstance(one, Decoded) and isinstance(other, Decoded)
            np.testing.assert_array_equal(one.pixels, other.pixels)
            assert one.content == blake2b(raw.transpose(2, 1, 0).tobytes(), digest_size=16).digest()
        if size == (96, 96):
            np.testing.assert_array_equal(ours[0].pixels, pixels[0])
    np.testing.assert_array_equal(thumbnail(refs[1].path, 96), pixels[1])


def test_what_is_known_is_not_decoded_and_processes_decode_too(tmp_path: Path) -> None:
    refs = listed(write(tmp_path, images(4)))
    options = {"size": (96, 96), "lookahead_images": 4, "limits": LIMITS}
    plain = list(decode_stream(refs, threads=1, **options))
    contents = {each.content for each in plain[:2]}
    found = list(decode_stream(refs, threads=1, known=contents.__contains__, **options))
    assert [type(each) for each in found] == [Known, Known, Decoded, Decoded]
    by_processes = list(decode_stream(refs, threads=0, processes=1, **options))
    for one, other in zip(plain, by_processes, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_file_whose_name_looks_like_an_image_of_another_is_read_as_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, images(3))
    twin = tmp_path / "unlabeled_X.bin#1"
    Image.new("RGB", (8, 8), "red").save(twin, "PNG")
    assert member_of(str(twin)) is None and member_of(f"{path}#2") == (str(path), "2")
    (decoded,) = decode_stream(
        [ImageRef("a", str(twin), 1, 1, "")], size=(8, 8), threads=1, lookahead_images=1, limits=LIMITS
    )
    assert isinstance(decoded, Decoded) and (decoded.pixels == [255, 0, 0]).all()


def test_an_image_that_is_not_there_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path, images(3))
    for member, said in ((f"{path}#3", "no image 3"), (f"{tmp_path / 'gone.bin'}#0", "cannot be read")):
        ref = ImageRef("a", member, 1, 1, "")
        (found,) = decode_stream([ref], size=(8, 8), threads=1, lookahead_images=1, limits=LIMITS)
        assert isinstance(found, Rejected) and said in found.reason and not found.lasting


def test_what_is_not_in_the_format_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, images(3), [1, 2, 3], NAMES)
    (tmp_path / "train_y.bin").write_bytes(bytes([1, 2]))
    with pytest.raises(StreamerError, match=r"train_y\.bin: 2 labels for the 3 images"):
        listed(path)
    for labels, wrong in ((bytes([1, 0, 3]), "label 0 of image 1"), (bytes([1, 2, 4]), "label 4 of image 2")):
        (tmp_path / "train_y.bin").write_bytes(labels)
        with pytest.raises(StreamerError, match=wrong):
            listed(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StreamerError, match="82943 bytes is not a number of images"):
        listed(path)
    path.write_bytes(b"")
    with pytest.raises(StreamerError, match="0 bytes is not"):
        listed(path)
    path.unlink()
    with pytest.raises(SourceUnavailableError, match=r"train_X\.bin: the file cannot be read .*source\.stl10"):
        listed(path)


def test_a_file_that_changes_while_it_is_listed_is_not_taken_for_whole(tmp_path: Path) -> None:
    path = write(tmp_path, images(5))
    with pytest.raises(SourceUnavailableError, match="changed while it was being listed"):
        for number, _ in enumerate(Stl10Source(path)):
            if number == 2:
                write(tmp_path, images(4))


def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    """300 MB, of which every image is read."""
    path = tmp_path / "unlabeled_X.bin"
    count = 300_000_000 // IMAGE_BYTES
    with path.open("wb") as file:
        file.truncate(count * IMAGE_BYTES)
    process = psutil.Process(os.getpid())
    refs = listed(path)
    list(decode_stream(refs[:50], size=(96, 96), threads=1, lookahead_images=4, limits=LIMITS))
    before = process.memory_info().rss
    for decoded in decode_stream(refs, size=(96, 96), threads=2, lookahead_images=4, limits=LIMITS):
        assert isinstance(decoded, Decoded)
    assert process.memory_info().rss - before < 30e6
