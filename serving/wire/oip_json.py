"""The Open Inference Protocol's REST bodies: JSON, and JSON followed by raw tensors."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from serving.errors import InvalidRequestError, UnsupportedError
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
from serving.wire import numbers
from serving.wire.oip import (
    AS_JSON,
    AS_RAW,
    DATATYPES,
    DTYPES,
    InferRequest,
    Parameters,
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
from serving.wire.tensors import native
from serving.wire.tfs_json import dumps, dumps_with_nan, loads

STATES = {
    VersionState.AVAILABLE: "READY",
    VersionState.LOADING: "LOADING",
    VersionState.START: "LOADING",
    VersionState.UNLOADING: "UNLOADING",
    VersionState.END: "UNAVAILABLE",
}

_LENGTH = re.compile(r"[0-9]{1,19}")
_NEEDS_LENGTH = "Raw tensors need the header Inference-Header-Content-Length: where the JSON ends."

# What JSON gives for a datatype; a bool is an int to Python and to nobody else.
_TAKEN: dict[str, set[type]] = {"bytes": {str}, "bool": {bool}}


# --- Server: infer ------------------------------------------------------------------------------


def decode_infer_request(
    body: bytes, header_length: str | None, target: Target, signature: Signature
) -> InferRequest:
    """Server: the body of an `infer`.

    Args:
        body: JSON, or JSON and raw tensors.
        header_length: The header `Inference-Header-Content-Length`, which says where JSON ends.
        target: What the URL named.
        signature: For a body without JSON, which one input it is.

    Raises:
        InvalidRequestError: names the part at fault.
    """
    split = _split(body, header_length)
    if split == 0 and header_length is not None:
        return _raw_request(body, target, signature)
    raw = memoryview(body)[split:]
    # Who sends raw tensors says the same of them each time.
    is_short = raw.nbytes and split <= _MOST_KEPT_HEAD
    read = _read_head if is_short else _read_head.__wrapped__
    try:
        head = read(body[:split] if raw.nbytes else body)
    except InvalidRequestError as error:
        if header_length is not None or b"binary_data_size" not in body:
            raise
        raise InvalidRequestError(f"{error}. {_NEEDS_LENGTH}", field=error.field) from error
    inputs: dict[str, Array] = {}
    place = 0
    for each in head.inputs:
        if each.size is None:
            array = _from_json(each.data, each.name, each.shape, each.dtype)
        else:
            end = place + each.size
            if end > len(raw):
                raise InvalidRequestError(
                    f"unexpected size for input {each.name!r}: binary_data_size is {each.size}, "
                    f"{len(raw) - place} bytes are left."
                    + (f" {_NEEDS_LENGTH}" if header_length is None else ""),
                    field=each.name,
                )
            array = decode_raw(raw[place:end], each.name, each.shape, each.dtype)
            place = end
        inputs[each.name] = array
    if place != len(raw):
        raise InvalidRequestError(
            f"unexpected additional input data for model {target.model!r}: {len(raw) - place} "
            "bytes are left."
        )
    parameters = head.parameters
    call = PredictCall(
        target,
        inputs,
        parameters.signature,
        tuple(head.outputs),
        request_id=head.id,
        priority=parameters.priority,
    )
    default = AS_RAW if parameters.is_binary else AS_JSON
    return InferRequest(call, head.id, head.outputs, default, parameters.timeout_s)


# What is remembered of a client's heads is bounded: so many, of so many bytes.
_MOST_KEPT_HEADS, _MOST_KEPT_HEAD = 256, 4096


class _Declared(NamedTuple):
    """One input as the JSON says it: with its values, or with the number of its raw bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int | None
    data: Any


class _Head(NamedTuple):
    """The JSON of a request."""

    inputs: tuple[_Declared, ...]
    outputs: Mapping[str, RequestedOutput]
    parameters: Parameters
    id: str


@lru_cache(maxsize=_MOST_KEPT_HEADS)
def _read_head(text: bytes) -> _Head:
    document = numbers.read_tensors(text) or loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise InvalidRequestError("A request is a JSON object with a list 'inputs'.")
    inputs = tuple(map(_declared, document["inputs"]))
    names: set[str] = set()
    for each in inputs:
        if each.name in names:
            raise InvalidRequestError(f"Input {each.name!r} comes twice.", field=each.name)
        names.add(each.name)
    return _Head(
        inputs,
        _requested(document.get("outputs")),
        read_parameters(_parameters(document, "the request")),
        "" if document.get("id") is None else str(document["id"]),
    )


