"""Looking for damage in the published index, and falling back on the generation before."""

from __future__ import annotations

from pathlib import Path

from streamer.errors import IndexMissingError
from streamer.files import fsync_folder, replace_text
from streamer.index.generation import Generation, current_generation

__all__ = ["fall_back", "index_faults"]


def index_faults(folder: Path, fingerprint: str) -> list[tuple[Path, str]]:
    """What is wrong with the published generation: each file, and its fault.

    Parameters
    ----------
    folder : Path
        ``index/`` of a store.
    fingerprint : str
        Of the store's features.
    """
    try:
        generation = current_generation(folder)
    except IndexMissingError as error:
        return [(folder / "CURRENT", str(error))]
    return _faults(generation, fingerprint) if generation is not None else []


def _faults(generation: Generation, fingerprint: str) -> list[tuple[Path, str]]:
    if generation.manifest.fingerprint != fingerprint:
        return [(generation.path / "manifest.json", "made from features of another fingerprint")]
    return generation.faults()


def fall_back(folder: Path, fingerprint: str) -> int:
    """Publish the newest generation that is sound, or none; returns its number or 0."""
    numbers = sorted((int(path.name) for path in folder.iterdir() if path.name.isdigit()), reverse=True)
    for number in numbers:
        try:
            generation = Generation(folder / f"{number:06d}")
        except (IndexMissingError, FileNotFoundError):
            continue
        if not _faults(generation, fingerprint):
            replace_text(folder / "CURRENT", generation.path.name + "\n")
            return number
    (folder / "CURRENT").unlink(missing_ok=True)
    fsync_folder(folder)
    return 0
