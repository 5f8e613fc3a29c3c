"""Writing files safely."""

from __future__ import annotations

import errno
import os
from hashlib import blake2b
from pathlib import Path

import h5py
import numpy as np
import pytest

from streamer import files
from streamer.errors import StoreWriteError
from streamer.files import PatientFile, digest_of, published, published_folder, require_space


class _Full:
    """A raw file that takes so many bytes and no more."""

    def __init__(self, file: object, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: memoryview) -> int:
        if self._room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(len(data), self._room)
        self._room -= taken
        return self._file.write(data[:taken])  # type: ignore[attr-defined, no-any-return]

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1, 1000, 20_000])
def test_hdf5_never_hears_of_a_full_disk_and_we_do(tmp_path: Path, room: int) -> None:
    """Told of it, HDF5 ends the process with a segmentation fault as it closes the file."""
    disk = PatientFile(tmp_path / "a.h5")
    disk._file = _Full(disk._file, room)  # type: ignore[assignment]
    with h5py.File(disk, "w") as file:
        dataset = file.create_dataset("rows", (0, 256), maxshape=(None, 256), chunks=(4, 256), dtype=np.float32)
        for start in range(0, 40, 4):
            dataset.resize(start + 4, axis=0)
            dataset[start : start + 4] = 1
    with pytest.raises(OSError, match="No space left"):
        disk.check()
    with pytest.raises(OSError, match="No space left"):
        disk.close(sync=True)
    assert disk.closed
    disk.close(sync=False)


def test_a_patient_file_on_a_good_disk_is_a_file(tmp_path: Path) -> None:
    disk = PatientFile(tmp_path / "a")
    assert (disk.readable(), disk.writable(), disk.seekable()) == (True, True, True)
    assert disk.write(np.arange(3, dtype=np.int16)) == 6
    disk.seek(2)
    buffer = bytearray(10)
    assert disk.readinto(buffer) == 4 and disk.tell() == 6
    disk.truncate(4)
    disk.check()
    disk.close(sync=True)
    assert (tmp_path / "a").read_bytes() == np.arange(2, dtype=np.int16).tobytes()


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_the_digest_is_that_of_the_whole_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    assert digest_of(tmp_path / "a") == (size, blake2b(data, digest_size=16).digest())


def test_too_much_for_the_disk_is_refused(tmp_path: Path) -> None:
    require_space(tmp_path, 1, "a little")
    with pytest.raises(StoreWriteError, match=r"all of it takes about 1,000,000,000,000 MB, and [\d,]+ MB are free"):
        require_space(tmp_path, 10**18, "all of it")


def test_a_published_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with pytest.raises(RuntimeError), published(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with published(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("step", ["fsync_file", "rename"])
def test_nothing_is_left_of_a_file_that_could_not_be_published(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole `.partial` stayed behind."""

    def fail(*_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, step, fail)
    with pytest.raises(OSError, match="Input/output error"), published(tmp_path / "a") as partial:
        partial.write_text("whole")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_is_named_before_anything_is_written(tmp_path: Path) -> None:
    """It was found out when all the work was done."""
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder; give the file another name"), published(tmp_path / "a"):
        raise AssertionError


# -- folders ---------------------------------------------------------------------------------------------------------


def fill(target: Path, text: str) -> None:
    with published_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text(text)


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / "inner" / "a.txt").read_text() == "two"

    def fail() -> None:
        with published_folder(tmp_path / "out") as folder:
            (folder / "b.txt").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "inner" / "a.txt").read_text() == "two"


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "one")
    real, calls = files.rename, iter([True, False, True])

    def rename(source: Path, target: Path) -> None:
        if not next(calls):
            raise PermissionError(13, "in use", str(target))
        real(source, target)

    monkeypatch.setattr(files, "rename", rename)
    with pytest.raises(PermissionError):
        fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / "inner" / "a.txt").read_text() == "one"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_crash_between_the_two_renames_is_mended_by_the_next(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    (tmp_path / "out").rename(tmp_path / "out.old.partial")

    def fail() -> None:
        with published_folder(tmp_path / "out"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (tmp_path / "out" / "inner" / "a.txt").read_text() == "one"
