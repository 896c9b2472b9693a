"""TensorFlow Serving's gRPC messages, both directions: the server's side and the client's.

Requests carry tensors as content, as TensorFlow's own clients send them; replies carry typed
fields, as TensorFlow Serving answers.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message

from serving.errors import InvalidRequestError
from serving.limits import LIMITS, Limits
from serving.messages import (
    DEFAULT_SIGNATURE,
    Array,
    ClassifyImagesCall,
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
from serving.wire.codes import CODE_NAMES, CODE_NUMBERS
from serving.wire.pool import fields_of, message, parse_message
from serving.wire.tensors import DTYPE_NAMES, DTYPE_NUMBERS, decode_tensor, encode_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

# Images in, labels out, spoken through Predict: a signature that every version with labels has.
CLASSIFY_IMAGES = "classify_images"

# Below, a message of small fields is read before it is noticed.
WORTH_COUNTING = 64 << 10

_STATES = {"START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}
_STATE_NAMES = {number: name for name, number in _STATES.items()}


def parse(name: str, body: bytes) -> Any:
    """Reads a message of the package `tensorflow.serving`; raises `InvalidRequestError`."""
    return parse_message(f"tensorflow.serving.{name}", body)


def _new(name: str) -> Any:
    return message(f"tensorflow.serving.{name}")()


def _bytes(proto: Message) -> bytes:
    return proto.SerializeToString()


# --- Which model --------------------------------------------------------------------------------


def decode_target(request: Any) -> Target:
    """Which servable a request's `model_spec` means.

    Raises:
        InvalidRequestError: there is none, or it names no model.
    """
    if not request.HasField("model_spec"):
        raise InvalidRequestError("Missing ModelSpec", field="model_spec")
    spec = request.model_spec
    if not spec.name:
        raise InvalidRequestError("ModelSpec has no name specified.", field="model_spec.name")
    choice = spec.WhichOneof("version_choice")
    return Target(
        model=spec.name,
        version=spec.version.value if choice == "version" else None,
        label=spec.version_label if choice == "version_label" else None,
    )


def encode_target(target: Target, spec: Any) -> None:
    """Fills a `model_spec`."""
    spec.name = target.model
    if target.version is not None:
        spec.version.value = target.version
    elif target.label is not None:
        spec.version_label = target.label


def encode_spec(reply: PredictReply, spec: Any) -> None:
    """Fills the `model_spec` of an answer: the version and signature that gave it."""
    spec.name = reply.model
    spec.version.value = reply.version
    spec.signature_name = reply.signature


# --- Predict ------------------------------------------------------------------------------------


def decode_predict_request(body: bytes, limits: Limits = LIMITS) -> PredictCall:
    """Server: a PredictRequest, whose tensors are held against the limits."""
    if len(body) > WORTH_COUNTING:
        # Millions of inputs and filters of two bytes each would take gigabytes.
        deque(fields_of("PredictRequest", body), maxlen=0)
    request = parse("PredictRequest", body)
    return PredictCall(
        target=decode_target(request),
        signature=request.model_spec.signature_name,
        inputs={name: decode_tensor(request.inputs[name], name, limits) for name in request.inputs},
        outputs=tuple(request.output_filter),
    )


def encode_predict_request(call: PredictCall) -> bytes:
    """Client: a PredictRequest."""
    request = _new("PredictRequest")
    encode_target(call.target, request.model_spec)
    request.model_spec.signature_name = call.signature
    for name, array in call.inputs.items():
        encode_tensor(array, request.inputs[name], as_content=True)
    request.output_filter.extend(call.outputs)
    return _bytes(request)


def encode_predict_reply(reply: PredictReply, *, as_content: bool = False) -> bytes:
    """Server: a PredictResponse."""
    response = _new("PredictResponse")
    for name, array in reply.outputs.items():
        encode_tensor(array, response.outputs[name], as_content=as_content)
    encode_spec(reply, response.model_spec)
    return _bytes(response)


def decode_predict_reply(body: bytes, limits: Limits = LIMITS) -> PredictReply:
    """Client: a PredictResponse, whose tensors are held against the limits."""
    response = parse("PredictResponse", body)
    return PredictReply(
        model=response.model_spec.name,
        version=response.model_spec.version.value,
        signature=response.model_spec.signature_name or DEFAULT_SIGNATURE,
        outputs={
            name: decode_tensor(response.outputs[name], name, limits) for name in response.outputs
        },
    )


# --- Images, through Predict --------------------------------------------------------------------


def as_classify_call(call: PredictCall) -> ClassifyImagesCall:
    """Server: reads a Predict of the signature `classify_images`.

    Raises:
        InvalidRequestError: its inputs are not `image_bytes` [N] and, if at all, `top_k`.
    """
    extra = sorted(set(call.inputs) - {"image_bytes", "top_k"})
    if "image_bytes" not in call.inputs or extra:
        raise InvalidRequestError(
            f"{CLASSIFY_IMAGES} takes image_bytes (strings [N]) and top_k (an integer); "
            f"found {', '.join(sorted(call.inputs)) or 'no input'}.",
            field=extra[0] if extra else "image_bytes",
        )
    images = call.inputs["image_bytes"]
    if images.dtype != np.object_ or images.ndim > 1:
        raise InvalidRequestError(
            f"image_bytes is a vector of strings; found {images.dtype} {list(images.shape)}.",
            field="image_bytes",
        )
    top_k = call.inputs.get("top_k", np.int32(5))
    if np.size(top_k) != 1 or np.asarray(top_k).dtype.kind not in "iu":
        raise InvalidRequestError("top_k is one integer.", field="top_k")
    return ClassifyImagesCall(
        target=call.target,
        images=tuple(images.ravel()),
        top_k=int(np.asarray(top_k).ravel()[0]),
        deadline=call.deadline,
        request_id=call.request_id,
        priority=call.priority,
    )


def encode_classify_request(call: ClassifyImagesCall) -> bytes:
    """Client: a PredictRequest of the signature `classify_images`."""
    images = np.empty(len(call.images), dtype=np.object_)
    images[:] = call.images
    # The most that an int32 holds: as good as any larger number, since no model has more labels.
    top_k = min(call.top_k, np.iinfo(np.int32).max)
    return encode_predict_request(
        PredictCall(
            target=call.target,
            signature=CLASSIFY_IMAGES,
            inputs={"image_bytes": images, "top_k": np.asarray(top_k, dtype=np.int32)},
        )
    )


def encode_classify_reply(reply: ClassifyImagesReply) -> bytes:
    """Server: a PredictResponse with labels, class_ids and probabilities, each [N, k]."""
    labels = [[score.label.encode() for score in row] for row in reply.results]
    shape = (len(labels), len(labels[0]) if labels else 0)
    outputs: dict[str, Array] = {
        "labels": np.array(labels, dtype=np.object_).reshape(shape),
        "class_ids": np.array(
            [[score.class_id for score in row] for row in reply.results], dtype=np.int64
        ).reshape(shape),
        "probabilities": np.array(
            [[score.probability for score in row] for row in reply.results], dtype=np.float32
        ).reshape(shape),
    }
    return encode_predict_reply(PredictReply(reply.model, reply.version, CLASSIFY_IMAGES, outputs))


def decode_classify_reply(body: bytes) -> ClassifyImagesReply:
    """Client: labels, class_ids and probabilities as results, best first."""
    reply = decode_predict_reply(body)
    outputs = reply.outputs
    missing = {"labels", "class_ids", "probabilities"} - set(outputs)
    if missing:
        raise InvalidRequestError(f"The answer lacks {', '.join(sorted(missing))}.")
    rows = zip(outputs["labels"], outputs["class_ids"], outputs["probabilities"], strict=True)
    results = tuple(
        tuple(
            LabelScore(int(class_id), label.decode(), float(probability))
            for label, class_id, probability in zip(*row, strict=True)
        )
        for row in rows
    )
    return ClassifyImagesReply(reply.model, reply.version, results)


# --- Metadata -----------------------------------------------------------------------------------


def decode_metadata_request(body: bytes) -> Target:
    """Server: a GetModelMetadataRequest.

    Raises:
        InvalidRequestError: it asks for anything but `signature_def`.
    """
    request = parse("GetModelMetadataRequest", body)
    target = decode_target(request)
    if not request.metadata_field:
        raise InvalidRequestError(
            "GetModelMetadataRequest must specify at least one metadata_field",
            field="metadata_field",
        )
    for field in request.metadata_field:
        if field != "signature_def":
            raise InvalidRequestError(
                f"Metadata field {field} is not supported; signature_def is.",
                field="metadata_field",
            )
    return target


def encode_metadata_request(target: Target) -> bytes:
    """Client: a GetModelMetadataRequest."""
    request = _new("GetModelMetadataRequest")
    encode_target(target, request.model_spec)
    request.metadata_field.append("signature_def")
    return _bytes(request)


def encode_metadata_reply(metadata: ModelMetadata) -> bytes:
    """Server: a GetModelMetadataResponse."""
    response = _new("GetModelMetadataResponse")
    response.model_spec.name = metadata.model
    response.model_spec.version.value = metadata.version
    signatures = _new("SignatureDefMap")
    for name, signature in metadata.signatures.items():
        definition = signatures.signature_def[name]
        definition.method_name = signature.method_name
        _encode_specs(signature.inputs, definition.inputs)
        _encode_specs(signature.outputs, definition.outputs)
        for key, array in signature.defaults.items():
            encode_tensor(array, definition.defaults[key], as_content=False)
    response.metadata["signature_def"].Pack(signatures)
    return _bytes(response)


def _encode_specs(specs: Mapping[str, TensorSpec], infos: Any) -> None:
    for name, spec in specs.items():
        info = infos[name]
        info.name = spec.tensor_name
        info.dtype = DTYPE_NUMBERS[spec.dtype]
        info.tensor_shape.SetInParent()
        if spec.shape is None:
            info.tensor_shape.unknown_rank = True
        else:
            for size in spec.shape:
                info.tensor_shape.dim.add().size = -1 if size is None else size


def decode_metadata_reply(body: bytes) -> ModelMetadata:
    """Client: a GetModelMetadataResponse."""
    response = parse("GetModelMetadataResponse", body)
    signatures = _new("SignatureDefMap")
    if not response.metadata["signature_def"].Unpack(signatures):
        raise InvalidRequestError("The answer has no signature_def.")
    return ModelMetadata(
        model=response.model_spec.name,
        version=response.model_spec.version.value,
        signatures={
            name: Signature(
                name=name,
                inputs=_decode_specs(definition.inputs),
                outputs=_decode_specs(definition.outputs),
                method_name=definition.method_name,
                defaults={
                    key: decode_tensor(tensor, key)
                    for key, tensor in sorted(definition.defaults.items())
                    if tensor.dtype in DTYPE_NAMES
                },
            )
            for name, definition in signatures.signature_def.items()
        },
    )


def _decode_specs(infos: Any) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            name=name,
            dtype=DTYPE_NAMES.get(info.dtype, "unknown"),
            shape=None
            if info.tensor_shape.unknown_rank
            else tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim),
            tensor_name=info.name,
        )
        for name, info in sorted(infos.items())
    }


# --- Status -------------------------------------------------------------------------------------


def decode_status_request(body: bytes) -> Target:
    """Server: a GetModelStatusRequest."""
    return decode_target(parse("GetModelStatusRequest", body))


def encode_status_request(target: Target) -> bytes:
    """Client: a GetModelStatusRequest."""
    request = _new("GetModelStatusRequest")
    encode_target(target, request.model_spec)
    return _bytes(request)


def encode_status_reply(status: ModelStatus) -> bytes:
    """Server: a GetModelStatusResponse, newest version first."""
    response = _new("GetModelStatusResponse")
    for version in status.versions:
        entry = response.model_version_status.add()
        entry.version = version.version
        entry.state = _STATES[version.state]
        entry.status.SetInParent()
        entry.status.error_code = CODE_NUMBERS[version.error_code]
        entry.status.error_message = version.error_message
    return _bytes(response)


def decode_status_reply(body: bytes, model: str) -> ModelStatus:
    """Client: a GetModelStatusResponse."""
    response = parse("GetModelStatusResponse", body)
    return ModelStatus(
        model=model,
        versions=tuple(
            VersionStatus(
                version=entry.version,
                state=VersionState(_STATE_NAMES.get(entry.state, "START")),
                error_code=CODE_NAMES.get(entry.status.error_code, "UNKNOWN"),
                error_message=entry.status.error_message,
            )
            for entry in response.model_version_status
        ),
    )
