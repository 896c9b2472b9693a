"""TensorFlow Serving's JSON, both directions: row form (`instances`) and column form (`inputs`).

The server needs orjson and simdjson for speed; the client works without them.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from serving.errors import (
    InvalidRequestError,
    LimitExceededError,
    SignatureNotFoundError,
    UnsupportedError,
)
from serving.limits import LIMITS
from serving.messages import (
    DEFAULT_SIGNATURE,
    Array,
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
from serving.wire import numbers
from serving.wire.pool import message
from serving.wire.tensors import (
    ENUM_NAMES,
    NAMES_OF_ENUM,
    decode_tensor,
    dtype_name,
    encode_tensor,
    native,
)

try:
    import orjson
except ModuleNotFoundError:  # the base install: the client alone
    orjson = None  # type: ignore[assignment]

T = TypeVar("T")

# What JSON gives for each kind of number; a bool is an int to Python and to nobody else.
_TAKEN: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}

# How TensorFlow Serving spells the types that its JSON cannot write.
_SPELLED = {"float16": "half"}

# A text, or what begins like one and has no end: to look for the end from each of its quotes would
# take a time that grows with the square of the body.
_TEXT = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
# RapidJSON's spelling of Infinity, outside of texts.
_INF = re.compile(rf"({_TEXT})|\bInf\b", re.DOTALL)

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = np.zeros(256, np.int8)
_COUNTED = 64 << 10
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1

# What Python reads and RapidJSON does not: numbers beyond a double, and halves of surrogate pairs.
_LARGE = re.compile(r"[eE]\+?0*[1-9][0-9]{2}|[0-9]{200}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

# NumPy has no arrays of more dimensions.
_MOST_LEVELS = 64


# --- JSON itself --------------------------------------------------------------------------------


def loads(body: bytes) -> Any:
    """Reads JSON as TensorFlow Serving does.

    NaN and Infinity are numbers, of a key that comes twice the first counts, a tail is ignored.

    Raises:
        InvalidRequestError: it is no JSON; says where.
    """
    if not body.strip():
        raise InvalidRequestError("JSON Parse error: The document is empty")
    _check_depth(body)
    _check_numbers(body)
    if orjson is not None:
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            pass  # it may still be what TensorFlow Serving takes
        else:
            if _has_all_members(body, document):
                return document
    return _loads_by_rule(body)


def _loads_by_rule(body: bytes) -> Any:
    try:
        # simdjson skips a mark of the byte order, too.
        text = body.decode("utf-8-sig").lstrip()
        if "Inf" in text:
            text = _INF.sub(lambda found: found[1] or "Infinity", text)
        decoder = json.JSONDecoder(
            object_pairs_hook=_first_of_each, parse_float=_finite if _LARGE.search(text) else None
        )
        document, end = decoder.raw_decode(text)
        if escape := _SURROGATE.search(text, 0, end):
            try:
                json.dumps(document, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise InvalidRequestError(
                    "JSON Parse error: The surrogate pair in string is invalid. at offset: "
                    f"{escape.start()}"
                ) from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(
            f"JSON Parse error: {error.msg} at offset: {error.pos}"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"JSON Parse error: Invalid UTF-8 at offset: {error.start}"
        ) from error
    except RecursionError as error:
        raise InvalidRequestError("JSON Parse error: The document is nested too deep") from error
    except ValueError as error:
        # Python reads no whole number of thousands of digits.
        raise InvalidRequestError("JSON Parse error: A number has too many digits") from error
    return document


def _first_of_each(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members:
        found.setdefault(name, value)
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidRequestError(
            f"JSON Parse error: Number too big to be stored in double: {text:.40}"
        )
    return number


def _has_all_members(body: bytes, document: Any) -> bool:
    """Whether a document has every member that its text has: of a key that came twice one is gone.

    Each member brings a colon. Where there are more, they may still be those of texts.
    """
    members = _count_members(document)
    return body.count(b":") == members or _outside_texts(body).count(b":") == members


def _count_members(value: Any) -> int:
    """Members of all objects, but for those within lists that begin with something else."""
    if isinstance(value, dict):
        return len(value) + sum(map(_count_members, value.values()))
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    return sum(map(_count_members, value)) if isinstance(first, dict) else 0


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= LIMITS.json_depth:
        return
    structure = np.frombuffer(body.translate(None, _NOT_BRACKETS), np.uint8)
    if _depth(structure) <= LIMITS.json_depth:
        return
    # Brackets within texts do not count; texts are rare enough to look only now.
    structure = np.frombuffer(_outside_texts(body).translate(None, _NOT_BRACKETS), np.uint8)
    if (depth := _depth(structure)) > LIMITS.json_depth:
        raise LimitExceededError(
            f"JSON Parse error: The document is nested too deep, {depth} levels; at most "
            f"{LIMITS.json_depth} are taken."
        )


def _check_numbers(body: bytes) -> None:
    """A few bytes each become hundreds: as many as a body has room for would take many seconds."""
    limits = (
        (b"[{", LIMITS.json_lists, "arrays and objects"),
        (b":", LIMITS.json_members, "names with a value"),
    )
    for marks, most, what in limits:
        if len(body) <= most or _count(body, marks) <= most:
            continue
        if (number := _count(_outside_texts(body), marks)) > most:
            raise LimitExceededError(
                f"JSON Parse error: The document has {number:,} {what}; at most {most:,} are "
                "taken. Tensors as raw bytes (Open Inference's binary data, or gRPC) have no such "
                "limit."
            )


def _outside_texts(body: bytes) -> bytes:
    """What stands outside of texts: where an even number of quotes has come before."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    parts, is_inside = [], 0
    for start in range(0, len(body), _COUNTED):
        piece = np.frombuffer(body, np.uint8, min(_COUNTED, len(body) - start), start)
        quotes = np.cumsum(piece == ord('"'), dtype=np.uint8)
        parts.append(piece[(quotes + is_inside) & 1 == 0].tobytes())
        is_inside = (is_inside + int(quotes[-1])) & 1
    return b"".join(parts)


