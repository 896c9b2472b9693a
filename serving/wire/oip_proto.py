"""The Open Inference Protocol's gRPC messages, both directions.

Replies always carry raw tensors, one an output: tritonclient reads nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from google.protobuf.json_format import ParseDict

from serving.errors import InvalidRequestError
from serving.messages import (
    Array,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    Signature,
    Target,
    TensorSpec,
    VersionState,
    VersionStatistics,
)
from serving.wire.oip import (
    AS_RAW,
    DATATYPES,
    DTYPES,
    InferRequest,
    RequestedOutput,
    check_load_parameters,
    check_memory,
    check_shape,
    datatype_of,
    decode_raw,
    encode_raw,
    model_config,
    outputs_of,
    read_parameters,
    sizes_of,
    statistics_of,
    view_raw,
    whole_number,
)
from serving.wire.oip_json import STATES, version_number
from serving.wire.pool import END_GROUP, START_GROUP, fields_of, message, new_message, parse_message
from serving.wire.tensors import check_dimensions, varint

SERVICE = "/inference.GRPCInferenceService"
INFER = f"{SERVICE}/ModelInfer"

_CONTENTS = {
    "bool": "bool_contents",
    **dict.fromkeys(("int8", "int16", "int32"), "int_contents"),
    "int64": "int64_contents",
    **dict.fromkeys(("uint8", "uint16", "uint32"), "uint_contents"),
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "bytes": "bytes_contents",
}


def parse(name: str, body: bytes) -> Any:
    """Reads a message of the package `inference`; raises `InvalidRequestError`."""
    return parse_message(f"inference.{name}", body)


def new(kind: str, /, **fields: Any) -> bytes:
    """A serialised message of the package `inference`."""
    return new_message(f"inference.{kind}", **fields)


def decode_target(name: str, body: bytes) -> Target:
    """Server: the model and version that a request with both names; raises as `target_of`."""
    request = parse(name, body)
    return target_of(request.name, request.version)


def target_of(model: str, version: str) -> Target:
    """A model, and a version that is text in this protocol.

    Raises:
        InvalidRequestError: a version that is no number.
    """
    if not model:
        raise InvalidRequestError("The request names no model.", field="model_name")
    if version and not (version.isascii() and version.isdigit() and len(version) <= 19):
        raise InvalidRequestError(f"{version!r} is no version number.", field="model_version")
    return Target(model, int(version) if version else None)


def decode_infer_request(body: bytes) -> InferRequest:
    """Server: a ModelInferRequest.

    Raises:
        InvalidRequestError: names the input at fault.
        UnsupportedError: a tensor in shared memory.
    """
    request, raw = _parse_apart("ModelInferRequest", body, "raw_input_contents", _RAW_INPUTS)
    for each in (*request.inputs, *request.outputs):
        check_memory(each.name, each.parameters)
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            f"{len(request.inputs)} inputs came with {len(raw)} raw contents."
        )
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        name = tensor.name
        if name in inputs:
            raise InvalidRequestError(f"Input {name!r} comes twice.", field=name)
        check_dimensions(name, len(tensor.shape))
        shape, dtype = check_shape(name, tensor.datatype, list(tensor.shape))
        if raw:
            if tensor.HasField("contents"):
                raise InvalidRequestError(
                    f"Input {name!r} has contents beside raw contents.", field=name
                )
            inputs[name] = decode_raw(raw[index], name, shape, dtype)
        else:
            inputs[name] = _typed(tensor, shape, dtype)
    parameters = read_parameters(_values(request.parameters))
    outputs = {
        each.name: RequestedOutput(
            is_binary=True, classification=whole_number(_values(each.parameters), "classification")
        )
        for each in request.outputs
    }
    request_id = request.id
    call = PredictCall(
        target_of(request.model_name, request.model_version),
        inputs,
        parameters.signature,
        tuple(outputs),
        request_id=request_id,
        priority=parameters.priority,
    )
    return InferRequest(call, request_id, outputs, AS_RAW, parameters.timeout_s)


def _values(parameters: Any) -> dict[str, Any]:
    if not parameters:
        return {}
    choices = {name: each.WhichOneof("parameter_choice") for name, each in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in choices.items() if choice}


def _typed(tensor: Any, shape: tuple[int, ...], dtype: str) -> Array:
    if dtype not in _CONTENTS:
        raise InvalidRequestError(
            f"{tensor.datatype} comes as raw contents only (input {tensor.name!r}).",
            field=tensor.name,
        )
    values = getattr(tensor.contents, _CONTENTS[dtype])
    if len(values) != math.prod(shape):
        raise InvalidRequestError(
            f"unable to find data for input tensor {tensor.name!r}: shape {list(shape)} has "
            f"{math.prod(shape)} values, {len(values)} came.",
            field=tensor.name,
        )
    if dtype == "bytes":
        strings = np.empty(len(values), dtype=np.object_)
        strings[:] = list(values)
        return strings.reshape(shape)
    return (
        np.array(values, dtype=np.int64 if dtype.startswith("int") else None)
        .astype(dtype)
        .reshape(shape)
    )


def encode_infer_reply(
    request: InferRequest, reply: PredictReply, labels: tuple[str, ...]
) -> bytes:
    """Server: a ModelInferResponse."""
    response = message("inference.ModelInferResponse")()
    response.model_name = reply.model
    response.model_version = str(reply.version)
    response.id = request.id
    for name, array in outputs_of(request, reply, labels).items():
        tensor = response.outputs.add()
        tensor.name = name
        tensor.datatype = datatype_of(array)
        tensor.shape.extend(array.shape)
        response.raw_output_contents.append(encode_raw(array))
    body: bytes = response.SerializeToString()
    return body


def encode_stream_reply(response: bytes) -> bytes:
    """Server: a ModelStreamInferResponse around a ModelInferResponse that is written already.

    It says that it is its request's last one: tritonclient's users wait for that word.
    """
    # Field 2, length-delimited: what lies inside need not be read again. What stands behind it is
    # merged into it.
    last = _last_of_stream()
    return b"".join((b"\x12", varint(len(response) + len(last)), response, last))


def encode_stream_error(text: str, request_id: str) -> bytes:
    """Server: a ModelStreamInferResponse that says what is wrong with one request, its last one."""
    response = new("ModelInferResponse", id=request_id)
    return new("ModelStreamInferResponse", error_message=text) + encode_stream_reply(response)


@cache
def _last_of_stream() -> bytes:
    """The parameter by which Triton marks the last answer to each request of a stream."""
    response = message("inference.ModelInferResponse")()
    response.parameters["triton_final_response"].bool_param = True
    body: bytes = response.SerializeToString()
    return body


def id_of(body: bytes) -> str:
    """The id of a ModelInferRequest, or "" when it is none."""
    try:
        return str(parse("ModelInferRequest", body).id)
    except InvalidRequestError:
        return ""


def encode_metadata(metadata: ModelMetadata, signature: Signature) -> bytes:
    """Server: a ModelMetadataResponse."""
    response = message("inference.ModelMetadataResponse")()
    response.name = metadata.model
    response.versions.extend(str(version) for version in metadata.versions)
    response.platform = metadata.platform
    for specs, tensors in (
        (signature.inputs, response.inputs),
        (signature.outputs, response.outputs),
    ):
        for spec in specs.values():
            _encode_spec(spec, tensors.add())
    body: bytes = response.SerializeToString()
    return body


def _encode_spec(spec: TensorSpec, tensor: Any) -> None:
    tensor.name = spec.name
    tensor.datatype = DATATYPES[spec.dtype]
    tensor.shape.extend(sizes_of(spec))


def encode_config(metadata: ModelMetadata, signature: Signature) -> bytes:
    """Server: a ModelConfigResponse."""
    response = message("inference.ModelConfigResponse")()
    ParseDict(model_config(metadata, signature), response.config)
    body: bytes = response.SerializeToString()
    return body


def encode_index(statuses: tuple[ModelStatus, ...], *, only_ready: bool) -> bytes:
    """Server: a RepositoryIndexResponse."""
    response = message("inference.RepositoryIndexResponse")()
    for status in statuses:
        for each in status.versions:
            if only_ready and each.state is not VersionState.AVAILABLE:
                continue
            entry = response.models.add()
            entry.name, entry.version = status.model, str(each.version)
            entry.state, entry.reason = STATES[each.state], each.error_message
    body: bytes = response.SerializeToString()
    return body


def encode_statistics(versions: tuple[VersionStatistics, ...]) -> bytes:
    """Server: a ModelStatisticsResponse."""
    response = message("inference.ModelStatisticsResponse")()
    ParseDict(statistics_of(versions), response)
    body: bytes = response.SerializeToString()
    return body


def decode_load_request(name: str, body: bytes) -> str:
    """Server: the model that a RepositoryModelLoadRequest or its opposite means.

    Triton has the name in the second field; KServe in the first, where Triton has a repository's.

    Raises:
        InvalidRequestError: there is no name.
        UnsupportedError: it brings a configuration or files.
    """
    request = parse(name, body)
    check_load_parameters(request.parameters)
    return target_of(request.model_name or request.repository_name, "").model


def encode_infer_request(call: PredictCall) -> bytes:
    """Client: a ModelInferRequest with raw contents, each tensor copied once."""
    pieces: list[bytes | memoryview] = [infer_request_head(call), id_field(call.request_id)]
    for array in call.inputs.values():
        data = view_raw(array)
        pieces += (raw_field(len(data)), data)
    # Fields of a message may stand in any order, so the tensors are written behind the rest:
    # protobuf itself would copy each three times.
    return b"".join(pieces)


def infer_request_head(call: PredictCall) -> bytes:
    """Client: a ModelInferRequest without its id and its tensors' contents."""
    request = message("inference.ModelInferRequest")()
    request.model_name = call.target.model
    if call.target.version is not None:
        request.model_version = str(call.target.version)
    if call.signature:
        request.parameters["signature_name"].string_param = call.signature
    for name, array in call.inputs.items():
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = name, datatype_of(array)
        tensor.shape.extend(array.shape)
    for name in call.outputs:
        request.outputs.add().name = name
    head: bytes = request.SerializeToString()
    return head


