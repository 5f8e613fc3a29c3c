"""Images in tar archives."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from hashlib import blake2b
from pathlib import Path

import pytest

from streamer.images import SourceUnavailableError, TarSource
from streamer.records import Decoded, ImageRef, Rejected
from tests.images.sources.archived import decoded, picture, refused, taken, write_tar

MEMBERS = {f"{label}/{number}.png": picture(number) for number, label in enumerate(["cat", "dog", "cat", "owl"])}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_images_by_their_names(tmp_path: Path, form: int) -> None:
    members = {"readme.txt": b"no picture", **MEMBERS, "top.PNG": picture(9), "./dot/a.png": picture(8)}
    refs = taken(TarSource([write_tar(tmp_path / "a.tar", members, form)]))
    assert [(ref.key, ref.label) for ref in refs] == [
        *((key, key.partition("/")[0]) for key in MEMBERS), ("top.PNG", ""), ("dot/a.png", "dot")
    ]  # fmt: skip
    assert {ref.mtime_ns // 10**9 for ref in refs} == {1_700_000_000} and len({ref.mtime_ns for ref in refs}) == 6
    for ref, found in zip(refs, decoded(refs), strict=True):
        data = members.get(ref.key) or members["./" + ref.key]
        assert isinstance(found, Decoded) and ref.size == len(data)
        assert found.content == blake2b(data, digest_size=16).digest()


def test_long_names_and_others_letters(tmp_path: Path) -> None:
    name = "é" * 60 + "/" + "long " * 30 + ".png"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        (ref,) = taken(TarSource([write_tar(tmp_path / "a.tar", {name: picture(1)}, form)]))
        assert ref.key == name and isinstance(decoded([ref])[0], Decoded)


def test_the_samples_of_webdataset_have_labels_beside_them(tmp_path: Path) -> None:
    for shard in range(2):
        members = {}
        for number in range(3):
            sample = f"s{shard}{number}"
            parts = [(f"{sample}.cls", b"%d\n" % (5 * shard + number)), (f"{sample}.png", picture(10 * shard + number))]
            members |= dict(reversed(parts) if number == 1 else parts)  # in any order
            members |= {f"{sample}.json": b"{}"}
        members |= {"bare/unlabelled.png": picture(99 + shard)}
        write_tar(tmp_path / f"train-{shard}.tar", members)
    both = [tmp_path / "train-0.tar", tmp_path / "train-1.tar"]
    assert [(ref.key, ref.label) for ref in taken(TarSource(both[:1]))] == [
        ("s00.png", "0"), ("s01.png", "1"), ("s02.png", "2"), ("bare/unlabelled.png", "bare")
    ]  # fmt: skip
    refs = taken(TarSource(both))
    assert [ref.key for ref in refs][3:5] == ["train-0/bare/unlabelled.png", "train-1/s10.png"]
    assert refs[4].label == "5" and all(isinstance(each, Decoded) for each in decoded(refs))


def test_hostile_members_are_named_and_do_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture(7))
    path = write_tar(
        tmp_path / "a.tar",
        {"../outside.png": picture(1), "/etc/b.png": picture(2), "C:/c.png": picture(3), "a/../../d.png": picture(4)},
    )
    with tarfile.open(path, "a") as archive:
        for name, kind in (("e.png", tarfile.SYMTYPE), ("f.png", tarfile.LNKTYPE), ("g.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(outside)
            archive.addfile(info)
    reasons = refused(TarSource([path]))
    assert len(reasons) == 7 and taken(TarSource([path])) == []
    assert "absolute path" in reasons["etc/b.png"] and "absolute path" in reasons["C:/c.png"]
    assert "leads out of it" in reasons["../outside.png"] and "leads out of it" in reasons["a/../../d.png"]
    assert reasons["e.png"] == reasons["f.png"] == "a link inside an archive"
    assert reasons["g.png"] == "not a regular file"


def test_an_archive_that_is_cut_short_changes_nothing(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    path = tmp_path / "b.tar"
    ends = sum(512 + -(-len(data) // 512) * 512 for data in MEMBERS.values())
    for length in (ends, ends - 512, 1024 + 7, 512, 100):  # at a member's end, within one, within a header
        path.write_bytes(whole[:length])
        with pytest.raises(SourceUnavailableError, match=r"b\.tar: the archive cannot be listed after \d members"):
            list(TarSource([path]))
    damaged = bytearray(whole)
    damaged[512 + -(-len(MEMBERS["cat/0.png"]) // 512) * 512 + 30] ^= 0xFF  # in the second header
    path.write_bytes(damaged)
    with pytest.raises(SourceUnavailableError, match="after 1 members"):
        list(TarSource([path]))
    (beside,) = (each for each in TarSource([path, tmp_path / "a.tar"]) if isinstance(each, Rejected))
    assert beside.ref.key == "b/" and not beside.lasting  # what is in it is out of sight, not gone
    keys = {ref.key for ref in taken(TarSource([path, tmp_path / "a.tar"]))}
    assert {f"a/{key}" for key in MEMBERS} <= keys <= {f"{name}/{key}" for key in MEMBERS for name in "ab"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x1f\x8b\x08" + bytes(600), r"is compressed.*gzip -d"),
        (b"", "empty"),
        (b"no archive" * 200, "cannot be listed"),
    ],
)
def test_what_is_no_plain_tar_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(SourceUnavailableError, match=said):
        list(TarSource([path]))
    with pytest.raises(SourceUnavailableError, match=r"gone\.tar: the file cannot be read.*source\.tar"):
        list(TarSource([tmp_path / "gone.tar"]))


def test_an_archive_that_was_written_anew_gives_no_wrong_picture(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    refs = taken(TarSource([path]))
    write_tar(path, {"other.png": picture(50) * 40, **MEMBERS})
    for found in decoded(refs):
        assert isinstance(found, Rejected) and not found.lasting and "has changed" in found.reason
    path.unlink()
    assert all(isinstance(each, Rejected) and "cannot be read" in each.reason for each in decoded(refs))


def test_members_of_one_size_and_time_that_change_places_are_read_again(tmp_path: Path) -> None:
    one, other = picture(1, "PPM"), picture(2, "PPM")
    before = taken(TarSource([write_tar(tmp_path / "a.tar", {"a.ppm": one, "b.ppm": other})]))
    after = taken(TarSource([write_tar(tmp_path / "a.tar", {"b.ppm": one, "a.ppm": other})]))
    assert all(isinstance(each, Rejected) for each in decoded(before))
    marks = {ref.key: ref.mtime_ns for ref in before}
    assert all(ref.mtime_ns != marks[ref.key] for ref in after)


def test_an_archive_that_leads_backwards_ends(tmp_path: Path) -> None:
    """tarfile of releases before August 2025 would go round for ever."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
        back = tarfile.TarInfo("b.png")
        back.pax_headers = {"size": "-1536"}
        archive.addfile(back)
    with pytest.raises(SourceUnavailableError, match="cannot be listed after 1 members"):
        list(TarSource([path]))