def _split(body: bytes | memoryview, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if not _LENGTH.fullmatch(header_length) or int(header_length) > len(body):
        raise InvalidRequestError(
            f"Inference-Header-Content-Length is {header_length[:20]!r}; the body has {len(body)} "
            "bytes."
        )
    return int(header_length)


def _raw_request(body: bytes, target: Target, signature: Signature) -> InferRequest:
    """A body without JSON: all of it is the only input, a batch of one."""
    if len(signature.inputs) != 1:
        raise InvalidRequestError(
            f"A raw body needs a model with one input; {target.model!r} takes "
            f"{', '.join(signature.inputs)}."
        )
    (spec,) = signature.inputs.values()
    shape = tuple(1 if size is None else size for size in spec.shape or (1,))
    call = PredictCall(target, {spec.name: decode_raw(body, spec.name, shape, spec.dtype)})
    return InferRequest(call, "", {}, AS_RAW)


def _declared(tensor: Any) -> _Declared:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise InvalidRequestError("Each input is an object with a name.", field="inputs")
    name = tensor["name"]
    shape, dtype = check_shape(name, tensor.get("datatype", ""), tensor.get("shape"))
    parameters = _parameters(tensor, name)
    check_memory(name, parameters)
    size = parameters.get("binary_data_size")
    if ("data" in tensor) == (size is not None):
        raise InvalidRequestError(
            f"Input {name!r} needs either 'data' or the parameter binary_data_size.", field=name
        )
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise InvalidRequestError(
            f"unexpected size for input {name!r}: binary_data_size is {size!r}; a whole number "
            "from 0 is expected.",
            field=name,
        )
    return _Declared(name, shape, dtype, size, tensor.get("data"))


def _from_json(data: Any, name: str, shape: tuple[int, ...], dtype: str) -> Array:
    """Nested or flat JSON values as a tensor; the nesting need not match the shape.

    Where all of them are numbers, they may come as a flat array already.
    """
    if dtype in ("float16", "bfloat16"):
        raise UnsupportedError(
            f"receiving {DATATYPES[dtype]} data via JSON is not supported; send input {name!r} raw."
        )
    flat = data if isinstance(data, np.ndarray) else _flatten(data)
    number = math.prod(shape)
    if len(flat) != number:
        raise InvalidRequestError(
            f"Unable to parse 'data' of input {name!r}: shape {list(shape)} has {number} values, "
            f"{len(flat)} came.",
            field=name,
        )
    if isinstance(flat, np.ndarray):
        with np.errstate(over="ignore"):
            return flat.astype(dtype).reshape(shape)
    kinds = _TAKEN.get(dtype, {int, float} if dtype.startswith("float") else {int})
    if not set(map(type, flat)) <= kinds:
        culprit = next(value for value in flat if type(value) not in kinds)
        raise InvalidRequestError(
            f"Input {name!r} of type {DATATYPES[dtype]} has the value {culprit!r:.80}.", field=name
        )
    found = np.empty(number, dtype=np.object_)
    if dtype == "bytes":
        found[:] = [value.encode() for value in flat]
        return found.reshape(shape)
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, dtype=dtype).reshape(shape)
    except OverflowError as error:
        raise InvalidRequestError(
            f"Input {name!r} has a value outside {DATATYPES[dtype]}.", field=name
        ) from error