def id_field(request_id: str) -> bytes:
    """Client: the field `id` of a ModelInferRequest; nothing for an empty one."""
    text = request_id.encode()
    return b"".join((_ID, varint(len(text)), text)) if text else b""


def raw_field(size: int) -> bytes:
    """Client: what stands before so many bytes in the field `raw_input_contents`."""
    return bytes([_RAW_INPUTS]) + varint(size)


_ID = bytes([3 << 3 | 2])  # the tag of the field id (3), length-delimited (2)


def decode_infer_reply(body: bytes) -> PredictReply:
    """Client: a ModelInferResponse; large raw contents are not copied."""
    reply, raw = _parse_apart("ModelInferResponse", body, "raw_output_contents", _RAW_OUTPUTS)
    if raw and len(raw) != len(reply.outputs):
        raise InvalidRequestError(f"{len(reply.outputs)} outputs came with {len(raw)} contents.")
    outputs = {}
    for index, tensor in enumerate(reply.outputs):
        shape, dtype = tuple(tensor.shape), DTYPES[tensor.datatype]
        outputs[tensor.name] = (
            decode_raw(raw[index], tensor.name, shape, dtype)
            if raw
            else _typed(tensor, shape, dtype)
        )
    return PredictReply(
        model=reply.model_name,
        version=version_number(reply.model_version),
        signature="",
        outputs=outputs,
        request_id=reply.id,
    )


