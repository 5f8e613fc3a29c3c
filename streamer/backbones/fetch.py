"""Pretrained weights: where they lie on this machine, and how Keras' own ImageNet weights get there."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from streamer.backbones.registry import get_backbone
from streamer.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from streamer.backbones.download import Opener

__all__ = [
    "KERAS_FILES",
    "KerasFile",
    "bundled_path",
    "fetch_weights",
    "imagenet_path",
    "missing_weights",
    "models_folder",
]

_log = logging.getLogger(__name__)

_BUNDLED = Path(__file__).with_name("compact")
_BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications"
_BLOCK_BYTES = 2**20
_TIMEOUT_SECONDS = 60.0

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes received so far and, where the server says, the bytes in all."""


class KerasFile(NamedTuple):
    """A file that Keras publishes: its address, and the MD5 that Keras checks it by."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]


# From keras.applications 3.15 (vgg16.py, resnet.py, inception_v3.py).
KERAS_FILES: dict[tuple[str, bool], KerasFile] = {
    ("vgg16", True): KerasFile(
        f"{_BASE_URL}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
        "64373286793e3c8b2b4e3219cbf3544b",
    ),
    ("vgg16", False): KerasFile(
        f"{_BASE_URL}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "6d6bbae143d832006294945121d1f1fc",
    ),
    ("resnet50", True): KerasFile(
        f"{_BASE_URL}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        "2cb95161c43110f7111970584f804107",
    ),
    ("resnet50", False): KerasFile(
        f"{_BASE_URL}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "4d473c1dd8becc155b73f8504c6f6626",
    ),
    ("inception_v3", True): KerasFile(
        f"{_BASE_URL}/inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels.h5",
        "9a0d58056eeedaa3f26cb7ebd46da564",
    ),
    ("inception_v3", False): KerasFile(
        f"{_BASE_URL}/inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "bcbd6486424b2319ff4ef7d526e38f63",
    ),
}
"""Keras' files by backbone and by whether they hold the top."""


def models_folder() -> Path:
    """Return the folder where Keras keeps downloaded weights, so that Keras and this package share them."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"


def imagenet_path(name: str, *, top: bool) -> Path:
    """Return where the ImageNet weights of a backbone lie, whether or not they are there."""
    return models_folder() / KERAS_FILES[name, top].name


def bundled_path(name: str) -> Path:
    """Return where the weights of a backbone lie that come with the package."""
    return _BUNDLED / f"{name}.h5"


def missing_weights(name: str, *, top: bool) -> WeightsError:
    """Return the error that says which file is missing and the two ways to get it."""
    path = imagenet_path(name, top=top)
    return WeightsError(
        f"the ImageNet weights of {name} are not on this machine: there is no {path}. "
        f"Run `{_command(name, top=top)}`; or, without a network here, download "
        f"{KERAS_FILES[name, top].url} elsewhere and put it in {path.parent}"
    )


def fetch_weights(
    name: str,
    *,
    top: bool = False,
    progress: Progress | None = None,
    opener: Opener | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Path:
    """Download Keras' ImageNet weights of a backbone, unless they are there already, and check their hash.

    Weights that come with the package are named and left where they are.

    Parameters
    ----------
    name : str
        Name of the backbone.
    top : bool
        Whether to fetch the file that holds the fully connected layers too.
    progress : callable, optional
        Called with the bytes received so far and the bytes in all (None if the server does not say).
    opener : callable, optional
        Stands in for ``urllib.request.urlopen``, which heeds the proxies of the environment.
    timeout_seconds : float
        How long the server may stay silent.

    Returns
    -------
    Path
        The file, in Keras' own cache folder.

    Raises
    ------
    ConfigError
        If there is no such backbone, or it has no fully connected layers and `top` asks for them.
    WeightsError
        If the file cannot be had, or is not the one that Keras published. Nothing is left behind.
    """
    backbone = get_backbone(name)
    if top and not backbone.has_top:
        raise ConfigError(f"{name} has no fully connected layers; leave --top out")
    if backbone.pretrained == "bundled":
        _log.info("the weights of %s are bundled: they came with the program, there is nothing to fetch", name)
        return bundled_path(name)
    file = KERAS_FILES[name, top]
    target = imagenet_path(name, top=top)
    if target.exists():
        if file_digest(target, "md5") == file.md5:
            return target
        _log.warning("%s is damaged or another file than Keras published; fetching it again", target)
    _log.info("fetching %s", file.url)
    from streamer.backbones.download import download

    download(file.url, target, file.md5, progress=progress, opener=opener, timeout_seconds=timeout_seconds)
    return target


def file_digest(path: Path, algorithm: str) -> str:
    """Return the hash of a file's bytes, as hexadecimal digits, reading it in blocks."""
    digest = new_hash(algorithm)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def new_hash(algorithm: str) -> hashlib._Hash:
    # Keras published MD5 sums; they guard against damage, and FIPS builds of Python allow them only when told so.
    return hashlib.new(algorithm, usedforsecurity=False)


def _command(name: str, *, top: bool) -> str:
    return f"streamer weights fetch {name}" + (" --top" if top else "")
