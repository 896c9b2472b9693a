"""tf.Example in, classes or values out: what TensorFlow Serving's Classify and Regress share.

Their signatures are ordinary ones: the input `inputs` takes serialised examples (strings [N]), and
the outputs `classes` (strings [N, k]) and `scores`, or `outputs`, give the answer. So a request
becomes a `PredictCall`, and only the forms around it are here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from serving.errors import InvalidRequestError, UnsupportedError
from serving.messages import DEFAULT_SIGNATURE, PredictCall, PredictReply, Signature, Target
from serving.wire.pool import message
from serving.wire.tensors import dtype_name
from serving.wire.tfs_json import (
    dumps,
    dumps_with_nan,
    is_base64,
    load_object,
    read_base64,
    signature_name,
)
from serving.wire.tfs_proto import decode_target, encode_spec, parse

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
INPUT, CLASSES, SCORES, VALUES = "inputs", "classes", "scores", "outputs"

Classes = list[list[tuple[str, float]]]


# --- Requests -----------------------------------------------------------------------------------


def examples_call(target: Target, signature: str, examples: Sequence[bytes]) -> PredictCall:
    """Serialised examples as the call of a signature.

    Raises:
        InvalidRequestError: there is no example.
    """
    if not examples:
        raise InvalidRequestError("Input is empty.", field="input")
    inputs = np.empty(len(examples), dtype=np.object_)
    inputs[:] = examples
    return PredictCall(target=target, signature=signature, inputs={INPUT: inputs})


def read_input(proto: Any) -> list[bytes]:
    """The examples of an `Input`; a context's features are part of every one."""
    kind = proto.WhichOneof("kind")
    if kind is None:
        return []
    found = getattr(proto, kind)
    # Two serialised messages in a row are the two merged.
    context = found.context.SerializeToString() if kind == "example_list_with_context" else b""
    return [context + example.SerializeToString() for example in found.examples]


def check_signature(signature: Signature, method: str) -> None:
    """Raises `InvalidRequestError` when a signature cannot classify or regress."""
    wanted = (CLASSES, SCORES) if method == CLASSIFY else (VALUES,)
    if set(signature.inputs) != {INPUT} or not set(wanted) & set(signature.outputs):
        raise InvalidRequestError(
            f"Signature {signature.name!r} takes {', '.join(signature.inputs)} and gives "
            f"{', '.join(signature.outputs)}; {method.rpartition('/')[2]} needs {INPUT!r} and "
            f"{' or '.join(map(repr, wanted))}. Predict answers for any signature.",
            field="signature_name",
        )


def decode_request(name: str, body: bytes) -> PredictCall:
    """Server: a ClassificationRequest or RegressionRequest.

    Raises:
        InvalidRequestError: it is none, names no model, or has no example.
    """
    request = parse(name, body)
    target = decode_target(request)
    return examples_call(target, request.model_spec.signature_name, read_input(request.input))


def decode_multi_request(body: bytes) -> tuple[tuple[PredictCall, str], ...]:
    """Server: a MultiInferenceRequest; each task's call and its method name.

    Raises:
        InvalidRequestError: tasks of several models, or of one signature twice.
    """
    request = parse("MultiInferenceRequest", body)
    if not request.tasks:
        raise InvalidRequestError("Inference request has no tasks.", field="tasks")
    tasks: list[tuple[PredictCall, str]] = []
    signatures: set[str] = set()
    first = decode_target(request.tasks[0])
    # All tasks share one array: as many tasks as examples would fill the memory.
    shared = examples_call(first, "", read_input(request.input))
    for task in request.tasks:
        target = decode_target(task)
        if target != first:
            raise InvalidRequestError(
                "All ModelSpecs in a MultiInferenceRequest must access the same model; "
                f"found {first.model!r} and {target.model!r}.",
                field="tasks",
            )
        call = replace(shared, signature=task.model_spec.signature_name)
        signature = call.signature or DEFAULT_SIGNATURE
        if signature in signatures:
            raise InvalidRequestError(
                f"Duplicate evaluation of signature: {signature}", field="tasks"
            )
        signatures.add(signature)
        if task.method_name not in (CLASSIFY, REGRESS):
            raise UnsupportedError(
                f"Unsupported signature method_name: {task.method_name}; "
                f"{CLASSIFY} and {REGRESS} are supported."
            )
        tasks.append((call, task.method_name))
    return tuple(tasks)


def decode_json_request(body: bytes, target: Target) -> PredictCall:
    """Server: the body of a `:classify` or `:regress`.

    Raises:
        InvalidRequestError: names the example at fault.
    """
    document = load_object(body)
    examples, context = document.get("examples"), document.get("context", {})
    if not isinstance(examples, list) or not examples:
        raise InvalidRequestError(
            "When method is classify or regress, key 'examples' is expected and must be a "
            "non-empty list of objects.",
            field="examples",
        )
    if not isinstance(context, dict):
        raise InvalidRequestError("'context' must be an object.", field="context")
    shared = encode_example(context, "context")
    serialised = []
    for index, features in enumerate(examples):
        if not isinstance(features, dict):
            raise InvalidRequestError(f"examples[{index}] is not an object.", field="examples")
        serialised.append(shared + encode_example(features, f"examples[{index}]"))
    return examples_call(target, signature_name(document), serialised)