@pytest.mark.parametrize("mtime", ["inf", "nan", "1e30", "-5"])
def test_a_time_that_is_none_is_taken_for_none(tmp_path: Path, mtime: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"mtime": mtime}
        info.size = len(picture(1))
        archive.addfile(info, io.BytesIO(picture(1)))
    (ref,) = taken(TarSource([path]))
    assert ref.mtime_ns == 0 and isinstance(decoded([ref])[0], Decoded)


def test_a_member_that_claims_more_than_a_limit_is_not_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": picture(1) + bytes(2 * 10**6)})
    (found,) = decoded(taken(TarSource([path])))
    assert isinstance(found, Rejected) and "larger than the limit of 1000000" in found.reason


@pytest.mark.parametrize("name", ["{:06d}.png", "frame.{:06d}.png"])
def test_a_large_archive_is_listed_in_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(3_000):
            archive.addfile(tarfile.TarInfo(name.format(number)), io.BytesIO())
    tracemalloc.start()
    try:
        count = sum(1 for _ in TarSource([path]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 3_000 and peak < 3_000 * 80  # the library's own list takes 1.5 kB a member


def test_a_file_by_the_name_of_a_member_is_a_file(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"x.png": picture(1)})
    (ref,) = taken(TarSource([path]))
    twin = Path(f"{path}#x.png#0")
    assert ref.path == str(twin) and os.sep not in "x.png"
    twin.write_bytes(picture(2))
    (found,) = decoded([ImageRef("k", str(twin), 1, 1, "")])
    assert isinstance(found, Decoded) and found.content == blake2b(picture(2), digest_size=16).digest()
