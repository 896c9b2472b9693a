"""A server in memory: the client's checks, formats, retries and errors are the real ones."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from serving.client.async_client import AsyncClient
from serving.client.client import Client
from serving.client.core import Send
from serving.client.dialects.oip_rest import LENGTH
from serving.client.errors import (
    AuthenticationError,
    ClientError,
    DeadlineError,
    InvalidInputError,
    ModelNotFoundError,
    NotReadyError,
    OverloadedError,
    PermissionDeniedError,
    TransportError,
    UnsupportedError,
)
from serving.client.exchange import REQUEST_ID_HEADER, Reply, Request
from serving.messages import (
    DEFAULT_SIGNATURE,
    ClassifyImagesReply,
    LabelScore,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    Signature,
    Target,
    TensorSpec,
    VersionState,
    VersionStatus,
)
from serving.wire import native_json, oip_json, tfs_json

Array: TypeAlias = NDArray[Any]
Predict: TypeAlias = Callable[..., Array | Mapping[str, Array]]
"""Takes the inputs by name and returns the outputs by name, or the only one."""
Classify: TypeAlias = Callable[[bytes], Mapping[str, float]]
"""Takes the bytes of an image file and returns a probability for each label."""
Specs: TypeAlias = Mapping[str, tuple[str, Sequence[int | None]]]
"""dtype and shape by name, e.g. {"image": ("float32", (None, 28, 28, 1))}."""

_Answer: TypeAlias = tuple[dict[str, str], bytes]
_Write: TypeAlias = Callable[[], _Answer]
_Read: TypeAlias = tuple[dict[str, Any], _Write]

# What a server answers for each class of error; the subclasses stand first.
STATUSES: tuple[tuple[type[ClientError], int], ...] = (
    (PermissionDeniedError, 403),
    (AuthenticationError, 401),
    (InvalidInputError, 400),
    (ModelNotFoundError, 404),
    (OverloadedError, 429),
    (NotReadyError, 503),
    (DeadlineError, 504),
    (UnsupportedError, 501),
)
_PATH = re.compile(
    r"/(?P<root>v1|v2|api)/models/(?P<model>[^/:]+)"
    r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?(?P<verb>[/:]\w+)?"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reached the server.

    Attributes:
        operation: "predict", "classify", "metadata", "status", "models" or "ready".
        model: The model that was asked for, or "".
        version: Its version, as far as one was named.
        label: Its version label.
        inputs: What predict sent.
        images: What classify sent.
        top_k: What classify asked for.
        headers: What came with it.
    """

    operation: str
    model: str = ""
    version: int | None = None
    label: str | None = None
    inputs: Mapping[str, Array] = field(default_factory=dict)
    images: tuple[bytes, ...] = ()
    top_k: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Model:
    predict: Predict | None
    classify: Classify | None
    metadata: ModelMetadata
    version_label: str