class InferReplyReader:
    """Client: reads the answers to one question asked again and again.

    They differ in their id and their numbers only, and what is the same need not be read anew.
    """

    def __init__(self) -> None:
        self._seen: _Seen | None = None

    def again(self, body: bytes) -> PredictReply | None:
        """The answer, when it is like the last one that was read; None when it is not."""
        seen = self._seen
        if seen is None or len(body) != seen.length or not seen.is_like(body):
            return None
        array = np.frombuffer(body, seen.dtype, seen.count, seen.raw_at).reshape(seen.shape)
        return PredictReply(
            seen.model,
            seen.version,
            "",
            {seen.name: array},
            request_id=body[seen.id_at : seen.rest_at].decode(),
        )

    def read(self, body: bytes) -> PredictReply:
        """As `decode_infer_reply`."""
        reply = decode_infer_reply(body)
        self._seen = _seen(body, reply)
        return reply


@dataclass(frozen=True, slots=True)
class _Seen:
    """The layout of an answer with one output: where its id and its numbers stand."""

    length: int
    head: bytes
    id_at: int
    rest_at: int
    rest: bytes
    raw_at: int
    model: str
    version: int
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int

    def is_like(self, body: bytes) -> bool:
        return body.startswith(self.head) and body.startswith(self.rest, self.rest_at)


def _seen(body: bytes, reply: PredictReply) -> _Seen | None:
    if len(reply.outputs) != 1:
        return None
    ((name, array),) = reply.outputs.items()
    raw_at = len(body) - array.nbytes
    if array.dtype.hasobject or not array.size or body[raw_at:] != array.tobytes():
        return None
    text = reply.request_id.encode()
    id_at = body.index(text)
    if text and body.count(text, 0, raw_at) != 1:
        return None
    rest_at = id_at + len(text)
    return _Seen(
        length=len(body),
        head=body[:id_at],
        id_at=id_at,
        rest_at=rest_at,
        rest=body[rest_at:raw_at],
        raw_at=raw_at,
        model=reply.model,
        version=reply.version,
        name=name,
        dtype=array.dtype,
        shape=array.shape,
        count=array.size,
    )


# protobuf copies contents twice, which for a small message costs less than to go around it.
WORTH_TAKING_APART = 64 << 10

# Tags of the fields raw_input_contents (7) and raw_output_contents (6), length-delimited (2).
_RAW_INPUTS, _RAW_OUTPUTS = 7 << 3 | 2, 6 << 3 | 2


def _parse_apart(
    name: str, body: bytes, field: str, tag: int
) -> tuple[Any, Sequence[bytes | memoryview]]:
    """Reads a message, and its raw contents without a copy where they are large.

    Raises:
        InvalidRequestError: the bytes are no such message.
    """
    if len(body) < WORTH_TAKING_APART:
        found = parse(name, body)
        return found, list(getattr(found, field))
    head, raw = _without_raw(name, body, tag)
    return parse(name, head), raw


def _without_raw(name: str, body: bytes, raw_tag: int) -> tuple[bytes, list[memoryview]]:
    """Takes a message apart: without its raw contents, and those.

    Raises:
        InvalidRequestError: a field that goes beyond the message, or is of no message at all.
        LimitExceededError: more fields than any number of tensors explains.
    """
    whole, raw, kept = memoryview(body), [], []
    for tag, begin, place, end in fields_of(name, body):
        if tag & 7 in (START_GROUP, END_GROUP):
            raise InvalidRequestError(f"These {len(body)} bytes are no {name}.")
        if tag == raw_tag:
            raw.append(whole[place:end])
        else:
            kept.append(whole[begin:end])
    return b"".join(kept), raw
