"""Public weights: what exists, where, under which licence, and what they need.

Nothing here is fetched by itself: `fetch` downloads one file into a cache, checks its hash, and is
not asked again. Accuracies are their publishers' (single centre crop, ILSVRC-2012 validation).
"""

import fcntl
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal

from pydantic import Field

from zoo.errors import DataError, UsageError
from zoo.frozen import Frozen
from zoo.suggest import unknown

KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
TORCH = "https://download.pytorch.org/models"
TIMM = "https://huggingface.co/timm"
CAFFE = "http://dl.caffe.berkeleyvision.org"

CAFFE_INPUT = "BGR, 0..255, less the mean pixel 103.939 116.779 123.68"
CAFFE_MEAN_IMAGE = "BGR, 0..255, 227x227 of 256x256, less Caffe's mean image"
GOOGLENET_INPUT = "BGR, 0..255, less the mean pixel 104 117 123"
TORCH_INPUT = "RGB, 0..1, less .485 .456 .406, divided by .229 .224 .225"
SIGNED_INPUT = "RGB, -1..1"

# Of keras.applications' batch normalisation; torch's is 1e-5.
KERAS_EPSILON = 1.001e-5

PIECE = 1 << 20


class PublicWeights(Frozen):
    """One file.

    Attributes:
        name: "<network>/<publisher>".
        url: Where it is.
        algorithm: Of `digest`; torchvision's is the first eight digits of a SHA-256.
        licence: What its publisher says.
        top1_error: Per cent, where the publisher states it.
        preprocessing: What the network must be given.
        options: What `zoo.create` takes beside the name for these weights to mean the same.
    """

    name: str
    url: str
    algorithm: Literal["md5", "sha1", "sha256"]
    digest: str
    licence: str
    top1_error: float | None = None
    preprocessing: str
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def network(self) -> str:
        """The catalog name."""
        return self.name.partition("/")[0]

    @property
    def file(self) -> str:
        """What the file is called in the cache; publishers' own names would collide."""
        return self.name.replace("/", "-") + self.url[self.url.rindex(".") :]


def _keras(
    network: str,
    folder: str,
    file: str,
    md5: str,
    licence: str,
    error: float | None,
    needs: str,
    **options: Any,
) -> PublicWeights:
    return PublicWeights(
        name=f"{network}/keras",
        url=f"{KERAS}/{folder}/{file}",
        algorithm="md5",
        digest=md5,
        licence=licence,
        top1_error=error,
        preprocessing=needs,
        options=options,
    )


def _torch(
    network: str, file: str, error: float | None = None, needs: str = TORCH_INPUT
) -> PublicWeights:
    return PublicWeights(
        name=f"{network}/torchvision",
        url=f"{TORCH}/{file}",
        algorithm="sha256",
        digest=file.rpartition("-")[2].removesuffix(".pth"),
        licence="BSD-3-Clause (torchvision's code; the weights carry no statement of their own)",
        top1_error=error,
        preprocessing=needs,
    )


def _caffe(
    network: str, file: str, sha1: str, error: float, needs: str, **options: Any
) -> PublicWeights:
    return PublicWeights(
        name=f"{network}/caffe",
        url=f"{CAFFE}/{file}",
        algorithm="sha1",
        digest=sha1,
        licence="unrestricted use",
        top1_error=error,
        preprocessing=needs,
        options=options,
    )


def _timm(network: str, model: str, sha256: str, licence: str) -> PublicWeights:
    return PublicWeights(
        name=f"{network}/timm",
        url=f"{TIMM}/{model}/resolve/main/model.safetensors",
        algorithm="sha256",
        digest=sha256,
        licence=licence,
        preprocessing=TORCH_INPUT,
    )


