"""Images in one array."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer.images import ArraySource, SourceUnavailableError
from streamer.records import Decoded, ImageRef, Rejected
from tests.images.sources.archived import decoded, taken

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 10, 12, 3), dtype=np.uint8)


def written(folder: Path, kind: str, pixels: np.ndarray = PIXELS) -> ArraySource:
    if kind == "npy":
        np.save(folder / "photos.npy", pixels)
        return ArraySource(folder / "photos.npy")
    with h5py.File(folder / "photos.h5", "w") as file:
        file.create_dataset("train/images", data=pixels, chunks=True, compression="gzip")
    return ArraySource(folder / "photos.h5", "train/images")


@pytest.mark.parametrize("kind", ["npy", "hdf5"])
def test_the_images_are_the_rows(tmp_path: Path, kind: str) -> None:
    refs = taken(written(tmp_path, kind))
    assert [ref.key for ref in refs] == [f"photos/{number:09d}" for number in range(5)]
    assert {(ref.size, ref.label) for ref in refs} == {(360, "")}
    for found, pixels in zip(decoded(refs), PIXELS, strict=True):
        assert isinstance(found, Decoded)
        np.testing.assert_array_equal(found.pixels, pixels)
    assert len({found.content for found in decoded(refs) if isinstance(found, Decoded)}) == 5


@pytest.mark.parametrize("kind", ["npy", "hdf5"])
def test_what_is_no_array_of_images_is_named(tmp_path: Path, kind: str) -> None:
    for pixels, said in (
        (PIXELS.astype(np.float32), r"float32 of shape \(5, 10, 12, 3\)"),
        (PIXELS[..., :1], r"uint8 of shape \(5, 10, 12, 1\)"),
        (PIXELS[0], r"uint8 of shape \(10, 12, 3\)"),
    ):
        source = written(tmp_path, kind, np.ascontiguousarray(pixels)) if pixels.ndim == 4 else None
        if source is None:
            np.save(tmp_path / "photos.npy", pixels)
            source = ArraySource(tmp_path / "photos.npy")
        with pytest.raises(SourceUnavailableError, match=said):
            taken(source)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "photos.npy").write_bytes(b"no array")
    with pytest.raises(SourceUnavailableError, match=r"photos\.npy: the array cannot be read .*source\.array"):
        taken(ArraySource(tmp_path / "photos.npy"))
    with pytest.raises(SourceUnavailableError, match="cannot be read"):
        taken(ArraySource(tmp_path / "gone.npy"))
    np.save(tmp_path / "photos.npy", np.asfortranarray(PIXELS))
    with pytest.raises(SourceUnavailableError, match="column after column"):
        taken(ArraySource(tmp_path / "photos.npy"))
    np.save(tmp_path / "photos.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(SourceUnavailableError, match="cannot be read"):
        taken(ArraySource(tmp_path / "photos.npy"))
    source = written(tmp_path, "hdf5")
    with pytest.raises(SourceUnavailableError, match="there is no dataset 'images'; there are train"):
        taken(ArraySource(source.path, "images"))


def test_a_dataset_that_takes_its_bytes_from_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private.bin").write_bytes(bytes(360 * 5))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["images"] = PIXELS
    layout = h5py.VirtualLayout(PIXELS.shape, np.uint8)
    layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", PIXELS.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        external = [(str(tmp_path / "private.bin"), 0, 360 * 5)]
        file.create_dataset("external", PIXELS.shape, np.uint8, external=external)
        file["link"] = h5py.ExternalLink("other.h5", "images")
        file.create_virtual_dataset("virtual", layout)
    for name in ("external", "link", "virtual"):
        with pytest.raises(SourceUnavailableError, match="takes its bytes from another file"):
            taken(ArraySource(tmp_path / "a.h5", name))


@pytest.mark.parametrize("kind", ["npy", "hdf5"])
def test_an_image_beyond_the_end_is_rejected(tmp_path: Path, kind: str) -> None:
    path = taken(written(tmp_path, kind))[0].path[:-1]
    (found,) = decoded([ImageRef("a", f"{path}7", 1, 1, "")])
    assert isinstance(found, Rejected) and "there is no image 7: the array holds 5" in found.reason