def _flatten(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    if data and list not in set(map(type, data)):
        return data
    return [value for item in data for value in _flatten(item)]


def _parameters(holder: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidRequestError(f"The parameters of {where} are no object.", field="parameters")
    return parameters


def _requested(outputs: Any) -> dict[str, RequestedOutput]:
    if outputs is None:
        return {}
    if not isinstance(outputs, list):
        raise InvalidRequestError("'outputs' is a list of objects with names.", field="outputs")
    found = {}
    for output in outputs:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise InvalidRequestError("Each output is an object with a name.", field="outputs")
        parameters = _parameters(output, output["name"])
        check_memory(output["name"], parameters)
        found[output["name"]] = RequestedOutput(
            is_binary=parameters.get("binary_data") is True,
            classification=whole_number(parameters, "classification"),
        )
    return found


def encode_infer_reply(
    request: InferRequest, reply: PredictReply, labels: tuple[str, ...]
) -> tuple[bytes, int | None]:
    """Server: the body, and where its JSON ends when raw tensors follow."""
    outputs = outputs_of(request, reply, labels)
    raw = {
        name: encode_raw(array) for name, array in outputs.items() if request.wanted(name).is_binary
    }
    if raw and len(raw) == len(outputs):
        declared = tuple(
            (name, datatype_of(array), array.shape, len(raw[name]))
            for name, array in outputs.items()
        )
        write = _raw_reply_head if not request.id else _raw_reply_head.__wrapped__
        head = write(reply.model, reply.version, declared, request.id)
        return b"".join((head, *raw.values())), len(head)
    tensors = []
    is_finite = True
    for name, array in outputs.items():
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
        }
        if name in raw:
            tensor["parameters"] = {"binary_data_size": len(raw[name])}
        else:
            tensor["data"] = _json_data(name, array, tensor["datatype"])
            is_finite &= array.dtype.kind != "f" or bool(np.isfinite(array).all())
        tensors.append(tensor)
    document = _reply_document(reply.model, reply.version, tensors, request.id)
    head = (dumps if is_finite else dumps_with_nan)(document)
    data = b"".join(raw.values())
    return (head + data, len(head)) if data else (head, None)


@lru_cache(maxsize=_MOST_KEPT_HEADS)
def _raw_reply_head(
    model: str,
    version: int,
    declared: tuple[tuple[str, str, tuple[int, ...], int], ...],
    request_id: str,
) -> bytes:
    """The JSON of an answer whose tensors are all raw."""
    tensors = [
        {
            "name": name,
            "datatype": datatype,
            "shape": list(shape),
            "parameters": {"binary_data_size": size},
        }
        for name, datatype, shape, size in declared
    ]
    return dumps(_reply_document(model, version, tensors, request_id))


def _reply_document(
    model: str, version: int, tensors: list[dict[str, Any]], request_id: str
) -> dict[str, Any]:
    document = {"model_name": model, "model_version": str(version), "outputs": tensors}
    return document | {"id": request_id} if request_id else document


def _json_data(name: str, array: Array, datatype: str) -> Any:
    if datatype in ("FP16", "BF16"):
        raise UnsupportedError(f"sending {datatype} data via JSON is not supported; ask for raw.")
    if datatype != "BYTES":
        return native(np.ascontiguousarray(array)).ravel()
    try:
        return [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise UnsupportedError(
            f"sending {name!r} via JSON is not supported: its bytes are no UTF-8 text; ask for raw, "
            "with the parameter binary_data."
        ) from error


# --- Server: the rest ---------------------------------------------------------------------------


def encode_metadata(metadata: ModelMetadata, signature: Signature) -> bytes:
    """Server: what a model takes and gives."""
    return dumps(
        {
            "name": metadata.model,
            "versions": [str(version) for version in metadata.versions],
            "platform": metadata.platform,
            "inputs": [_tensor(spec) for spec in signature.inputs.values()],
            "outputs": [_tensor(spec) for spec in signature.outputs.values()],
        }
    )


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": sizes_of(spec)}


def encode_config(metadata: ModelMetadata, signature: Signature) -> bytes:
    """Server: a model's configuration in Triton's form."""
    return dumps(model_config(metadata, signature))


def encode_index(statuses: tuple[ModelStatus, ...], *, only_ready: bool) -> bytes:
    """Server: every version of every model, with its state."""
    return dumps(
        [
            {
                "name": status.model,
                "version": str(each.version),
                "state": STATES[each.state],
                **({"reason": each.error_message} if each.error_message else {}),
            }
            for status in statuses
            for each in status.versions
            if not only_ready or each.state is VersionState.AVAILABLE
        ]
    )


def encode_statistics(versions: tuple[VersionStatistics, ...]) -> bytes:
    """Server: what versions have done, in Triton's form."""
    return dumps(statistics_of(versions))


def check_load_request(body: bytes) -> None:
    """Server: the body of a load or unload, which may say nothing that changes the model.

    Raises:
        InvalidRequestError: it is no JSON object.
        UnsupportedError: it brings a configuration or files.
    """
    document = loads(body) if body.strip() else {}
    if not isinstance(document, dict):
        raise InvalidRequestError("The body is a JSON object, or empty.")
    check_load_parameters(_parameters(document, "the request"))


# --- Client -------------------------------------------------------------------------------------


def version_number(text: Any) -> int:
    """Client: a version as a number; 0 where a server names its versions otherwise."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else 0


def encode_infer_request(call: PredictCall) -> tuple[tuple[bytes | memoryview, ...], int]:
    """Client: all tensors raw and not copied; returns the body's pieces and where its JSON ends."""
    tensors, raw = [], []
    for name, array in call.inputs.items():
        data = view_raw(array)
        raw.append(data)
        tensors.append((name, array.shape, datatype_of(array), len(data)))
    write = _request_head if not call.request_id else _request_head.__wrapped__
    head = write(tuple(tensors), call.request_id, call.signature, call.outputs)
    return (head, *raw), len(head)


@lru_cache(maxsize=256)  # whoever asks again asks for the same, but for the numbers
def _request_head(
    tensors: tuple[tuple[str, tuple[int, ...], str, int], ...],
    request_id: str,
    signature: str,
    outputs: tuple[str, ...],
) -> bytes:
    parameters: dict[str, Any] = {"binary_data_output": True}
    if signature:
        parameters["signature_name"] = signature
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": name,
                "shape": list(shape),
                "datatype": datatype,
                "parameters": {"binary_data_size": size},
            }
            for name, shape, datatype, size in tensors
        ],
        "parameters": parameters,
    }
    if request_id:
        document["id"] = request_id
    if outputs:
        document["outputs"] = [
            {"name": name, "parameters": {"binary_data": True}} for name in outputs
        ]
    return dumps(document)


