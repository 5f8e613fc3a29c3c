"""What the features of a store are: the identity that every shard must share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from streamer.records import Augmentation

__all__ = ["FORMAT", "FeatureSpec"]

FORMAT = 1
"""Version of the store's layout on disk. A store of a higher format is refused."""

_IMPORTED = "imported"


_UNNAMED = "nothing says that they are of one network; say so as they are imported, by 'streamer import --name NETWORK'"

# What settings were before they could be chosen.
_USUAL = {"dtype": "float32", "augment": None, "origin": ""}


@dataclass(frozen=True)
class FeatureSpec:
    """Everything that changes a feature's value, and where the weights came from.

    Attributes
    ----------
    backbone : str
        Name of the network; ``imported`` where the features were computed elsewhere.
    weights : str
        Where the weights come from: ``imagenet``, ``random`` or a path. Not part of the fingerprint.
    weights_seed : int
        Seed of random weights. Not part of the fingerprint: `weights_sha256` covers it.
    weights_sha256 : str
    input_size : tuple of int
        Height and width fed to the network, pixels.
    decoding : str
        Name of the way images become pixels.
    precision : {"full", "mixed"}
        Of the weights: mixed differs from full by more than engines may.
    outputs : mapping of str to tuple of int
        Shape of one image's feature, by output name; the first is the one indexed.
    dtype : {"float32", "float16"}
        What values are rounded to when they are stored. Readers hand out float32 either way.
    augmentation : Augmentation or None
        Of the rows that are stored for each image beside its own.
    origin : str
        Of features that were computed elsewhere by nobody says which network: a digest of the first of them.
    """

    backbone: str
    weights: str
    weights_seed: int
    weights_sha256: str
    input_size: tuple[int, int]
    decoding: str
    precision: str
    outputs: Mapping[str, tuple[int, ...]]
    dtype: str = "float32"
    augmentation: Augmentation | None = None
    origin: str = ""

    @classmethod
    def of_imported(cls, name: str, shape: tuple[int, ...], origin: str = "") -> FeatureSpec:
        """What features are that were computed elsewhere: all that is known of them is a name and their shape.

        Where the name says nothing, `origin` tells them from others.
        """
        return cls(
            backbone=_IMPORTED,
            weights="",
            weights_seed=0,
            weights_sha256="",
            input_size=(0, 0),
            decoding="",
            precision="full",
            outputs={name: shape},
            origin=origin,
        )

    @property
    def imported(self) -> bool:
        """Whether they were computed elsewhere: no photo can be turned into such features here."""
        return self.backbone == _IMPORTED

    @property
    def indexed(self) -> str:
        """Name of the output that is reduced and indexed."""
        return next(iter(self.outputs))

    @property
    def row_bytes(self) -> int:
        """Size of one stored row of all outputs, uncompressed."""
        return np.dtype(self.dtype).itemsize * sum(int(np.prod(shape)) for shape in self.outputs.values())

    def rounding(self) -> dict[str, float] | None:
        """How far a stored value may be from what the network gave; None where it is what the network gave.

        Rounded to float16's 11 significant bits, a value is off by ``relative`` of itself at most; below 2**-14, where
        it has fewer, by ``absolute``.
        """
        return {"relative": 2.0**-11, "absolute": 2.0**-25} if self.dtype == "float16" else None

    @property
    def copies(self) -> int:
        """Augmented rows of each image."""
        return self.augmentation.copies if self.augmentation else 0

    def of_queries(self) -> FeatureSpec:
        """What the features of a query are: the network's, as they come, of the image itself."""
        return replace(self, dtype="float32", augmentation=None)

    def identity(self) -> dict[str, Any]:
        """The part that the fingerprint covers. What is as it always was is left out: old stores keep theirs."""
        identity = self._settings()
        for name, usual in _USUAL.items():
            if identity[name] == usual:
                del identity[name]
        return identity

    def _settings(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone,
            "weights_sha256": self.weights_sha256,
            "input_size": list(self.input_size),
            "decoding": self.decoding,
            "precision": self.precision,
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "dtype": self.dtype,
            "augment": asdict(self.augmentation) if self.augmentation else None,
            "origin": self.origin,
        }

    @property
    def fingerprint(self) -> str:
        """Hash of all that changes a feature's value, 32 hexadecimal digits."""
        canonical = json.dumps(self.identity(), separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()

    def differences(self, other: FeatureSpec) -> list[str]:
        """What sets two specs apart, in words: ``"input_size is [224, 224] here and [96, 96] there"``."""
        mine, theirs = self._settings(), other._settings()
        # As JSON: the order of the outputs counts, which two dicts do not compare.
        return [
            _UNNAMED if name == "origin" else f"{name} is {mine[name]} here and {theirs[name]} there"
            for name in mine
            if json.dumps(mine[name]) != json.dumps(theirs[name])
        ]

    def for_output(self, output: str) -> FeatureSpec:
        """What gives one output and nothing else: what a head that was trained on it depends on."""
        return replace(self, outputs={output: self.outputs[output]})

    def to_json(self) -> str:
        """Everything, as JSON (the order of the outputs is kept)."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FeatureSpec:
        """The inverse of `to_json`."""
        data = json.loads(text)
        data["input_size"] = tuple(data["input_size"])
        data["outputs"] = {name: tuple(shape) for name, shape in data["outputs"].items()}
        if data.get("augmentation"):
            data["augmentation"] = Augmentation(**data["augmentation"])
        return cls(**data)