def _count(body: bytes, marks: bytes) -> int:
    return sum(body.count(mark) for mark in marks)


def _depth(structure: Any) -> int:
    most = depth = 0
    # Piece by piece: each bracket takes five bytes while it is counted.
    for start in range(0, len(structure), _COUNTED):
        levels = np.cumsum(_STEPS[structure[start : start + _COUNTED]], dtype=np.int32)
        most = max(most, depth + int(levels.max()))
        depth += int(levels[-1])
    return most


def dumps(value: Any) -> bytes:
    """Writes JSON; NumPy arrays as nested lists, float32 in the fewest digits that read back."""
    if orjson is not None:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(value, default=_plain, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32:
            # Through text: 0.1f is written 0.1, not 0.10000000149011612.
            return value.astype(np.str_).astype(np.float64).tolist()
        return value.tolist()
    if isinstance(value, np.generic):
        return float(str(value)) if isinstance(value, np.float32) else value.item()
    raise TypeError(f"{type(value).__name__} is no JSON.")


def _clip(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 256 else text[:256] + "..."


# --- Server: predict ----------------------------------------------------------------------------


def decode_predict_request(
    body: bytes, target: Target, signatures: Mapping[str, Signature]
) -> tuple[PredictCall, bool]:
    """Server: the body of a `:predict`.

    Args:
        body: The JSON document.
        target: What the URL named.
        signatures: Those of the version that will answer: JSON has no types of its own.

    Returns:
        The call, and whether it came in row form.

    Raises:
        InvalidRequestError: with TensorFlow Serving's text where it has one.
    """
    fast = _decode_fast(body, target, signatures)
    if fast is not None:
        return fast
    document = load_object(body)
    signature = _signature(signature_name(document), signatures)
    is_row = "instances" in document
    if is_row and "inputs" in document:
        raise InvalidRequestError("Not formatted correctly expecting only 'instances' or 'inputs'")
    if is_row:
        try:
            inputs = _decode_rows(document["instances"], signature)
        except UnsupportedError as error:
            raise InvalidRequestError(
                f"Failed to process element: 0 of 'instances' list. Error: {error}"
            ) from error
    elif "inputs" in document:
        inputs = _decode_columns(document["inputs"], signature)
    else:
        raise InvalidRequestError("Missing 'inputs' or 'instances' key")
    return PredictCall(target=target, signature=signature.name, inputs=inputs), is_row


def load_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        InvalidRequestError: it is no JSON, or no object.
    """
    document = loads(body)
    if not isinstance(document, dict):
        raise InvalidRequestError(f"JSON Value: {_clip(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a request names, or "".

    Raises:
        InvalidRequestError: it is no text.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidRequestError(
            f"JSON Value: {_clip(name)} 'signature_name' is not a string", field="signature_name"
        )
    return name


def _signature(name: str, signatures: Mapping[str, Signature]) -> Signature:
    wanted = name or DEFAULT_SIGNATURE
    if wanted not in signatures:
        raise SignatureNotFoundError(wanted, signatures)
    signature = signatures[wanted]
    if not signature.inputs:
        raise InvalidRequestError(f"Signature {wanted!r} has no inputs.", field="signature_name")
    return signature


def _decode_fast(
    body: bytes, target: Target, signatures: Mapping[str, Signature]
) -> tuple[PredictCall, bool] | None:
    """One float input as plain nested numbers, the usual case; None leaves it to the others."""
    found = numbers.read(body)
    if found is None:
        return None
    signature = signatures.get(found.signature or DEFAULT_SIGNATURE)
    if signature is None or len(signature.inputs) != 1:
        return None
    (spec,) = signature.inputs.values()
    if spec.dtype not in ("float32", "float64") or found.input not in (None, spec.name):
        return None
    with np.errstate(over="ignore"):
        inputs = {spec.name: found.values.astype(spec.dtype)}
    return PredictCall(target=target, signature=signature.name, inputs=inputs), found.is_row


def is_base64(value: Any) -> bool:
    """Whether a JSON value is bytes: `{"b64": "..."}` and nothing else."""
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _decode_rows(rows: Any, signature: Signature) -> dict[str, Array]:
    if not isinstance(rows, list):
        raise InvalidRequestError(
            f"JSON Value: {_clip(rows)} 'instances' is not a list", field="instances"
        )
    if not rows:
        raise InvalidRequestError("No values in 'instances' array", field="instances")
    first = rows[0]
    if isinstance(first, dict) and not is_base64(first):
        wanted = set(signature.inputs)
        for index, row in enumerate(rows):
            if not isinstance(row, dict) or set(row) != wanted:
                found = ", ".join(sorted(row)) if isinstance(row, dict) else _clip(row)
                raise InvalidRequestError(
                    f"Failed to process element: {index} of 'instances' list. "
                    f"Expected the keys {', '.join(sorted(wanted))}; found {found}.",
                    field="instances",
                )
        return {
            name: _tensor([row[name] for row in rows], spec)
            for name, spec in signature.inputs.items()
        }
    if len(signature.inputs) > 1:
        raise InvalidRequestError(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            f"required as per tensorinfo_map: {', '.join(sorted(signature.inputs))}",
            field="instances",
        )
    (spec,) = signature.inputs.values()
    return {spec.name: _tensor(rows, spec)}


def _decode_columns(columns: Any, signature: Signature) -> dict[str, Array]:
    if isinstance(columns, dict) and not is_base64(columns):
        for name in signature.inputs:
            if name not in columns:
                raise InvalidRequestError(
                    f"Missing named input: {name} in 'inputs' object.", field=name
                )
        return {name: _tensor(columns[name], spec) for name, spec in signature.inputs.items()}
    if len(signature.inputs) > 1:
        raise InvalidRequestError(
            "inputs is a plain value/list, but expecting an object as multiple input tensors "
            f"required as per tensorinfo_map: {', '.join(sorted(signature.inputs))}",
            field="inputs",
        )
    (spec,) = signature.inputs.values()
    return {spec.name: _tensor(columns, spec)}


def _tensor(value: Any, spec: TensorSpec) -> Array:
    """Nested lists as the array that a signature's input takes."""
    if spec.dtype == "bytes":
        return _string_tensor(value, spec.name)
    if spec.dtype in ("float16", "bfloat16", "uint16", "complex64", "complex128"):
        raise UnsupportedError(f"JSON has no form for input {spec.name!r} of type {spec.dtype}.")
    kind = np.dtype(spec.dtype).kind
    leaves = np.array(value, dtype=np.object_)
    kinds = set(map(type, leaves.ravel().tolist()))
    if list in kinds:
        raise InvalidRequestError(
            f"Encountered list at unexpected size: input {spec.name!r} is ragged or too deep; all "
            "lists of one level have the same length.",
            field=spec.name,
        )
    if not kinds <= _TAKEN[kind]:
        culprit = next(each for each in leaves.ravel() if type(each) not in _TAKEN[kind])
        raise InvalidRequestError(
            f"JSON Value: {_clip(culprit)} Type: {_json_type(culprit)} is not of expected type: "
            f"{spec.dtype.replace('float32', 'float')} (input {spec.name!r})",
            field=spec.name,
        )
    # The narrow types are read as int32 and wrap, as in TensorFlow Serving.
    is_narrow = kind in "iu" and np.dtype(spec.dtype).itemsize < 4
    wide = {"f": "float64"}.get(kind, "int32" if is_narrow else spec.dtype)
    try:
        with np.errstate(over="ignore"):
            return leaves.astype(wide).astype(spec.dtype)
    except OverflowError as error:
        bounds = np.iinfo(wide) if kind in "iu" else np.finfo(wide)
        raise InvalidRequestError(
            f"Input {spec.name!r} has numbers outside {bounds.min}..{bounds.max}.", field=spec.name
        ) from error


def _json_type(value: Any) -> str:
    match value:
        case bool() | np.bool_():
            return "Bool"
        case None:
            return "Null"
        case str():
            return "String"
        case list():
            return "Array"
        case dict():
            return "Object"
        case _:
            return "Number"


def _string_tensor(value: Any, name: str) -> Array:
    flat: list[bytes] = []
    shape = _collect(value, name, flat, [], 0)
    array = np.empty(len(flat), dtype=np.object_)
    array[:] = flat
    return array.reshape(shape)


def _collect(value: Any, name: str, flat: list[bytes], shape: list[int], level: int) -> list[int]:
    """Walks nested lists of strings; `shape` is what the first elements said."""
    if isinstance(value, list):
        if level == len(shape):
            if flat or level == _MOST_LEVELS:
                raise _ragged(name, level)
            shape.append(len(value))
        if len(value) != shape[level]:
            raise InvalidRequestError(
                f"Encountered list at unexpected size: {len(value)} at level: {level} "
                f"expected size: {shape[level]}",
                field=name,
            )
        for item in value:
            _collect(item, name, flat, shape, level + 1)
        return shape
    if level != len(shape):
        raise _ragged(name, level)
    if isinstance(value, str):
        flat.append(value.encode())
    elif is_base64(value):
        flat.append(read_base64(value["b64"], name))
    else:
        raise InvalidRequestError(
            f"JSON Value: {_clip(value)} Type: {_json_type(value)} is not of expected type: string",
            field=name,
        )
    return shape


def _ragged(name: str, level: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"Encountered values of different depth in input {name!r} at level: {level}", field=name
    )


def read_base64(text: str, name: str) -> bytes:
    """The bytes of a base64 text; padding and spaces do not matter.

    Raises:
        InvalidRequestError: it is none; `name` says where.
    """
    compact = "".join(text.split())
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"Unable to base64 decode input {name!r}", field=name) from error


def encode_predict_reply(reply: PredictReply, *, is_row: bool) -> bytes:
    """Server: `{"predictions": [...]}` or `{"outputs": ...}`.

    Raises:
        InvalidRequestError: an output that JSON has no form for, or that row form cannot split.
    """
    try:
        values = {name: _json_array(name, array) for name, array in reply.outputs.items()}
    except UnsupportedError as error:  # a request at fault, to TensorFlow Serving
        raise InvalidRequestError(str(error)) from error
    is_finite = all(
        bool(np.isfinite(array).all())
        for array in reply.outputs.values()
        if array.dtype.kind in "fc"
    )
    write = dumps if is_finite else dumps_with_nan
    if not is_row:
        return write({"outputs": next(iter(values.values())) if len(values) == 1 else values})
    _check_batch(reply.outputs)
    if len(values) == 1:
        return write({"predictions": next(iter(values.values()))})
    rows = zip(*values.values(), strict=True)
    return write({"predictions": [dict(zip(values, row, strict=True)) for row in rows]})


def _check_batch(outputs: Mapping[str, Array]) -> None:
    """Row form needs one batch size for all outputs."""
    expected = None
    for name, array in outputs.items():
        if not array.ndim:
            raise InvalidRequestError(
                f"Tensor name: {name} has no shape information; ask with 'inputs'.", field=name
            )
        expected = array.shape[0] if expected is None else expected
        if array.shape[0] != expected:
            raise InvalidRequestError(
                f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} "
                f"expecting: {expected}; ask with 'inputs'.",
                field=name,
            )


