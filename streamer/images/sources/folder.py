"""The first stage: list the images of a folder, in the order of their keys."""

from __future__ import annotations

import logging
import os
import stat
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streamer.errors import StreamerError
from streamer.images.globs import KeyMatcher
from streamer.records import ImageRef, Rejected

__all__ = ["IMAGE_SUFFIXES", "FolderSource", "SourceUnavailableError", "describe_file"]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif"}
    | {".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""Suffixes of the files that count as images, in lower case."""


class SourceUnavailableError(StreamerError):
    """The source folder is missing, is not a folder, cannot be read, or went away while it was listed."""


class FolderSource:
    """The images below a folder, listed anew by each iteration.

    Keys come in ascending order of their code points over the whole source, so a listing can be merged with the
    catalog's without holding either. Memory: the names of one folder for each level of depth.

    Hidden files and folders are skipped. Links to folders are followed, except where they would list a picture
    twice: a link to a place inside the source, or to a place that was listed already.

    Parameters
    ----------
    folder : Path
        Where the pictures are; searched with all its sub-folders.
    exclude : sequence of str
        Globs over keys, such as ``"**/.thumbnails/**"``; see `streamer.images.globs.glob_to_regex`. What is below a
        folder that matches is not even looked at.

    Yields
    ------
    ImageRef or Rejected
        One for each file with an image suffix. What cannot be listed is a `Rejected` in its place, never left out;
        a folder that cannot be listed has a key that ends in ``"/"``: nothing is known about the images below it.

    Raises
    ------
    SourceUnavailableError
        When iterating: the folder is missing, is not a folder, cannot be read, or is gone at the end (a disk that
        was unplugged must not look like pictures that were deleted).
    ValueError
        A pattern of `exclude` is not valid.
    """

    def __init__(self, folder: Path, exclude: Sequence[str] = ()) -> None:
        self.folder = folder
        self._excluded = KeyMatcher(exclude)

    def __iter__(self) -> Iterator[ImageRef | Rejected]:
        root = os.path.abspath(self.folder)  # noqa: PTH100 - Path.absolute keeps "..", which a reader trips over
        identity = self._check(root)
        seen = _Seen(real_roots=[os.path.realpath(root)], identities={identity})
        stack = [_open_folder(root, "", seen, identity, self._excluded)]
        while stack:
            level = stack[-1]
            name = next(level.names, None)
            if name is None:
                stack.pop()
                seen.open_folders.discard(level.identity)
                continue
            key = level.key + name
            path = os.path.join(level.path, level.raw.get(name, name))  # noqa: PTH118 - a Path a file costs 5 us
            if name in level.refused:
                yield Rejected(_ref_of_refused(key, path), level.refused[name])
            elif name.endswith("/"):
                opened = self._descend(key, path.rstrip("/"), seen)
                if isinstance(opened, Rejected):
                    yield opened
                elif opened is not None:
                    stack.append(opened)
            else:
                yield describe_file(key, path)
        if self._check(root) != identity:
            raise SourceUnavailableError(
                f"{root}: another folder took its place while it was being listed (was a disk unmounted or mounted?). "
                "Nothing was removed; check the disk and run again."
            )

    def _check(self, root: str) -> tuple[int, int]:
        """Return the folder's identity, or raise with what is wrong with it."""
        hint = "Is the disk mounted? Check source.folder in the config."
        try:
            root.encode("utf-8")
            status = os.stat(root)  # noqa: PTH116
            with os.scandir(root):
                pass
        except UnicodeEncodeError as error:
            raise SourceUnavailableError(f"{root!a}: the folder's path is not valid UTF-8. Rename it.") from error
        except FileNotFoundError as error:
            raise SourceUnavailableError(f"{root}: the source folder does not exist. {hint}") from error
        except NotADirectoryError as error:
            raise SourceUnavailableError(f"{root}: the source is a file, not a folder. {hint}") from error
        except OSError as error:
            raise SourceUnavailableError(
                f"{root}: the source folder cannot be read ({_why(error)}). Check its permissions. {hint}"
            ) from error
        return status.st_dev, status.st_ino

    def _descend(self, key: str, path: str, seen: _Seen) -> _Level | Rejected | None:
        """Open a folder; None where its pictures are listed elsewhere."""
        try:
            status = os.stat(path)  # noqa: PTH116
            identity = (status.st_dev, status.st_ino)
            if not seen.is_new(path, identity):
                logger.debug("%s is skipped: it leads to a place that is listed under another name", path)
                return None
            return _open_folder(path, key, seen, identity, self._excluded)
        except OSError as error:
            return Rejected(ImageRef(key, path, 0, 0, _label(key)), f"the folder cannot be listed: {_why(error)}")


@dataclass
class _Seen:
    """Where the walk has been: what it takes to list no picture twice and to leave every loop."""

    real_roots: list[str]
    identities: set[tuple[int, int]]
    open_folders: set[tuple[int, int]] = field(default_factory=set)

    def is_new(self, path: str, identity: tuple[int, int]) -> bool:
        # Some network file systems number nothing: there only the real path tells.
        numbered = identity[1] != 0
        if numbered and (identity in self.identities or identity in self.open_folders):
            return False
        if not _is_link(path):
            return True
        real = os.path.realpath(path)
        if any(_is_inside(real, root) for root in self.real_roots):
            return False
        self.real_roots.append(real)
        if numbered:
            self.identities.add(identity)
        return True


@dataclass
class _Level:
    """One folder being walked.

    A plain list of names, and records of what is odd about a few: a `DirEntry` a file would take five times the
    memory in a folder of a million pictures.
    """

    path: str
    key: str
    identity: tuple[int, int]
    names: Iterator[str]
    raw: dict[str, str]
    refused: dict[str, str]


def _open_folder(path: str, key: str, seen: _Seen, identity: tuple[int, int], excluded: KeyMatcher) -> _Level:
    """List one folder: the names to be visited, each as it appears in keys, in the order of keys.

    A folder's name carries a slash: ``"a/"`` sorts after ``"a.jpg"`` as ``"a/b.jpg"`` does, and so walking the sorted
    names depth first meets the keys in the order of the full strings.
    """
    level = _Level(path, key, identity, iter(()), raw={}, refused={})
    names: list[str] = []
    odd: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(".") or _is_hidden(entry):
                continue
            slash = "/" if _is_folder(entry) else ""
            if not slash and not _has_image_suffix(entry.name):
                continue
            is_plain = entry.name.isascii() or (_is_utf8(entry.name) and unicodedata.is_normalized("NFC", entry.name))
            (names if is_plain else odd).append(entry.name + slash)
    taken = set(names) if odd else set()
    for raw in sorted(odd):
        name = unicodedata.normalize("NFC", raw)
        reason = ""
        if not _is_utf8(raw):
            name = os.fsencode(raw).decode("utf-8", "backslashreplace")
            reason = "the name is not valid UTF-8: rename it"
        elif name in taken:
            reason = f"the name equals another one after Unicode normalization (NFC), {name!r}: rename one of them"
            name = raw.rstrip("/").encode("ascii", "backslashreplace").decode() + raw[len(raw.rstrip("/")) :]
        while name in taken:  # someone has a file that is called like our escape of another one
            name = "~" + name
        taken.add(name)
        names.append(name)
        level.raw[name] = raw
        if reason:
            level.refused[name] = reason
    names = [name for name in names if not _is_excluded(excluded, key + name)]
    names.sort()
    level.names = iter(names)
    seen.open_folders.add(identity)
    return level


def describe_file(key: str, path: str) -> ImageRef | Rejected:
    """Describe one file, or say why it can be none of the images."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError as error:
        link = os.path.islink(path)  # noqa: PTH114
        reason = "broken link" if link else f"it vanished while its folder was listed: {_why(error)}"
        return Rejected(_ref_of_refused(key, path), reason)
    except OSError as error:
        return Rejected(_ref_of_refused(key, path), f"it cannot be examined: {_why(error)}", lasting=False)
    ref = ImageRef(key, path, status.st_size, status.st_mtime_ns, _label(key))
    if not stat.S_ISREG(status.st_mode):
        return Rejected(ref, f"not a regular file (it is {_kind(status.st_mode)})")
    return ref


def _ref_of_refused(key: str, path: str) -> ImageRef:
    """Describe what will not be opened; the catalog and JSON must be able to take the path."""
    try:
        status = os.lstat(path)
        size, mtime_ns = status.st_size, status.st_mtime_ns
    except OSError:
        size, mtime_ns = 0, 0
    if not _is_utf8(path):
        path = os.fsencode(path).decode("utf-8", "backslashreplace")
    return ImageRef(key, path, size, mtime_ns, _label(key))


def _label(key: str) -> str:
    """Name of the parent folder, ``""`` at the top of the source."""
    return key.rstrip("/").rpartition("/")[0].rpartition("/")[2]


def _is_excluded(excluded: KeyMatcher, key: str) -> bool:
    return excluded.folder(key[:-1]) if key.endswith("/") else excluded.file(key)


def _has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - as above, once a file


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads round in circles: as a file it will be refused with its reason


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    if sys.platform == "win32":
        try:
            attributes = entry.stat(follow_symlinks=False).st_file_attributes
        except OSError:
            return False
        return bool(attributes & stat.FILE_ATTRIBUTE_HIDDEN)
    return False


def _is_link(path: str) -> bool:
    status = os.lstat(path)
    if sys.platform == "win32":  # a junction is a link to a folder that needs no rights
        return status.st_reparse_tag in (stat.IO_REPARSE_TAG_SYMLINK, stat.IO_REPARSE_TAG_MOUNT_POINT)
    return stat.S_ISLNK(status.st_mode)


def _is_inside(path: str, folder: str) -> bool:
    path, folder = os.path.normcase(path), os.path.normcase(folder)
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a disk"}
    return kinds.get(stat.S_IFMT(mode), "something else")


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
