"""The Open Inference Protocol's gRPC messages, both directions.

Replies always carry raw tensors, one an output: tritonclient reads nothing else.
"""

import math
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
    DATATYPES,
    DTYPES,
    InferRequest,
    RequestedOutput,
    check_load_parameters,
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
from serving.wire.pool import message, new_message, parse_message

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
    """
    request = parse("ModelInferRequest", body)
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            f"{len(request.inputs)} inputs came with {len(raw)} raw contents."
        )
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        shape, dtype = check_shape(tensor.name, tensor.datatype, list(tensor.shape))
        if raw:
            if tensor.HasField("contents"):
                raise InvalidRequestError(
                    f"Input {tensor.name!r} has contents beside raw contents.", field=tensor.name
                )
            inputs[tensor.name] = decode_raw(raw[index], tensor.name, shape, dtype)
        else:
            inputs[tensor.name] = _typed(tensor, shape, dtype)
    parameters = read_parameters(_values(request.parameters))
    outputs = {
        each.name: RequestedOutput(
            is_binary=True, classification=whole_number(_values(each.parameters), "classification")
        )
        for each in request.outputs
    }
    return InferRequest(
        call=PredictCall(
            target=target_of(request.model_name, request.model_version),
            inputs=inputs,
            signature=parameters.signature,
            outputs=tuple(outputs),
            request_id=request.id,
            priority=parameters.priority,
        ),
        id=request.id,
        outputs=outputs,
        default=RequestedOutput(is_binary=True),
        timeout_s=parameters.timeout_s,
    )


def _values(parameters: Any) -> dict[str, Any]:
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
    request = message("inference.ModelInferRequest")()
    request.model_name = call.target.model
    if call.target.version is not None:
        request.model_version = str(call.target.version)
    request.id = call.request_id
    if call.signature:
        request.parameters["signature_name"].string_param = call.signature
    for name, array in call.inputs.items():
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = name, datatype_of(array)
        tensor.shape.extend(array.shape)
    for name in call.outputs:
        request.outputs.add().name = name
    pieces: list[bytes | memoryview] = [request.SerializeToString()]
    # Fields of a message may stand in any order, so the tensors are written behind the rest:
    # protobuf itself would copy each three times.
    for array in call.inputs.values():
        data = view_raw(array)
        pieces += (_RAW_INPUT_CONTENTS, _varint(len(data)), data)
    return b"".join(pieces)


# Tag of the field raw_input_contents (7), length-delimited (2).
_RAW_INPUT_CONTENTS = bytes([7 << 3 | 2])


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def decode_infer_reply(body: bytes) -> PredictReply:
    """Client: a ModelInferResponse."""
    response = parse("ModelInferResponse", body)
    raw = list(response.raw_output_contents)
    outputs = {}
    for index, tensor in enumerate(response.outputs):
        shape, dtype = tuple(tensor.shape), DTYPES[tensor.datatype]
        outputs[tensor.name] = (
            decode_raw(raw[index], tensor.name, shape, dtype)
            if raw
            else _typed(tensor, shape, dtype)
        )
    return PredictReply(
        model=response.model_name,
        version=version_number(response.model_version),
        signature="",
        outputs=outputs,
        request_id=response.id,
    )
