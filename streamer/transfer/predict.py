"""What a head says of new pictures, through the network that it was trained behind, or of a store's features."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import FingerprintMismatchError, WeightsError
from streamer.extraction import Extractor, ExtractSettings, Network
from streamer.images.named import numbered, photos_at
from streamer.store import FeatureSpec, Store
from streamer.transfer.head import Head

__all__ = ["Prediction", "Predictor", "predict_stored"]

_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Prediction:
    """What one picture is taken for.

    Attributes
    ----------
    image : str
        Its path as it was given, or its key in the store.
    top : tuple of (str, float)
        Labels and their probabilities, best first, ties by name; empty when the picture could not be read.
    error : str or None
        Why it could not be read.
    """

    image: str
    top: tuple[tuple[str, float], ...]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The form that ``--json`` prints."""
        if self.error is not None:
            return {"image": self.image, "error": self.error}
        label, probability = self.top[0]
        top = [{"label": name, "probability": round(share, 6)} for name, share in self.top]
        return {"image": self.image, "label": label, "probability": round(probability, 6), "top": top}


class Predictor:
    """Asks a head about pictures. The network is loaded with the first.

    Parameters
    ----------
    head : Head
    budget_bytes : int
        Memory for the whole process.
    device : {"auto", "cpu", "gpu"}
    weights : path-like, optional
        Where the network's weights are, a Keras ``.h5`` file; by default, where they were when the head was trained.

    Raises
    ------
    WeightsError
        If the network's weights are not there.
    FingerprintMismatchError
        If the network that is here would give other features than the head was trained on, or those were imported.
    EngineUnavailableError
        If the device asked for is not there.

    Examples
    --------
    >>> with Predictor(Head.load("pets.npz")) as predictor:              # doctest: +SKIP
    ...     for each in predictor.stream(["new/"], top=3):
    ...         print(each.image, each.top)
    """

    def __init__(
        self,
        head: Head,
        *,
        budget_bytes: int = 2**30,
        device: str = "auto",
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        self.head = head
        if head.spec.imported:
            raise FingerprintMismatchError(
                f"this head was trained on features that were imported ({head.output}), and a picture cannot be turned "
                "into such features here; ask it about a store of them: streamer predict HEAD --store STORE"
            )
        network = _network(head, weights)
        what = "the network that is here" if weights is None else f"the network with the weights {weights}"
        _require_same(head, network.spec(), what, "Bring back the weights (--weights FILE) and the release")
        settings = ExtractSettings(
            engine="auto",
            device=device,
            budget_bytes=budget_bytes,
            gpu_fraction=None,
            threads=None,
            max_pixels=head.images.max_pixels,
            max_file_bytes=head.images.max_file,
        )
        self._extractor = Extractor(network, settings)

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the network."""
        self._extractor.close()

    def stream(self, images: Iterable[str | os.PathLike[str]], top: int = 5) -> Iterator[Prediction]:
        """Classify pictures as they come, however many.

        Parameters
        ----------
        images : iterable of path-like
            Image files, and folders of them.
        top : int
            Labels wanted of each.

        Yields
        ------
        Prediction
            In the order of `images`. A picture that cannot be read says why.
        """
        paths = chain.from_iterable(map(photos_at, images))
        refs = (numbered(number, path) for number, path in enumerate(paths))
        for batch in self._extractor.features(refs):
            found: dict[int, Prediction] = {}
            if batch.refs:
                probabilities = self.head.probabilities(batch.features[self.head.output])
                for ref, row in zip(batch.refs, probabilities, strict=True):
                    found[int(ref.key)] = Prediction(ref.path, _top(self.head, row, top))
            for each in batch.rejected:
                found[int(each.ref.key)] = Prediction(each.ref.path, (), each.reason)
            for number in sorted(found):
                yield found[number]


def predict_stored(head: Head, store: Store, top: int = 5) -> Iterator[Prediction]:
    """Classify all images of a store by their stored features.

    Parameters
    ----------
    head : Head
    store : Store
    top : int
        Labels wanted of each.

    Yields
    ------
    Prediction
        By id. `image` is the key. One whose features are not finite numbers says so.

    Raises
    ------
    FingerprintMismatchError
        If the store holds other features than the head was trained on.
    """
    if head.output not in store.spec.outputs:
        raise FingerprintMismatchError(
            f"{store.path}: the head takes {head.output}, and the store has {', '.join(store.spec.outputs)}; extract "
            "that output, or train a head on this store"
        )
    _require_same(head, store.spec.of_queries().for_output(head.output), f"the store {store.path}", "Take a store")
    rows = max(1, _BLOCK_BYTES // (4 * store.feature_length(head.output)))
    for ids, features in store.blocks(head.output, rows):
        names = store.catalog.names(ids.tolist())
        unusable = set(ids[~np.isfinite(features).all(axis=1)].tolist())
        with np.errstate(invalid="ignore"):
            probabilities = head.probabilities(features.reshape(-1, *head.shape))
        for number, row in zip(ids.tolist(), probabilities, strict=True):
            if number not in names:  # it has just been removed
                continue
            if number not in unusable:
                yield Prediction(names[number][0], _top(head, row, top))
            else:
                yield Prediction(names[number][0], (), "its features hold values that are no finite numbers")


def _network(head: Head, weights: str | os.PathLike[str] | None) -> Network:
    """The network that the head was trained behind, its weights from where they were or from a file."""
    if weights is not None:
        return Network.of_store(replace(head.spec, weights=str(Path(weights).expanduser().absolute())))
    try:
        return Network.of_store(head.spec)
    except WeightsError as error:
        raise WeightsError(
            f"{error}. The head was trained behind {head.spec.backbone} with the weights {head.spec.weights}: if they "
            "lie elsewhere now, name the file with --weights FILE.h5"
        ) from error


def _require_same(head: Head, spec: FeatureSpec, what: str, remedy: str) -> None:
    differences = spec.differences(head.spec)
    if differences:
        raise FingerprintMismatchError(
            f"this head was trained on other features than {what} gives: {'; '.join(differences)} (there: when it was "
            f"trained). {remedy} that the head was trained with, or train a head anew"
        )


def _top(head: Head, row: NDArray[np.float32], top: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-row, kind="stable")[:top]
    return tuple((head.classes[place], float(row[place])) for place in order)