def dumps_with_nan(value: Any) -> bytes:
    """Writes JSON with numbers that are not finite."""
    # orjson writes null for what is not finite; TensorFlow Serving writes NaN and Infinity.
    return json.dumps(value, default=_plain, separators=(",", ":")).encode()


def _json_array(name: str, array: Array) -> Any:
    kind = dtype_name(array)
    if kind == "bytes":
        return _json_strings(array.tolist(), as_base64=name.endswith("_bytes"))
    if kind in ("float16", "uint16", "bfloat16") or array.dtype.kind == "c":
        raise UnsupportedError(
            f"Failed to write JSON value for tensor type: {_SPELLED.get(kind, kind)} ({name!r})."
        )
    return native(np.ascontiguousarray(array)) if array.ndim else array[()]


def _json_strings(value: Any, *, as_base64: bool) -> Any:
    if isinstance(value, list):
        return [_json_strings(item, as_base64=as_base64) for item in value]
    data = value if isinstance(value, bytes) else str(value).encode()
    if as_base64:
        return {"b64": base64.b64encode(data).decode()}
    return data.decode("utf-8", "replace")


# --- Server: the rest ---------------------------------------------------------------------------


def encode_error(text: str) -> bytes:
    """`{"error": text}`."""
    return dumps({"error": text})


