"""A trained head: features in, probabilities of the classes out, in plain numpy; and its one file."""

from __future__ import annotations

import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.config.schema import Images
from streamer.errors import StreamerError
from streamer.files import published
from streamer.store import FeatureSpec

__all__ = ["HEAD_FORMAT", "Dense", "Head", "untrained"]

HEAD_FORMAT = 2
"""Version of a head's file. A file of a higher format is refused; heads with a skip came with 2."""

_MADE_BY = "make it with 'streamer train STORE'"
_DAMAGES = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error),
    *(AttributeError, IndexError, KeyError, TypeError, ValueError),
)


@dataclass(frozen=True)
class Dense:
    """A fully connected layer.

    Attributes
    ----------
    kernel : ndarray of shape (inputs, units), float32
    bias : ndarray of shape (units,), float32
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map rows, shape (n, inputs), to (n, units)."""
        result: NDArray[np.float32] = rows @ self.kernel
        result += self.bias
        return result


@dataclass(frozen=True)
class Head:
    """A classifier of the features of one output.

    Features are standardised channel by channel, averaged over their map or flattened, and go through the layers, with
    ReLU between them and softmax after the last. Where there is a skip, the features also go straight to the classes.

    Attributes
    ----------
    kind : {"linear", "dense"}
        How it was trained.
    classes : tuple of str
        Names, sorted.
    spec : FeatureSpec
        Of the features, with this one output only.
    fingerprint : str
        Of the store it was trained on.
    pool : {"flatten", "gap"}
        What is done with a map; gap is global average pooling.
    mean, scale : ndarray of shape (channels,), float32
        Standardised is ``(features - mean) / scale``.
    layers : tuple of Dense
    facts : mapping
        How it was trained and what was measured. Nothing that differs from run to run: the same training gives the same
        bytes.
    images : Images
        The limits under which the pictures of the store were decoded: those that are asked about are held to the same.
    skip : ndarray of shape (inputs, classes), float32, optional
        A linear model's kernel beside the layers: its products are added to what the last layer gives.
    """

    kind: str
    classes: tuple[str, ...]
    spec: FeatureSpec
    fingerprint: str
    pool: str
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    layers: tuple[Dense, ...]
    facts: Mapping[str, Any]
    images: Images = field(default_factory=Images)
    skip: NDArray[np.float32] | None = None

    @property
    def output(self) -> str:
        """Name of the output whose features it takes."""
        return self.spec.indexed

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's feature."""
        return self.spec.outputs[self.output]

    def prepared(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardise, then pool or flatten: what the first layer takes, shape (b, inputs), float32."""
        rows = features - self.mean
        rows /= self.scale
        if self.pool == "gap":
            averages: NDArray[np.float32] = rows.reshape(len(rows), -1, rows.shape[-1]).mean(axis=1)
            return averages
        return rows.reshape(len(rows), prod(self.shape))

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Classify a batch.

        Parameters
        ----------
        features : ndarray of shape (b, ...), float32
            Of the output, as the store gives them.

        Returns
        -------
        ndarray of shape (b, classes), float32
            Each row sums to 1.

        Raises
        ------
        ValueError
            If the features are of another shape.
        """
        if features.shape[1:] != self.shape:
            raise ValueError(f"features of shape {features.shape[1:]}; this head takes {self.shape} of {self.output}")
        return self.classified(self.prepared(features))

    def classified(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities, shape (b, classes), of what `prepared` gave."""
        hidden = rows
        for layer in self.layers[:-1]:
            hidden = layer(hidden)
            np.maximum(hidden, 0, out=hidden)
        logits = self.layers[-1](hidden)
        if self.skip is not None:
            logits += rows @ self.skip
        return _softmax(logits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` file, atomically. Equal heads give equal bytes."""
        about = {
            "format": HEAD_FORMAT,
            "kind": self.kind,
            "classes": self.classes,
            "spec": json.loads(self.spec.to_json()),
            "fingerprint": self.fingerprint,
            "pool": self.pool,
            "layers": len(self.layers),
            "facts": self.facts,
            "images": self.images.model_dump(),
        }
        arrays = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), "mean": self.mean, "scale": self.scale}
        for number, layer in enumerate(self.layers):
            arrays |= {f"kernel_{number}": layer.kernel, f"bias_{number}": layer.bias}
        if self.skip is not None:
            arrays["skip"] = self.skip
        with published(Path(path)) as partial, zipfile.ZipFile(partial, "w") as archive:
            for name, array in arrays.items():
                # A ZipInfo made by hand bears the same date each time: 1980.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Head:
        """The inverse of `save`.

        Raises
        ------
        StreamerError
            If there is no file, it is no head, was made by a newer release, or is damaged.
        """
        try:
            # Opened here: numpy leaves a file of its own open when the archive is damaged.
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as data:
                if "about" not in data:
                    raise StreamerError(f"{path}: this .npz file is no head; {_MADE_BY}")
                about = json.loads(data["about"].tobytes())
                if about["format"] > HEAD_FORMAT:
                    raise StreamerError(
                        f"{path}: a head of format {about['format']}, made by a newer release; this one reads up to "
                        f"{HEAD_FORMAT}: upgrade streamer"
                    )
                head = cls(
                    kind=about["kind"],
                    classes=tuple(about["classes"]),
                    spec=FeatureSpec.from_json(json.dumps(about["spec"])),
                    fingerprint=about["fingerprint"],
                    pool=about["pool"],
                    mean=data["mean"],
                    scale=data["scale"],
                    layers=tuple(Dense(data[f"kernel_{n}"], data[f"bias_{n}"]) for n in range(about["layers"])),
                    facts=about["facts"],
                    images=Images(**about.get("images", {})),  # the first heads did not say
                    skip=data.get("skip"),
                )
        except FileNotFoundError:
            raise StreamerError(f"{path}: no head here; {_MADE_BY}") from None
        except IsADirectoryError:
            raise StreamerError(
                f"{path}: a folder, not a head; name the .npz file that 'streamer train' wrote"
            ) from None
        except _DAMAGES as error:
            raise StreamerError(f"{path}: no head, or a damaged one ({error}); {_MADE_BY}") from error
        wrong = head._fault()
        if wrong is not None:
            raise StreamerError(f"{path}: this head is damaged: {wrong}; train it again")
        return head

    def _fault(self) -> str | None:
        """What does not fit together; None if all does."""
        if self.pool not in ("flatten", "gap") or len(self.spec.outputs) != 1 or not self.layers:
            return f"pool is {self.pool!r}, with {len(self.layers)} layers on {len(self.spec.outputs)} outputs"
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            return f"its {len(self.classes)} classes are not two or more different names"
        channels = self.shape[-1]
        width = channels if self.pool == "gap" else prod(self.shape)
        wanted: dict[str, tuple[NDArray[np.float32], tuple[int, ...]]] = {
            "mean": (self.mean, (channels,)),
            "scale": (self.scale, (channels,)),
        }
        if self.skip is not None:
            wanted["skip"] = (self.skip, (width, len(self.classes)))
        for number, layer in enumerate(self.layers):
            last = number == len(self.layers) - 1
            units = len(self.classes) if last else layer.kernel.shape[-1]
            wanted |= {f"kernel_{number}": (layer.kernel, (width, units)), f"bias_{number}": (layer.bias, (units,))}
            width = units
        for name, (array, shape) in wanted.items():
            if array.shape != shape or array.dtype != np.float32:
                return f"{name} is {array.dtype} of shape {array.shape}, and should be float32 of shape {shape}"
            if not np.isfinite(array).all():
                return f"{name} holds values that are no finite numbers"
        if not (self.scale > 0).all():
            return "scale holds values that are not above zero"
        return None


def untrained(sizes: Sequence[int], seed: int) -> tuple[Dense, ...]:
    """Draw the layers of a head before training.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, units of each layer between, classes.
    seed : int

    Returns
    -------
    tuple of Dense
        Uniform kernels and zero biases, as Keras draws them: Glorot and Bengio 2010, "Understanding the difficulty of
        training deep feedforward neural networks", equation 16.
    """
    layers = []
    for number, (inputs, units) in enumerate(itertools.pairwise(sizes)):
        limit = np.float32(np.sqrt(6 / (inputs + units)))
        # In float32 from the start: a kernel may be most of what the memory budget allows.
        kernel = np.random.Generator(np.random.PCG64([seed, number])).random((inputs, units), dtype=np.float32)
        kernel *= 2 * limit
        kernel -= limit
        layers.append(Dense(kernel, np.zeros(units, np.float32)))
    return tuple(layers)


def _softmax(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rows -= rows.max(axis=1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= rows.sum(axis=1, keepdims=True)
    return rows