_TF = "tf_dim_ordering_tf_kernels.h5"
_WEIGHTS = (
    _keras(
        "vgg16",
        "vgg16",
        f"vgg16_weights_{_TF}",
        "64373286793e3c8b2b4e3219cbf3544b",
        "CC BY 4.0 (Oxford)",
        28.732,
        CAFFE_INPUT,
    ),
    _keras(
        "vgg19",
        "vgg19",
        f"vgg19_weights_{_TF}",
        "cbe5617147190e668d6c5d5026f83318",
        "CC BY 4.0 (Oxford)",
        28.744,
        CAFFE_INPUT,
    ),
    _keras(
        "densenet121",
        "densenet",
        f"densenet121_weights_{_TF}",
        "9d60b8095a5708f2dcce2bca79d332c7",
        "BSD-3-Clause",
        None,
        TORCH_INPUT,
        epsilon=KERAS_EPSILON,
    ),
    _keras(
        "densenet169",
        "densenet",
        f"densenet169_weights_{_TF}",
        "d699b8f76981ab1b30698df4c175e90b",
        "BSD-3-Clause",
        None,
        TORCH_INPUT,
        epsilon=KERAS_EPSILON,
    ),
    _keras(
        "densenet201",
        "densenet",
        f"densenet201_weights_{_TF}",
        "1ceb130c1ea1b78c3bf6114dbdfd8807",
        "BSD-3-Clause",
        None,
        TORCH_INPUT,
        epsilon=KERAS_EPSILON,
    ),
    _keras(
        "resnet50_keras",
        "resnet",
        f"resnet50_weights_{_TF}",
        "2cb95161c43110f7111970584f804107",
        "MIT (He et al.)",
        None,
        CAFFE_INPUT,
    ),
    _keras(
        "resnet101_keras",
        "resnet",
        f"resnet101_weights_{_TF}",
        "f1aeb4b969a6efcfb50fad2f0c20cfc5",
        "MIT (He et al.)",
        None,
        CAFFE_INPUT,
    ),
    _keras(
        "resnet152_keras",
        "resnet",
        f"resnet152_weights_{_TF}",
        "100835be76be38e30d865e96f2aaae62",
        "MIT (He et al.)",
        None,
        CAFFE_INPUT,
    ),
    _torch("alexnet_owt", "alexnet-owt-7be5be79.pth", 43.478),
    _torch("vgg11", "vgg11-8a719046.pth", 30.98),
    _torch("vgg13", "vgg13-19584684.pth", 30.07),
    _torch("vgg16", "vgg16-397923af.pth", 28.41),
    _torch("vgg19", "vgg19-dcbb9e9d.pth", 27.62),
    _torch("vgg11_bn", "vgg11_bn-6002323d.pth"),
    _torch("vgg13_bn", "vgg13_bn-abd245e5.pth"),
    _torch("vgg16_bn", "vgg16_bn-6c64b313.pth"),
    _torch("vgg19_bn", "vgg19_bn-c79401a0.pth"),
    _torch("googlenet_bn", "googlenet-1378be20.pth", needs=SIGNED_INPUT),
    _torch("resnet18_v1_5", "resnet18-f37072fd.pth"),
    _torch("resnet34_v1_5", "resnet34-b627a593.pth"),
    _torch("resnet50_v1_5", "resnet50-0676ba61.pth"),
    _torch("resnet101_v1_5", "resnet101-63fe2227.pth"),
    _torch("resnet152_v1_5", "resnet152-394f9c45.pth"),
    _torch("densenet121", "densenet121-a639ec97.pth", 25.566),
    _torch("densenet161", "densenet161-8d451a50.pth", 22.862),
    _torch("densenet169", "densenet169-b2777c0a.pth", 24.4),
    _torch("densenet201", "densenet201-c1103571.pth", 23.104),
    _timm(
        "vgg16",
        "vgg16.tv_in1k",
        "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
        "BSD-3-Clause",
    ),
    _timm(
        "vgg16_bn",
        "vgg16_bn.tv_in1k",
        "88bbedbc8e780413736db38ac4efd41b06fc0e93fd5b8879b584bba63a950129",
        "BSD-3-Clause",
    ),
    _timm(
        "resnet50_v1_5",
        "resnet50.tv_in1k",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
        "BSD-3-Clause",
    ),
    _timm(
        "densenet121",
        "densenet121.tv_in1k",
        "c894c6d9caa317a8ca1942986dee7a16a86c77734a4d691d2abe05389cfef358",
        "Apache-2.0",
    ),
    _caffe(
        "alexnet",
        "bvlc_alexnet.caffemodel",
        "9116a64c0fbe4459d18f4bb6b56d647b63920377",
        42.9,
        CAFFE_MEAN_IMAGE,
        # Caffe's k is 1 and its alpha is divided by the window; 227 pixels fit without a fill.
        lrn="caffe",
        input_shape=(227, 227, 3),
    ),
    _caffe(
        "caffenet",
        "bvlc_reference_caffenet.caffemodel",
        "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        42.6,
        CAFFE_MEAN_IMAGE,
    ),
    _caffe(
        "googlenet",
        "bvlc_googlenet.caffemodel",
        "405fc5acd08a3bb12de8ee5e23a96bec22f08204",
        31.3,
        GOOGLENET_INPUT,
    ),
)
PUBLIC: Mapping[str, PublicWeights] = MappingProxyType({each.name: each for each in _WEIGHTS})