def encode_status_reply(status: ModelStatus) -> bytes:
    """Server: all versions, newest first; numbers as strings, as protobuf's JSON has them."""
    return dumps(
        {
            "model_version_status": [
                {
                    "version": str(each.version),
                    "state": each.state.value,
                    "status": {"error_code": each.error_code, "error_message": each.error_message},
                }
                for each in status.versions
            ]
        }
    )


def encode_metadata_reply(metadata: ModelMetadata) -> bytes:
    """Server: the signatures, nested as TensorFlow Serving nests them."""
    signatures = {
        name: {
            "inputs": {each: _json_spec(spec) for each, spec in signature.inputs.items()},
            "outputs": {each: _json_spec(spec) for each, spec in signature.outputs.items()},
            "method_name": signature.method_name,
            "defaults": {each: _json_tensor(array) for each, array in signature.defaults.items()},
        }
        for name, signature in metadata.signatures.items()
    }
    return dumps(
        {
            "model_spec": {
                "name": metadata.model,
                "signature_name": "",
                "version": str(metadata.version),
            },
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
    )


def _json_spec(spec: TensorSpec) -> dict[str, Any]:
    sizes = spec.shape or ()
    return {
        "dtype": ENUM_NAMES[spec.dtype],
        "tensor_shape": {
            "dim": [{"size": str(-1 if size is None else size), "name": ""} for size in sizes],
            "unknown_rank": spec.shape is None,
        },
        "name": spec.tensor_name,
    }


def _json_tensor(array: Array) -> dict[str, Any]:
    """A TensorProto with all of its fields, as TensorFlow Serving prints it."""
    proto = message("tensorflow.TensorProto")()
    encode_tensor(array, proto, as_content=False)
    return MessageToDict(
        proto, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


# --- Client -------------------------------------------------------------------------------------


def known_of(kind: Callable[..., T], document: Mapping[str, Any]) -> T:
    """A record of what the document has for it; a later server may tell more."""
    return kind(**{name: document[name] for name in kind.__annotations__ if name in document})


def encode_predict_request(call: PredictCall) -> bytes:
    """Client: column form, which needs no equal batch sizes.

    Raises:
        UnsupportedError: a type that JSON has no form for.
    """
    inputs = {
        name: _request_strings(array.tolist())
        if dtype_name(array) == "bytes"
        else _json_array(name, array)
        for name, array in call.inputs.items()
    }
    is_finite = all(
        bool(np.isfinite(array).all()) for array in call.inputs.values() if array.dtype.kind == "f"
    )
    document = {"inputs": inputs}
    if call.signature:
        document["signature_name"] = call.signature  # type: ignore[assignment]
    return (dumps if is_finite else dumps_with_nan)(document)


def _request_strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_request_strings(item) for item in value]
    data = value if isinstance(value, bytes) else str(value).encode()
    return {"b64": base64.b64encode(data).decode()}


def decode_predict_reply(
    body: bytes, target: Target, signature: Signature | None = None
) -> PredictReply:
    """Client: the outputs of a column-form answer.

    Args:
        body: The JSON document.
        target: What was asked; JSON replies do not say which version answered.
        signature: Names a single output and gives types; without it, "outputs" and NumPy's.
    """
    document = loads(body)
    if not isinstance(document, dict) or "outputs" not in document:
        raise InvalidRequestError(f"The answer has no 'outputs': {_clip(document)}")
    value = document["outputs"]
    specs = dict(signature.outputs) if signature is not None else {}
    if not isinstance(value, dict) or is_base64(value):
        value = {next(iter(specs)) if len(specs) == 1 else "outputs": value}
    return PredictReply(
        model=target.model,
        version=target.version or 0,
        signature=signature.name if signature is not None else DEFAULT_SIGNATURE,
        outputs={name: _reply_array(item, specs.get(name)) for name, item in value.items()},
    )


def _reply_array(value: Any, spec: TensorSpec | None) -> Array:
    if spec is not None and spec.dtype != "bytes":
        return np.array(value, dtype=spec.dtype)
    leaf = value
    while isinstance(leaf, list) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, str | dict):
        return _string_tensor(value, "outputs")
    found = np.array(value)
    return found.astype(np.float32) if found.dtype.kind == "f" else found