class FakeServer:
    """Models that are functions, asked by real clients without a network.

    Attributes:
        calls: What reached the server, in order.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._models: dict[str, dict[int, _Model]] = {}
        self._failures: list[ClientError] = []

    def client(self, **options: Any) -> Client:
        """A `Client` of this server; the options are those of `Client`."""
        return Client("http://fake", protocol="native", transport=_Threads(self), **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """An `AsyncClient` of this server; the options are those of `AsyncClient`."""
        return AsyncClient("http://fake", protocol="native", transport=_Tasks(self), **options)

    def add(
        self,
        model: str,
        predict: Predict | None = None,
        *,
        classify: Classify | None = None,
        inputs: Specs | None = None,
        outputs: Specs | None = None,
        labels: Sequence[str] = (),
        version: int = 1,
        version_label: str = "",
    ) -> None:
        """Adds a version of a model.

        Args:
            model: Its name.
            predict: Takes the inputs by name; returns the outputs by name, or the only one.
            classify: Takes an image's bytes; returns a probability for each label.
            inputs: dtype and shape by name; the client holds what it sends against them.
            outputs: The same for outputs.
            labels: The model's labels in order of class_id; those of `classify` when empty.
            version: Its number; the highest answers when none is asked for.
            version_label: A label that stands for it, e.g. "stable".
        """
        signature = Signature(DEFAULT_SIGNATURE, _specs(inputs or {}), _specs(outputs or {}))
        metadata = ModelMetadata(model, version, {DEFAULT_SIGNATURE: signature}, tuple(labels))
        self._models.setdefault(model, {})[version] = _Model(
            predict, classify, metadata, version_label
        )

    def fail(self, error: ClientError, times: int = 1) -> None:
        """Makes the next calls fail, so that retries and error handling can be tested.

        Args:
            error: `TransportError` breaks the connection; others are what the server answers.
            times: How many calls.
        """
        self._failures += [error] * times

    # --- Answering

    def answer(self, step: Send) -> Reply:
        """Answers one request."""
        request_id = dict(step.headers).get(REQUEST_ID_HEADER, "")
        call, write = self._read(step.request, dict(step.headers))
        self.calls.append(call)
        echo = {REQUEST_ID_HEADER: request_id}
        try:
            if self._failures:
                raise self._failures.pop(0)
            headers, body = write()
        except TransportError:
            raise
        except ClientError as error:
            return _refusal(error, echo)
        return Reply(200, body, headers | echo)

    def _read(self, request: Request, headers: Mapping[str, str]) -> tuple[Call, _Write]:
        """Returns the call, and what makes its answer."""
        path = urlsplit(request.path).path
        match = _PATH.fullmatch(path)
        if match is None:
            operation, body = "ready", b"ready"
            if path == "/api/models":
                operation, body = "models", native_json.encode_models(tuple(self._models))
            return Call(operation, headers=headers), lambda: ({}, body)
        target = Target(
            unquote(match["model"]),
            int(match["version"]) if match["version"] else None,
            unquote(match["label"]) if match["label"] else None,
        )
        call = Call("", target.model, target.version, target.label, headers=headers)
        read = {
            "/infer": self._read_raw,
            ":predict": self._read_json,
            "/classify": self._read_images,
            "/metadata": self._read_metadata,
        }.get(match["verb"], self._read_status)
        changes, write = read(request, target)
        return replace(call, **changes), write

    def _read_raw(self, request: Request, target: Target) -> _Read:
        length = dict(request.headers)[LENGTH]
        asked = oip_json.decode_infer_request(b"".join(request.body), length, target, _NO_SIGNATURE)

        def write() -> _Answer:
            body, split = oip_json.encode_infer_reply(asked, self._predict(asked.call), ())
            return {} if split is None else {LENGTH: str(split)}, body

        return {"operation": "predict", "inputs": asked.call.inputs}, write

    def _read_json(self, request: Request, target: Target) -> _Read:
        signatures = self._find(target).metadata.signatures
        asked, is_row = tfs_json.decode_predict_request(b"".join(request.body), target, signatures)

        def write() -> _Answer:
            return {}, tfs_json.encode_predict_reply(self._predict(asked), is_row=is_row)

        return {"operation": "predict", "inputs": asked.inputs}, write

    def _read_images(self, request: Request, target: Target) -> _Read:
        kind = dict(request.headers)["content-type"]
        images = native_json.decode_images(b"".join(request.body), kind)
        top_k = int(parse_qs(urlsplit(request.path).query)["top_k"][0])
        return {"operation": "classify", "images": images, "top_k": top_k}, lambda: (
            {},
            native_json.encode_reply(self._classify(target, images, top_k)),
        )

    def _read_metadata(self, _: Request, target: Target) -> _Read:
        return {"operation": "metadata"}, lambda: (
            {},
            tfs_json.encode_metadata_reply(self._find(target).metadata),
        )

    def _read_status(self, _: Request, target: Target) -> _Read:
        return {"operation": "status"}, lambda: (
            {},
            tfs_json.encode_status_reply(self._status(target)),
        )

    def _find(self, target: Target) -> _Model:
        versions = self._models.get(target.model)
        if not versions:
            known = tuple(self._models)
            raise ModelNotFoundError(
                f"No model {target.model!r}; this server has {', '.join(known) or 'none'}."
            )
        if target.label is not None:
            named = [each for each in versions.values() if each.version_label == target.label]
            if named:
                return named[-1]
        elif (found := versions.get(target.version or max(versions))) is not None:
            return found
        asked = target.label if target.label is not None else target.version
        raise ModelNotFoundError(
            f"Model {target.model!r} has no version {asked!r}; it has "
            f"{', '.join(map(str, versions))}."
        )

    def _status(self, target: Target) -> ModelStatus:
        self._find(target)
        numbers = sorted(self._models[target.model], reverse=True)
        return ModelStatus(
            target.model, tuple(VersionStatus(each, VersionState.AVAILABLE) for each in numbers)
        )

    def _predict(self, call: PredictCall) -> PredictReply:
        model = self._find(call.target)
        if model.predict is None:
            raise UnsupportedError(f"Model {call.target.model!r} was added without predict.")
        answered = model.predict(**call.inputs)
        if not isinstance(answered, Mapping):
            name = next(iter(model.metadata.signatures[DEFAULT_SIGNATURE].outputs), "output")
            answered = {name: answered}
        outputs = {name: np.asarray(array) for name, array in answered.items()}
        return PredictReply(model.metadata.model, model.metadata.version, call.signature, outputs)

    def _classify(
        self, target: Target, images: tuple[bytes, ...], top_k: int
    ) -> ClassifyImagesReply:
        model = self._find(target)
        if model.classify is None:
            raise UnsupportedError(f"Model {target.model!r} was added without classify.")
        rows = []
        for image in images:
            scores = model.classify(image)
            order = model.metadata.labels or tuple(scores)
            best = sorted(scores, key=lambda label: -scores[label])[:top_k]
            rows.append(
                tuple(LabelScore(order.index(each), each, float(scores[each])) for each in best)
            )
        return ClassifyImagesReply(model.metadata.model, model.metadata.version, tuple(rows))


class _Threads:
    """The fake server as a transport for threads."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        return self._server.answer(step)

    def close(self) -> None:
        """There is nothing to close."""


class _Tasks:
    """The fake server as a transport for asyncio."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def send(self, step: Send) -> Reply:
        """As `AsyncTransport.send`."""
        return self._server.answer(step)

    async def close(self) -> None:
        """There is nothing to close."""


# Only bodies without JSON need one, which the client never sends.
_NO_SIGNATURE = Signature(DEFAULT_SIGNATURE, {}, {})


def _specs(named: Specs) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, dtype, tuple(shape)) for name, (dtype, shape) in named.items()}


def _refusal(error: ClientError, headers: dict[str, str]) -> Reply:
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers = headers | {"retry-after": f"{retry_after_s:g}"}
    return Reply(status, json.dumps({"error": str(error)}).encode(), headers)
