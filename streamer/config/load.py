"""From a YAML file and the command line to a `Config`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from streamer.config.explain import explain
from streamer.config.schema import NAMED_WEIGHTS, Config, expanded
from streamer.errors import ConfigError

__all__ = ["load_config"]


class _Loader(yaml.SafeLoader):
    """The safe loader, which here also refuses a key written twice (plain YAML silently keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                problem = "a key is plain text here; put quotes around a value that begins with a brace"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file.

    Parameters
    ----------
    path : path-like
        The file. Relative paths inside it are relative to its folder.
    overrides : iterable of str
        ``"memory.budget=512MiB"``; the value is read as YAML. Relative paths here are relative to the current folder.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, or says something that cannot be meant. All faults are listed, one a
        line, as ``FILE:LINE: WHAT``.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: the config cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: the config is not UTF-8 text (byte {error.start})") from None
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader
        root = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{file}{line}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{file}:1: a config is a mapping that starts with 'store:' and 'source:', not {data!r}")
    origins = {location: f"{file}:{line}" for location, line in _lines(root)}
    for override in overrides:
        _apply(data, origins, override)
    try:
        return Config.model_validate(data, context={"base": file.absolute().parent})
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, origins, str(file)))) from None


def _lines(node: yaml.Node | None, location: tuple[str | int, ...] = ()) -> Iterable[tuple[tuple[str | int, ...], int]]:
    """Line (from 1) on which each key or list entry of the file stands."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*location, key.value), key.start_mark.line + 1
            yield from _lines(value, (*location, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*location, number), value.start_mark.line + 1
            yield from _lines(value, (*location, number))


_NAMED = (*NAMED_WEIGHTS, "off")
_PATH_KEYS = {("store",), ("source", "folder"), ("labels",), ("backbone", "weights"), ("run", "log_file")}


def _apply(data: dict[str, Any], origins: dict[tuple[str | int, ...], str], override: str) -> None:
    """Put one ``a.b=value`` of the command line in its place."""
    name, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in name.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: write it as KEY=VALUE, for example memory.budget=512MiB")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not YAML") from None
    if keys in _PATH_KEYS and isinstance(value, str) and value not in _NAMED:
        try:
            value = str(Path.cwd() / expanded(value))
        except ValueError as error:
            raise ConfigError(f"--set {override}: {error}") from None
    section = data
    for key in keys[:-1]:
        inner = section.get(key)
        if inner is None:
            inner = section[key] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {key!r} is not a section")
        section = inner
    section[keys[-1]] = value
    origins[keys] = f"--set {override}"
