"""Faults of a config in words: where, what, and the nearest thing that would have been right."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from streamer.config.schema import Config

__all__ = ["explain"]


def explain(error: ValidationError, origins: Mapping[tuple[str | int, ...], str], file: str) -> list[str]:
    """Say what is wrong, in a line for each fault: ``FILE:LINE: WHAT``.

    Parameters
    ----------
    error : ValidationError
    origins : mapping
        Where each key was written, by its path: ``a.yaml:7``, or ``--set a.b=1``.
    file : str
        What to name where nothing was written.
    """
    faults = error.errors()
    lines = []
    for fault in faults:
        location = fault["loc"]
        if any(len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in faults):
            continue  # a section is not at fault for what stands inside it
        if not location:  # a rule between sections: its message begins with the key that it is about
            about, _, message = str(fault["ctx"]["error"]).partition(": ")
            location, fault["ctx"] = tuple(about.split(".")), {"error": message}
        origin = next(
            (origins[location[:depth]] for depth in range(len(location), 0, -1) if location[:depth] in origins), file
        )
        section, key = ".".join(map(str, location[:-1])), str(location[-1] if location else "")
        name = ".".join(map(str, location))
        given = fault["input"]
        if fault["type"] == "extra_forbidden":
            near = _nearest(key, _keys_at(location[:-1]))
            text = f"unknown key {key!r}" + (f" in {section}" if section else "") + near
        elif fault["type"] == "missing":
            text = f"{name!r} is missing" + (f" ({_HELP[name]})" if name in _HELP else "")
        elif fault["type"] == "literal_error":
            choices = _choices_at(location)
            text = f"{name}: {given!r} is not one of {', '.join(choices)}{_meant(str(given), choices)}"
        elif fault["type"] == "value_error":
            text = f"{name}: {fault['ctx']['error']}" if location else str(fault["ctx"]["error"])
        elif fault["type"] in ("model_type", "dict_type"):
            text = f"{name}: {given!r} stands where a section with keys should: {', '.join(_keys_at(location))}"
        else:
            text = f"{name}: {given!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        lines.append(f"{origin}: {text}")
    return lines


_HELP = {
    "store": "the folder that will hold features and index, for example ./photos.store",
}


def _nearest(word: str, known: Sequence[str]) -> str:
    return _meant(word, known) or (f" (known: {', '.join(known)})" if known else "")


def _meant(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _field_types(location: Sequence[str | int]) -> list[Any]:
    """Types inside the annotation at `location`, outermost first."""
    kinds: list[Any] = [Config]
    for key in location:
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if isinstance(key, str) and model is not None and key in model.model_fields:
            kinds = _flatten(model.model_fields[key].annotation)
    return kinds


def _flatten(annotation: Any) -> list[Any]:
    return [annotation] + [inner for part in get_args(annotation) for inner in _flatten(part)]


def _keys_at(location: Sequence[str | int]) -> list[str]:
    for kind in _field_types(location):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return list(kind.model_fields)
    return []


def _choices_at(location: Sequence[str | int]) -> list[str]:
    return [kind for kind in _field_types(location) if isinstance(kind, str)]
