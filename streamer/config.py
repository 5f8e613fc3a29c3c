"""The configuration: YAML in, one frozen and typed `Config` out.

Every default of the program stands here and nowhere else. Unknown keys, wrong types and values out of range are errors
that name the file, the line, the value, and the nearest thing that would have been right.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from streamer.errors import ConfigError

__all__ = ["Config", "Output", "format_bytes", "load_config", "parse_bytes"]

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(value: object) -> int:
    """Turn a size such as ``"512MiB"``, ``"1.5 GB"`` or ``1048576`` into bytes.

    Raises
    ------
    ValueError
        If it is not a positive size, or has a unit that is not known.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a size; write it like 512MiB or 1GiB")
    match = _SIZE.fullmatch(str(value))
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write it like 512MiB or 1GiB")
    size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size <= 0:
        raise ValueError(f"{value!r} is not a size above zero")
    return size


def format_bytes(size: int) -> str:
    """Write a size for people: ``format_bytes(536870912)`` is ``"512 MiB"``."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if number >= 100 or number == int(number) else f"{number:.1f} {unit}"


def _budget(value: object) -> int | None:
    return None if value in ("auto", None) else parse_bytes(value)


def _expanded(value: object) -> str:
    """Expand ``~`` and environment variables."""
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError(f"{value!r} is not a path")
    try:
        expanded = str(Path(os.path.expandvars(str(value))).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{str(value)!r}: {error}") from None
    unset = re.search(r"\$\{?(\w+)\}?", expanded)
    if unset and unset[1] not in os.environ:
        raise ValueError(f"{str(value)!r} names the environment variable {unset[1]}, which is not set")
    return expanded


def _path(value: object, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path.cwd())
    return Path(os.path.normpath(Path(base) / _expanded(value)))


_NAMED_WEIGHTS = ("auto", "imagenet", "bundled", "random")
_NAMED = (*_NAMED_WEIGHTS, "off")


def _weights(value: object, info: ValidationInfo) -> str:
    return str(value) if value in _NAMED_WEIGHTS else str(_path(value, info))


def _fraction(value: object) -> object:
    """Take ``30 %`` for 0.3."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else value


def _log_file(value: object, info: ValidationInfo) -> object:
    # YAML takes a bare `off` for false.
    return "off" if value is False else value if value in ("auto", "off") else _path(value, info)


def _auto(value: object) -> object:
    return None if value == "auto" else value


ByteSize = Annotated[int, BeforeValidator(parse_bytes)]
PathFromBase = Annotated[Path, BeforeValidator(_path)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Section):
    """Where the images are."""

    folder: PathFromBase = Field(description="searched recursively; label = name of the parent folder")
    exclude: Annotated[tuple[str, ...], Field(strict=False)] = ()
    max_removed: Annotated[float, BeforeValidator(_fraction)] = Field(
        0.3, ge=0, le=1, description="share of the library that one run may drop; more is taken for a mishap"
    )
    allow_empty: bool = Field(False, description="whether a source without a single image is what it seems")


class Images(_Section):
    """What counts as a readable image."""

    max_pixels: int = Field(100_000_000, ge=1)
    max_file: ByteSize = 256 * 2**20


class Output(_Section):
    """One kind of feature: a layer of the backbone, how its map becomes a vector, and in how many cells a side."""

    layer: str
    pooling: Literal["none", "avg", "max", "gem"] = "none"
    grid: int = Field(1, ge=1, le=16)


class BackboneChoice(_Section):
    """Which network, which weights, which layers.

    ``name: auto`` is what an existing store was made with; for a new one VGG16 if its ImageNet weights are on this
    machine, else the compact VGG16. ``weights: auto`` are the backbone's own. Without `outputs`, its default is taken.
    """

    name: Literal["auto", "vgg16", "vgg16_compact", "resnet50", "inception_v3"] = "auto"
    weights: Annotated[str, BeforeValidator(_weights)] = "auto"
    seed: int = Field(0, ge=0, description="of random weights")
    input_size: int | None = Field(None, ge=32, le=1024, description="side of the square fed to the network, pixels")
    outputs: Annotated[tuple[Output, ...], Field(strict=False, min_length=1)] | None = None


class Memory(_Section):
    """How much memory the whole process tree may hold. ``budget: auto`` is a quarter of the machine's."""

    budget: Annotated[int | None, BeforeValidator(_budget)] = 2**30
    gpu_fraction: float | None = Field(None, gt=0, le=1, description="of the GPU's memory; otherwise as much as needed")