def cache_folder() -> Path:
    """Where files stay: $CONVZOO_CACHE/weights, else $XDG_CACHE_HOME/convzoo/weights, ..."""
    chosen = os.environ.get("CONVZOO_CACHE")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convzoo"
    return (Path(chosen) if chosen else root) / "weights"


def fetch(
    name: str, *, folder: Path | None = None, offline: bool = False, url: str | None = None
) -> Path:
    """The path of public weights; downloaded once, in pieces that can go on, and verified.

    Args:
        name: "<network>/<publisher>", e.g. "vgg16/keras".
        folder: Where to keep the file; the cache when None.
        offline: Only what is there already.
        url: A mirror of this very file.

    Raises:
        UsageError: no such weights, a folder that cannot hold them, or no URL.
        DataError: they cannot be reached, or what came has another hash.
    """
    if name not in PUBLIC:
        raise UsageError(unknown("public weights", name, PUBLIC))
    weights = PUBLIC[name]
    place = (folder or cache_folder()) / weights.file
    if place.is_file():
        return place
    if offline:
        raise DataError(f"{name} is not at {place}, and --offline was asked for.")
    partial = place.with_name(f"{place.name}.part")
    with _alone_at(partial, place) as is_there:
        if not is_there:
            _download(url or weights.url, partial)
            found = digest(partial, weights.algorithm)
            if not found.startswith(weights.digest):
                partial.unlink()
                raise DataError(
                    f"{url or weights.url} has {weights.algorithm} {found}, expected "
                    f"{weights.digest}; it was not kept."
                )
            with partial.open("rb") as file:
                # What has its name is never checked again, so a crash must not leave the name alone.
                os.fsync(file.fileno())
            partial.replace(place)
    return place


@contextmanager
def _alone_at(partial: Path, place: Path) -> Iterator[bool]:
    """Holds the partial file while it is written; others wait, and find that `place` is there."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(partial)
    except OSError as error:
        raise UsageError(f"{partial.parent} cannot hold files: {error.strerror}.") from error
    with file:
        try:
            yield place.is_file()
        finally:
            # What is left of a lock, or of a download that never began, is no download.
            if _is_at(partial, file) and not partial.stat().st_size:
                partial.unlink()


def _locked(partial: Path) -> BinaryIO:
    while True:
        file = partial.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        # Who held it before has renamed or removed it: then this is the lock of nothing.
        if _is_at(partial, file):
            return file
        file.close()


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _download(url: str, partial: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    begun = partial.stat().st_size if partial.exists() else 0
    total = None
    headers = {"Range": f"bytes={begun}-"} if begun else {}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - a URL of our table, or the user's
    except ValueError as error:
        raise UsageError(f"{url!r} is no URL of a file: https://host/file would be one.") from error
    console = Console(file=sys.stderr)
    try:
        with (
            urllib.request.urlopen(request, timeout=60) as answer,  # noqa: S310 - as above
            Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console) as bar,
        ):
            if getattr(answer, "status", None) != 206:
                begun = 0  # the place does not resume: begin again
            length = answer.headers.get("Content-Length")
            total = begun + int(length) if length else None
            task = bar.add_task("", total=total, completed=begun)
            with partial.open("ab" if begun else "wb") as file:
                while piece := answer.read(PIECE):
                    file.write(piece)
                    bar.advance(task, len(piece))
    except http.client.IncompleteRead as error:
        raise DataError(
            f"{url} broke off after {partial.stat().st_size:,} bytes; asking again goes on from "
            "there."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if begun and getattr(error, "code", None) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all of it was here; its hash says whether it is right
        raise DataError(
            f"{url} cannot be reached: {getattr(error, 'reason', error)}. With the file at hand, "
            "pass its path to zoo.weights.load or `convzoo publish --weights`."
        ) from error
    if total is not None and partial.stat().st_size < total:
        raise DataError(
            f"{url} broke off after {partial.stat().st_size:,} of {total:,} bytes; asking again "
            "goes on from there."
        )


def digest(path: Path, algorithm: str) -> str:
    """A file's hash, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