def encode_example(features: Mapping[str, Any], place: str) -> bytes:
    """JSON features as a serialised example: floats, integers (and booleans), or strings.

    Args:
        features: By name, one value or a flat list of one kind.
        place: Where the example stands in the request, for messages.

    Raises:
        InvalidRequestError: a value that no feature holds, or kinds mixed in one feature.
    """
    example = message("tensorflow.Example")()
    for name, value in features.items():
        feature = example.features.feature[name]
        items = value if isinstance(value, list) else [value]
        kinds = {_kind(item, f"{place}[{name!r}]") for item in items}
        if len(kinds) > 1:
            raise InvalidRequestError(
                f"{place}[{name!r}] mixes {' and '.join(sorted(kinds))}; a feature has one kind.",
                field=name,
            )
        if kinds:
            getattr(feature, kinds.pop()).value.extend(_plain(item) for item in items)
    body: bytes = example.SerializeToString()
    return body


def _kind(value: Any, place: str) -> str:
    match value:
        case bool():
            return "int64_list"
        case int() if -(2**63) <= value < 2**63:
            return "int64_list"
        case float():
            return "float_list"
        case str():
            return "bytes_list"
        case dict() if is_base64(value):
            return "bytes_list"
        case _:
            raise InvalidRequestError(
                f"{place} has the value {value!r:.80}; numbers, strings and flat lists of one "
                "kind can be features."
            )


def _plain(value: Any) -> Any:
    match value:
        case bool():
            return int(value)
        case str():
            return value.encode()
        case dict():
            return read_base64(value["b64"], "examples")
        case _:
            return value


# --- Replies ------------------------------------------------------------------------------------


def classes_of(reply: PredictReply) -> Classes:
    """(label, score) of every class of every example; "" or 0 where the model gives none.

    Raises:
        InvalidRequestError: outputs of another type or shape.
    """
    found = {name: reply.outputs[name] for name in (CLASSES, SCORES) if name in reply.outputs}
    for name, array in found.items():
        kind = "bytes" if name == CLASSES else "float32"
        if dtype_name(array) != kind or array.ndim != 2:
            raise InvalidRequestError(
                f"Output {name!r} is {dtype_name(array)} {list(array.shape)}; classify needs "
                f"{kind} [N, k]."
            )
    shape = next(iter(found.values())).shape
    if any(array.shape != shape for array in found.values()):
        raise InvalidRequestError(
            f"Outputs of shapes {[list(array.shape) for array in found.values()]} do not belong "
            "together."
        )
    labels = found.get(CLASSES, np.full(shape, b"", dtype=np.object_))
    scores = found.get(SCORES, np.zeros(shape, dtype=np.float32))
    return [
        [
            (label.decode("utf-8", "replace"), score)
            for label, score in zip(label_row, score_row, strict=True)
        ]
        for label_row, score_row in zip(labels, scores, strict=True)
    ]


def values_of(reply: PredictReply) -> list[float]:
    """One float32 for every example.

    Raises:
        InvalidRequestError: an output of another type or shape.
    """
    array = reply.outputs[VALUES]
    if dtype_name(array) != "float32" or array.shape[1:] not in ((), (1,)) or not array.ndim:
        raise InvalidRequestError(
            f"Output {VALUES!r} is {dtype_name(array)} {list(array.shape)}; regress needs "
            "float32 [N] or [N, 1]."
        )
    values: list[float] = list(array.ravel())
    return values


def encode_classification_reply(reply: PredictReply) -> bytes:
    """Server: a ClassificationResponse."""
    response = message("tensorflow.serving.ClassificationResponse")()
    _fill(response.result, reply, CLASSIFY)
    encode_spec(reply, response.model_spec)
    body: bytes = response.SerializeToString()
    return body


def encode_regression_reply(reply: PredictReply) -> bytes:
    """Server: a RegressionResponse."""
    response = message("tensorflow.serving.RegressionResponse")()
    _fill(response.result, reply, REGRESS)
    encode_spec(reply, response.model_spec)
    body: bytes = response.SerializeToString()
    return body


def encode_multi_reply(answers: Sequence[tuple[PredictReply, str]]) -> bytes:
    """Server: a MultiInferenceResponse; the replies with their tasks' method names, in order."""
    response = message("tensorflow.serving.MultiInferenceResponse")()
    for reply, method in answers:
        result = response.results.add()
        encode_spec(reply, result.model_spec)
        is_classify = method == CLASSIFY
        filled = result.classification_result if is_classify else result.regression_result
        filled.SetInParent()
        _fill(filled, reply, method)
    body: bytes = response.SerializeToString()
    return body


def _fill(result: Any, reply: PredictReply, method: str) -> None:
    if method == REGRESS:
        for value in values_of(reply):
            result.regressions.add().value = value
        return
    for row in classes_of(reply):
        classifications = result.classifications.add()
        for label, score in row:
            classifications.classes.add(label=label, score=score)


def encode_json_reply(reply: PredictReply, method: str) -> bytes:
    """Server: `{"results": ...}`: pairs of label and score, or numbers."""
    is_finite = all(np.isfinite(a).all() for a in reply.outputs.values() if a.dtype.kind == "f")
    results = classes_of(reply) if method == CLASSIFY else values_of(reply)
    return (dumps if is_finite else dumps_with_nan)({"results": results})
