"""Images in zip archives, and the reader of their directory."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.images import SourceUnavailableError, ZipSource
from streamer.images.sources.zip_directory import BadZipError, entries, entry_at, start_of_data
from streamer.records import Decoded, Rejected
from tests.images.sources.archived import decoded, picture, refused, taken, write_zip

MEMBERS = {f"{label}/{number}.png": picture(number) for number, label in enumerate(["cat", "dog", "cat", "owl"])}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_images_by_their_names(tmp_path: Path, method: int) -> None:
    members = {"readme.txt": b"no picture", "__MACOSX/a.png": b"", ".hidden/b.png": b"", **MEMBERS, "é.png": picture(9)}
    refs = taken(ZipSource(write_zip(tmp_path / "a.zip", members, method)))
    assert [(ref.key, ref.label) for ref in refs] == [*((key, key.partition("/")[0]) for key in MEMBERS), ("é.png", "")]
    assert {ref.mtime_ns // 10**9 for ref in refs} <= {1_714_979_290, 1_714_979_291}  # 2024-05-06 07:08:10
    assert len({ref.mtime_ns for ref in refs}) == len(refs)
    for ref, found in zip(refs, decoded(refs), strict=True):
        assert isinstance(found, Decoded) and ref.size == len(members[ref.key])
        assert found.content == blake2b(members[ref.key], digest_size=16).digest()


def test_the_directory_says_what_the_standard_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"#!/bin/sh a program that unpacks itself\n")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(name, data)
        with archive.open(zipfile.ZipInfo("large.png"), "w", force_zip64=True) as member:
            member.write(picture(5))
        archive.comment = b"said at the end"
    with path.open("rb") as file, zipfile.ZipFile(path) as theirs:
        for ours, info in zip(entries(file), theirs.infolist(), strict=True):
            assert (ours.name, ours.n_bytes, ours.compressed_bytes) == (
                info.filename,
                info.file_size,
                info.compress_size,
            )
            assert (ours.crc, ours.method, ours.local_at) == (info.CRC, info.compress_type, info.header_offset)
            assert entry_at(file, ours.at) == ours and start_of_data(file, ours) > ours.local_at
    assert all(isinstance(each, Decoded) for each in decoded(taken(ZipSource(path))))


def test_an_archive_of_zip64_is_listed_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 100)  # from which on the end of the directory is another
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3_000):
            archive.writestr(f"{number:06d}.png", b"")
    assert b"PK\6\6" in path.read_bytes()
    tracemalloc.start()
    try:
        count = sum(1 for _ in ZipSource(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 3_000 and peak < 300_000  # the library's own list takes 600 bytes a file


def test_hostile_members_are_named_and_do_nothing(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"../a.png": picture(1), "/b.png": picture(2), "d\\..\\..\\c.png": picture(3)})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("locked.png", picture(4))
        archive.writestr("odd.png", picture(5))
    data = bytearray(path.read_bytes())
    for name, offset, value in ((b"locked.png", -38, 1), (b"odd.png", -36, 97)):  # flags and method of its entry
        at = data.rindex(name)
        data[at + offset] = value
    path.write_bytes(data)
    reasons = refused(ZipSource(path))
    assert "leads out of it" in reasons["../a.png"] and "absolute" in reasons["b.png"]
    assert "leads out of it" in reasons["d\\..\\..\\c.png"] and "a link" in reasons["link.png"]
    assert "encrypted" in reasons["locked.png"] and "method 97" in reasons["odd.png"] and len(reasons) == 6


def test_a_bomb_does_not_go_off(tmp_path: Path) -> None:
    """200 MB of zeros in 200 kB: by what it claims it is refused, and where it lies it is read no further than that."""
    path = write_zip(tmp_path / "a.zip", {"a.png": bytes(200_000_000)})
    assert path.stat().st_size < 300_000
    (ref,) = taken(ZipSource(path))
    (found,) = decoded([ref])
    assert isinstance(found, Rejected) and "200000000 bytes is larger than the limit" in found.reason
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<L", 5_000)
    path.write_bytes(data)
    tracemalloc.start()
    try:
        (found,) = decoded(taken(ZipSource(path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(found, Rejected) and peak < 2_000_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_cannot_be_held_back_are_refused(tmp_path: Path, method: int) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": picture(1)}, method)
    assert f"method {method}" in refused(ZipSource(path))["a.png"]
    refs = taken(ZipSource(write_zip(path, {"a.png": picture(1)})))
    write_zip(path, {"a.png": picture(1)}, method)  # between listing and reading
    assert all(isinstance(each, Rejected) and not each.lasting for each in decoded(refs))


def test_an_archive_that_was_written_anew_gives_no_wrong_picture(tmp_path: Path) -> None:
    one, other = picture(1, "PPM"), picture(2, "PPM")
    before = taken(ZipSource(write_zip(tmp_path / "a.zip", {"a.ppm": one, "b.ppm": other}, zipfile.ZIP_STORED)))
    after = taken(ZipSource(write_zip(tmp_path / "a.zip", {"b.ppm": one, "a.ppm": other}, zipfile.ZIP_STORED)))
    assert all(isinstance(each, Rejected) and not each.lasting for each in decoded(before))
    marks = {ref.key: ref.mtime_ns for ref in before}
    assert all(ref.mtime_ns != marks[ref.key] for ref in after)


def test_a_member_whose_bytes_are_damaged_is_named(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = write_zip(tmp_path / "a.zip", MEMBERS, method)
        with path.open("rb") as file:
            start = start_of_data(file, next(entries(file)))
        data = bytearray(path.read_bytes())
        data[start + 80] ^= 0xFF
        path.write_bytes(data)
        first, *others = decoded(taken(ZipSource(path)))
        assert isinstance(first, Rejected) and "damaged in the archive" in first.reason
        assert all(isinstance(each, Decoded) for each in others)


def test_an_archive_that_is_cut_short_or_none_changes_nothing(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    whole = path.read_bytes()
    refs = taken(ZipSource(path))
    for data in (whole[:-30], whole[: len(whole) // 2], b"", b"no archive", whole[500:]):
        path.write_bytes(data)
        with pytest.raises(SourceUnavailableError, match=r"a\.zip: the archive cannot be listed .*source\.zip"):
            list(ZipSource(path))
    assert all(isinstance(each, Rejected) and not each.lasting for each in decoded(refs))
    path.unlink()
    with pytest.raises(SourceUnavailableError, match="cannot be read"):
        list(ZipSource(path))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 300))
def test_whatever_bytes_are_changed_it_ends_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], lost: int
) -> None:
    data = bytearray(WHOLE)
    for at, value in changes:
        data[-1 - at % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.zip"
    path.write_bytes(data[: len(data) - lost])
    try:
        found = decoded(taken(ZipSource(path)))
    except SourceUnavailableError as error:
        assert "fuzzed.zip" in str(error)
    else:
        assert all(isinstance(each, (Decoded, Rejected)) for each in found)


def test_what_is_no_entry_is_not_taken_for_one(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    with path.open("rb") as file, pytest.raises(BadZipError, match="damaged at byte 3"):
        entry_at(file, 3)


def _whole() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return write_zip(Path(folder) / "a.zip", dict(list(MEMBERS.items())[:2])).read_bytes()


WHOLE = _whole()
