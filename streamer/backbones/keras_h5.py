"""The HDF5 layouts in which Keras keeps weights.

Three are read: the old one (``model.save_weights("x.h5")`` of Keras 2, and Keras' own ImageNet files), a whole model
saved in it (the same, under ``model_weights``), and that of Keras 3 (``x.weights.h5``).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamer.backbones.matching import FileLayer
from streamer.errors import WeightsError

__all__ = ["file_layers", "opened", "unreadable"]

_HOW_TO_SAVE = "save the weights with model.save_weights('NAME.weights.h5')"

# What h5py raises for the many ways in which a file can be broken.
BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a weights file for reading.

    Raises
    ------
    WeightsError
        If it is no HDF5 file, or a truncated one.
    """
    import h5py

    try:
        # Network drives often refuse locks, and nobody writes to a weights file.
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        with path.open("rb") as plain:
            if plain.read(2) == b"PK":
                raise WeightsError(f"{path} is a .keras archive; load it in Keras and {_HOW_TO_SAVE}") from None
        raise unreadable(path, error) from error
    with file:
        yield file


def unreadable(path: Path, error: Exception) -> WeightsError:
    """Return the error for a file that h5py cannot read."""
    return WeightsError(
        f"{path} cannot be read as HDF5: it is cut short, damaged, or of another kind ({error}). "
        "Fetch or save it again and compare its size with the original's"
    )


def file_layers(path: Path) -> list[FileLayer]:
    """Return the layers of a weights file that have weights, in the file's order.

    Raises
    ------
    WeightsError
        If the file is damaged, or of a layout that is not known.
    """
    with opened(path) as file:
        try:
            return list(_layers(path, file))
        except BROKEN as error:
            raise unreadable(path, error) from error


def _layers(path: Path, file: Any) -> Iterator[FileLayer]:
    root = _child(file, "model_weights" if "model_weights" in file else "/")
    if _attribute(root, "layer_names"):
        return _legacy_layers(root)
    for name in ("layers", "_layer_checkpoint_dependencies"):  # Keras 3; the last of Keras 2
        if name in file:
            return _keras3_layers(path, _child(file, name))
    raise WeightsError(f"{path} is HDF5 but holds no Keras weights (no layer_names, no layers); {_HOW_TO_SAVE}")


def _legacy_layers(root: Any) -> Iterator[FileLayer]:
    for name in _attribute(root, "layer_names"):
        group = _child(root, name)
        arrays = [_child(group, weight) for weight in _attribute(group, "weight_names")]
        if arrays:
            yield FileLayer(name, tuple((array.name, tuple(array.shape)) for array in arrays))


def _keras3_layers(path: Path, layers: Any) -> Iterator[FileLayer]:
    """Walk ``layers/conv2d_7/vars/0``: numbered by class in model order, the layer's own name an attribute."""
    for name in sorted(layers, key=_class_and_number):
        group = _child(layers, name)
        if "layers" in group:
            raise WeightsError(
                f"{path} holds a model inside a model ({name!r}): save the inner one by itself, "
                "model.get_layer(NAME).save_weights('NAME.weights.h5')"
            )
        if "vars" not in group:
            continue
        variables = _child(group, "vars")
        arrays = [_child(variables, number) for number in sorted(variables, key=int)]
        if arrays:
            own_name = variables.attrs.get("name", name)
            yield FileLayer(str(own_name), tuple((array.name, tuple(array.shape)) for array in arrays))


def _class_and_number(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert match is not None
    return match[1], int(match[2] or 0)


def _attribute(group: Any, name: str) -> list[str]:
    """Read a list of strings, which Keras splits over ``name0``, ``name1``, ... when it is longer than 64 KiB."""
    if name in group.attrs:
        values = list(group.attrs[name])
    else:
        values = []
        while (part := f"{name}{len(values)}") in group.attrs:
            values.append(group.attrs[part])
        values = [value for chunk in values for value in chunk]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _child(group: Any, path: str) -> Any:
    """Follow a path of hard links only: a link of another kind could lead out of the file."""
    import h5py

    for name in filter(None, path.split("/")):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise KeyError(f"{group.name}/{name} is missing, or a link to elsewhere")
        group = group[name]
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual or group.dtype.kind != "f"):
        raise ValueError(f"{group.name} is not a plain array of numbers")
    return group