# As over gRPC, a state of a later server is one that does not answer yet.
_STATES = {state.value: state for state in VersionState}


def decode_status_reply(body: bytes, model: str) -> ModelStatus:
    """Client: the states of a model's versions."""
    document = loads(body)
    try:
        return ModelStatus(
            model=model,
            versions=tuple(
                VersionStatus(
                    version=int(each["version"]),
                    state=_STATES.get(each["state"], VersionState.START),
                    error_code=each["status"]["error_code"],
                    error_message=each["status"]["error_message"],
                )
                for each in document["model_version_status"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError(f"The answer is no model status: {_clip(document)}") from error


def decode_metadata_reply(body: bytes) -> ModelMetadata:
    """Client: what a version takes and gives."""
    document = loads(body)
    try:
        signatures = document["metadata"]["signature_def"]["signature_def"]
        return ModelMetadata(
            model=document["model_spec"]["name"],
            version=int(document["model_spec"]["version"]),
            signatures={
                name: Signature(
                    name=name,
                    inputs=_read_specs(each["inputs"]),
                    outputs=_read_specs(each["outputs"]),
                    method_name=each["method_name"],
                    defaults=_read_defaults(each.get("defaults", {})),
                )
                for name, each in signatures.items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError, ParseError) as error:
        raise InvalidRequestError(f"The answer is no metadata: {_clip(document)}") from error


def _read_defaults(tensors: Mapping[str, Any]) -> dict[str, Array]:
    """Those of types that NumPy has."""
    protos = {
        name: ParseDict(each, message("tensorflow.TensorProto")(), ignore_unknown_fields=True)
        for name, each in tensors.items()
        if each["dtype"] in NAMES_OF_ENUM
    }
    return {name: decode_tensor(proto, name) for name, proto in protos.items()}


def _read_specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            name=name,
            dtype=NAMES_OF_ENUM.get(info["dtype"], "unknown"),
            shape=None
            if info["tensor_shape"].get("unknown_rank")
            else tuple(
                None if int(dim["size"]) < 0 else int(dim["size"])
                for dim in info["tensor_shape"].get("dim", ())
            ),
            tensor_name=info.get("name", ""),
        )
        for name, info in infos.items()
    }
