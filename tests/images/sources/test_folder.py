"""Listing a folder: order, keys, what is left out, and what is refused but never lost."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from streamer.errors import StreamerError
from streamer.images.globs import KeyMatcher
from streamer.images.sources import FolderSource, SourceUnavailableError
from streamer.records import ImageRef, Rejected

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need POSIX")


def touch(folder: Path, *keys: str) -> None:
    for key in keys:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(key))


def key_of(item: ImageRef | Rejected) -> str:
    return item.ref.key if isinstance(item, Rejected) else item.key


def keys(folder: Path, exclude: tuple[str, ...] = ()) -> list[str]:
    return [key_of(item) for item in FolderSource(folder, exclude)]


def test_a_reference_describes_the_file(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/c.JPG", "top.png")
    os.utime(tmp_path / "top.png", ns=(5, 1_234_567_000))
    nested, top = FolderSource(tmp_path)
    assert isinstance(nested, ImageRef)
    assert (nested.key, nested.label, nested.size) == ("a/b/c.JPG", "b", 9)
    assert Path(nested.path) == tmp_path / "a" / "b" / "c.JPG"
    assert top == ImageRef("top.png", str(tmp_path / "top.png"), 7, 1_234_567_000, "")


def test_order_is_that_of_the_full_keys(tmp_path: Path) -> None:
    # "/" sorts after "-" and "." and before digits and letters: by name alone "a" comes first, and then all below it.
    wanted = ["a-b/x.jpg", "a.jpg", "a/b.jpg", "a/b/c.jpg", "a0.jpg", "a!/z.jpg", "B.jpg", "\u00e9.jpg", "\uff5e/q.png"]
    wanted += ["\U0001f600.jpg", "a/b.jpg.d/e.gif", "a/b-.webp"]
    touch(tmp_path, *wanted)
    assert keys(tmp_path) == sorted(wanted)


def test_order_over_random_trees(tmp_path: Path) -> None:
    chance = random.Random(3)
    names = ["a", "a-", "a.b", "a0", "aa", "b", "b ", "~", "z!"]
    wanted = {
        "/".join(chance.choices(names, k=chance.randrange(3))) + f"/{chance.choice(names)}.jpg" for _ in range(150)
    }
    wanted = {key.lstrip("/") for key in wanted}
    touch(tmp_path, *wanted)
    assert keys(tmp_path) == sorted(wanted)


def test_only_pictures_and_nothing_hidden(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.jpg", "a.txt", "jpg", ".hidden.jpg", ".thumbs/a.jpg", "b.JFIF", "c.HeIc", "._d.jpg", "e.jpg.part"
    )
    assert keys(tmp_path) == ["a.jpg", "b.JFIF", "c.HeIc"]


def test_keys_are_nfc_and_paths_are_as_stored(tmp_path: Path) -> None:
    touch(tmp_path, "cafe\u0301/e\u0301.jpg")
    (ref,) = FolderSource(tmp_path)
    assert isinstance(ref, ImageRef)
    assert (ref.key, ref.label) == ("caf\u00e9/\u00e9.jpg", "caf\u00e9")
    assert Path(ref.path).read_bytes()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes both for one name")
def test_of_two_names_equal_after_nfc_the_second_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "\u00e9.jpg", "e\u0301.jpg", "\u00e9d/x.jpg", "e\u0301d/x.jpg", "f.jpg")
    got = list(FolderSource(tmp_path))
    assert [key_of(item) for item in got] == sorted(key_of(item) for item in got)
    assert [item.key for item in got if isinstance(item, ImageRef)] == ["f.jpg", "\u00e9.jpg", "\u00e9d/x.jpg"]
    refused = {item.ref.key: item.reason for item in got if isinstance(item, Rejected)}
    assert set(refused) == {"e\\u0301.jpg", "e\\u0301d/"}
    assert all("normalization" in reason for reason in refused.values())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_name_that_is_not_utf8_is_refused_in_text_that_json_and_sqlite_take(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    Path(os.fsdecode(root + b"/\xe9.jpg")).write_bytes(b"x")
    Path(os.fsdecode(root + b"/d\xff")).mkdir()
    got = list(FolderSource(tmp_path))
    assert all(isinstance(item, Rejected) and "not valid UTF-8" in item.reason for item in got)
    assert [key_of(item) for item in got] == ["\\xe9.jpg", "d\\xff/"]
    assert [item.ref.path.encode() for item in got if isinstance(item, Rejected)] == [
        root + rb"/\xe9.jpg",
        root + rb"/d\xff/",
    ]


@posix_only
def test_links_are_followed_but_nothing_is_listed_twice(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    touch(tmp_path, "real/a.jpg")
    touch(outside, "b.jpg", "sub/c.jpg")
    (tmp_path / "again").symlink_to(tmp_path / "real")  # inside the source
    (tmp_path / "out1").symlink_to(outside)
    (tmp_path / "out2").symlink_to(outside)  # the same place again
    (tmp_path / "out3").symlink_to(outside / "sub")  # part of a place that was listed
    (tmp_path / "real" / "up").symlink_to(tmp_path)  # a loop
    (outside / "back").symlink_to(tmp_path)  # a loop by way of the outside
    (outside / "parent").symlink_to(tmp_path.parent)  # leads to the source from above
    (tmp_path / "file.jpg").symlink_to(outside / "b.jpg")
    with caplog.at_level(logging.DEBUG, "streamer.images.sources.folder"):
        got = keys(tmp_path, ("out1/parent/outside*/**",))
    assert [key for key in got if "parent" not in key] == ["file.jpg", "out1/b.jpg", "out1/sub/c.jpg", "real/a.jpg"]
    assert not any(key.endswith("real/a.jpg") for key in got if "parent" in key)
    assert "out2 is skipped" in caplog.text


@posix_only
def test_a_part_listed_first_is_not_listed_again_within_the_whole(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    touch(outside, "b.jpg", "sub/c.jpg")
    (tmp_path / "a").symlink_to(outside / "sub")
    (tmp_path / "z").symlink_to(outside)
    assert keys(tmp_path) == ["a/c.jpg", "z/b.jpg"]


@posix_only
def test_what_is_no_file_is_refused_and_a_pipe_never_opened(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "z.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    got: list[ImageRef | Rejected] = []
    walker = threading.Thread(target=lambda: got.extend(FolderSource(tmp_path)), daemon=True)
    walker.start()
    walker.join(10)
    assert [key_of(item) for item in got] == ["a.jpg", "dangling.jpg", "loop.jpg", "pipe.jpg", "z.jpg"]
    reasons = [item.reason for item in got if isinstance(item, Rejected)]
    assert reasons[0] == "broken link"
    assert "symbolic links" in reasons[1]
    assert reasons[2] == "not a regular file (it is a named pipe)"


def test_a_folder_that_cannot_be_listed_is_refused_by_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/x.jpg", "b/x.jpg", "c/x.jpg")
    real_scandir = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    first, refused, last = FolderSource(tmp_path)
    assert isinstance(refused, Rejected)
    assert (key_of(first), key_of(refused), key_of(last)) == ("a/x.jpg", "b/", "c/x.jpg")
    assert refused.reason == "the folder cannot be listed: Permission denied"


def test_a_file_that_vanishes_while_listed_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    listing = iter(FolderSource(tmp_path))
    assert key_of(next(listing)) == "a.jpg"
    (tmp_path / "b.jpg").unlink()
    vanished, last = listing
    assert isinstance(vanished, Rejected)
    assert "vanished" in vanished.reason
    assert key_of(last) == "c.jpg"


def test_a_missing_source_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError, match=r"nowhere.*does not exist.*disk mounted.*source.folder") as caught:
        list(FolderSource(tmp_path / "nowhere"))
    assert isinstance(caught.value, StreamerError)
    touch(tmp_path, "a.jpg")
    with pytest.raises(SourceUnavailableError, match="not a folder"):
        list(FolderSource(tmp_path / "a.jpg"))


def test_a_source_that_goes_away_while_listed_is_an_error_and_no_short_listing(tmp_path: Path) -> None:
    source = tmp_path / "disk"
    touch(source, "a.jpg", "b.jpg")
    listing = iter(FolderSource(source))
    next(listing)
    source.rename(tmp_path / "unplugged")
    with pytest.raises(SourceUnavailableError, match="does not exist"):
        list(listing)
    source.mkdir()
    (source / "a.jpg").touch()
    listing = iter(FolderSource(source))
    next(listing)
    source.rename(tmp_path / "unplugged2")
    source.mkdir()
    with pytest.raises(SourceUnavailableError, match="took its place"):
        list(listing)


def test_an_empty_source_lists_nothing(tmp_path: Path) -> None:
    assert list(FolderSource(tmp_path)) == []


def test_listing_is_lazy_and_can_be_repeated(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg", "b/x.jpg")
    source = FolderSource(tmp_path)
    listing = iter(source)
    assert key_of(next(listing)) == "a/x.jpg"
    touch(tmp_path, "b/y.jpg")  # "b" has not been looked at yet
    assert [key_of(item) for item in listing] == ["b/x.jpg", "b/y.jpg"]
    assert keys(tmp_path) == [key_of(item) for item in source]


def test_excluded_folders_are_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/thumbs/x.jpg", "a/b.jpg", "thumbs/deep/y.jpg", "c.gif")
    walked: list[str] = []
    real_scandir = os.scandir

    def scandir(path: str) -> object:
        walked.append(Path(path).name)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert keys(tmp_path, ("**/thumbs/**", "*.gif")) == ["a/b.jpg"]
    assert "thumbs" not in walked
    assert "deep" not in walked


@pytest.mark.parametrize(
    ("pattern", "key", "taken_out"),
    [
        ("*.jpg", "a.jpg", True),
        ("*.jpg", "b/a.jpg", False),
        ("**/*.jpg", "a.jpg", True),
        ("**/*.jpg", "b/c/a.jpg", True),
        ("a/**", "a/b.jpg", True),
        ("a/**", "ab/b.jpg", False),
        ("a/**/z.jpg", "a/z.jpg", True),
        ("a/**/z.jpg", "a/b/c/z.jpg", True),
        ("a/**/z.jpg", "a/bz.jpg", False),
        ("**/x/**", "a/x/b/c.jpg", True),
        ("**/x/**", "ax/b.jpg", False),
        ("IMG_?.jpg", "IMG_1.jpg", True),
        ("IMG_?.jpg", "IMG_10.jpg", False),
        ("a?b.jpg", "a/b.jpg", False),
        ("[!a-c]*.jpg", "d.jpg", True),
        ("[!a-c]*.jpg", "b.jpg", False),
        ("a[!b]c.jpg", "a/c.jpg", False),
        ("[]]x.jpg", "]x.jpg", True),
        ("[x.jpg", "[x.jpg", True),
        ("a+(b).jpg", "a+(b).jpg", True),
        ("./a/*.jpg", "a/b.jpg", True),
        ("cafe\u0301/*", "caf\u00e9/x.jpg", True),
        ("A.jpg", "a.jpg", False),
        ("", "a.jpg", False),
        ("a**b.jpg", "axyb.jpg", True),
        ("a**b.jpg", "a/b.jpg", False),
        ("a\nb*", "a\nb.jpg", True),
    ],
)
def test_globs(pattern: str, key: str, taken_out: bool) -> None:
    assert KeyMatcher([pattern]).file(key) is taken_out


@pytest.mark.parametrize(
    ("pattern", "folder", "taken_out"),
    [
        ("cache", "cache", True),
        ("cache/", "cache", True),
        ("cache/**", "cache", True),
        ("**/cache/**", "a/cache", True),
        ("cache/*.jpg", "cache", False),
        ("cache/**/*.jpg", "cache", False),
        ("**/*.jpg", "a", False),
        ("**", "a", True),
    ],
)
def test_globs_over_folders(pattern: str, folder: str, taken_out: bool) -> None:
    assert KeyMatcher([pattern]).folder(folder) is taken_out


def test_a_glob_with_many_stars_takes_no_exponential_time() -> None:
    assert not KeyMatcher(["*" * 40 + "b"]).file("a" * 2000)


def test_a_glob_that_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"'\[z-a\]\.jpg' is not a valid glob"):
        KeyMatcher(["[z-a].jpg"])


def test_listing_needs_no_pillow() -> None:
    code = "import sys, streamer.images.sources; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