def encode_plain_infer_request(call: PredictCall) -> bytes:
    """Client: all tensors as JSON, for servers without the binary extension.

    Raises:
        UnsupportedError: a type that the protocol has no form for.
    """
    tensors = []
    is_finite = True
    for name, array in call.inputs.items():
        datatype = datatype_of(array)
        tensors.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype,
                "data": _json_data(name, array, datatype),
            }
        )
        is_finite &= array.dtype.kind != "f" or bool(np.isfinite(array).all())
    document: dict[str, Any] = {"inputs": tensors}
    if call.request_id:
        document["id"] = call.request_id
    if call.signature:
        document["parameters"] = {"signature_name": call.signature}
    if call.outputs:
        document["outputs"] = [{"name": name} for name in call.outputs]
    return (dumps if is_finite else dumps_with_nan)(document)


def decode_infer_reply(
    body: bytes | bytearray | memoryview, header_length: str | None
) -> PredictReply:
    """Client: the outputs, raw or not; raw ones are not copied."""
    data = memoryview(body)
    split = _split(data, header_length)
    head = bytes(data[:split])
    try:
        reply = (_reply_head if split <= MOST_KEPT else _reply_head.__wrapped__)(head)
        place, outputs = split, {}
        for name, dtype, shape, size, values in reply.outputs:
            if size is None:
                outputs[name] = _from_json(values, name, shape, dtype)
            else:
                outputs[name] = decode_raw(data[place : place + size], name, shape, dtype)
                place += size
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError(f"The answer is no inference reply: {error}") from error
    return PredictReply(reply.model, reply.version, "", outputs, request_id=reply.id)


# Heads of answers that are longer than this are not kept: they carry the numbers.
MOST_KEPT = 1024


@dataclass(frozen=True, slots=True)
class _ReplyHead:
    model: str
    version: int
    id: str
    outputs: tuple[tuple[str, str, tuple[int, ...], int | None, Any], ...]


@lru_cache(maxsize=256)  # the same model answers the same, but for the numbers
def _reply_head(head: bytes) -> _ReplyHead:
    document = loads(head)
    return _ReplyHead(
        model=document["model_name"],
        version=version_number(document.get("model_version")),
        id=str(document.get("id") or ""),
        outputs=tuple(
            (
                each["name"],
                DTYPES[each["datatype"]],
                tuple(each["shape"]),
                (each.get("parameters") or {}).get("binary_data_size"),
                each.get("data"),
            )
            for each in document["outputs"]
        ),
    )