class Reduce(_Section):
    """PCA before the index."""

    components: int = Field(256, ge=1)
    whiten: bool = False


class Index(_Section):
    """The search index. ``trees: auto`` chooses for the recall asked for in `search`."""

    kind: Literal["annoy", "exact"] | None = Field(None, description="without it: annoy where it is installed")
    trees: Annotated[int | None, BeforeValidator(_auto)] = Field(None, ge=1, le=1000)
    seed: int = Field(0, ge=0, lt=2**31)
    rebuild_fraction: Annotated[float, BeforeValidator(_fraction)] = Field(
        0.1, ge=0, description="of the indexed images; what is newer is searched beside the index until it is more"
    )


class Search(_Section):
    """How queries are answered."""

    k: int = Field(10, ge=1)
    candidates: int = Field(200, ge=1)
    rerank: bool = True
    recall: float = Field(0.99, gt=0, le=1, description="recall@10 against exact search that the index is tuned for")


class Run(_Section):
    """How a run goes about its work.

    It commits when a shard is that old or that large, whichever comes first. ``log_file: auto`` is ``logs/run.log`` in
    the store.
    """

    commit_seconds: float = Field(60.0, gt=0)
    commit_size: ByteSize = 256 * 2**20
    threads: int | None = Field(None, ge=1, description="decoding threads; otherwise one a core")
    max_minutes: float | None = Field(None, gt=0, description="stop extracting then; the next run goes on from there")
    log_file: Annotated[Path | Literal["auto", "off"], BeforeValidator(_log_file)] = "auto"
    on_failure: str | Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="a line for the shell, or a program and its arguments, to run when a run has failed"
    )


class Config(_Section):
    """All that a run needs to know. Attributes are the sections of the YAML file."""

    store: PathFromBase
    source: Source
    images: Images = Images()
    backbone: BackboneChoice = BackboneChoice()
    device: Literal["auto", "cpu", "gpu"] = "auto"
    engine: Literal["auto", "ncnn", "keras"] = "auto"
    precision: Literal["full", "mixed"] = Field("full", description="mixed: fully connected weights as float16")
    memory: Memory = Memory()
    reduce: Reduce = Reduce()
    index: Index = Index()
    search: Search = Search()
    run: Run = Run()

    @property
    def log_file(self) -> Path | None:
        """Where the log goes, or None."""
        if isinstance(self.run.log_file, Path):
            return self.run.log_file
        return self.store / "logs" / "run.log" if self.run.log_file == "auto" else None


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
        raise ConfigError("\n".join(_explain(error, origins, str(file)))) from None


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


_PATH_KEYS = {("store",), ("source", "folder"), ("backbone", "weights"), ("run", "log_file")}


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
            value = str(Path.cwd() / _expanded(value))
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


def _explain(error: ValidationError, origins: Mapping[tuple[str | int, ...], str], file: str) -> list[str]:
    faults = error.errors()
    lines = []
    for fault in faults:
        location = fault["loc"]
        if any(len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in faults):
            continue  # a section is not at fault for what stands inside it
        origin = next(
            (origins[location[:depth]] for depth in range(len(location), 0, -1) if location[:depth] in origins), file
        )
        section, key = ".".join(map(str, location[:-1])), str(location[-1])
        name = ".".join(map(str, location))
        given = fault["input"]
        if fault["type"] == "extra_forbidden":
            near = _nearest(key, _keys_at(location[:-1]))
            text = f"unknown key {key!r}" + (f" in {section}" if section else "") + near
        elif fault["type"] == "missing":
            text = f"{name!r} is missing" + (f" ({_HELP[name]})" if name in _HELP else "")
        elif fault["type"] == "literal_error":
            choices = _choices_at(location)
            text = f"{name}: {given!r} is not one of {', '.join(choices)}{_nearest(str(given), choices)}"
        elif fault["type"] == "value_error":
            text = f"{name}: {fault['ctx']['error']}"
        elif fault["type"] in ("model_type", "dict_type"):
            text = f"{name}: {given!r} stands where a section with keys should: {', '.join(_keys_at(location))}"
        else:
            text = f"{name}: {given!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        lines.append(f"{origin}: {text}")
    return lines


_HELP = {
    "store": "the folder that will hold features and index, for example ./photos.store",
    "source": "where the photos are, for example {folder: ~/Pictures}",
    "source.folder": "the folder with the photos",
}


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(known)})" if known else ""


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
