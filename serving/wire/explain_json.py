"""Explanations as JSON, both directions.

    GET  /api/models/{model}[/versions/N|/labels/L]/layers
    POST /api/models/{model}[/versions/N|/labels/L]/explain?method=occlusion&layer=c3&patch=8

The body of `explain` is one raw image, with everything else in the query (parameters that are not
method, layer, target or format are the method's options); or, as application/json,
`{"method": "...", "image": {"b64": "..."}, "layer": ..., "target": ..., "options": {...}}`.
Arrays come back as {"dtype", "shape", "b64"}: little-endian values in row order.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from serving.errors import InvalidRequestError
from serving.messages import (
    Array,
    ExplainCall,
    ExplainReply,
    Framing,
    LayerRecord,
    LayersReply,
    MethodRecord,
    Target,
    Timings,
)
from serving.wire.native_json import read_image
from serving.wire.tfs_json import dumps, known_of, loads

OWN = ("method", "layer", "target", "format")
FORMATS = ("arrays", "png")
# What an array may be made of; anything else from a server is refused.
DTYPES = ("float32", "int64", "uint8")


def decode_call(
    target: Target, body: bytes, content_type: str, query: str, accept: str = ""
) -> ExplainCall:
    """Server: a request.

    Raises:
        InvalidRequestError: it is none; names the part at fault.
    """
    document: dict[str, Any] = {}
    image = body
    if content_type.partition(";")[0].strip().lower() == "application/json":
        document = _document(body)
        given = document.pop("image", None)
        image = b"" if given is None else read_image(given, "image")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    fields = {**{name: asked[name] for name in OWN if name in asked}, **document}
    options = {name: _option(text) for name, text in asked.items() if name not in OWN}
    given = fields.pop("options", {})
    if not isinstance(given, dict):
        raise InvalidRequestError("options is no JSON object.", field="options")
    if unknown := set(fields) - set(OWN):
        raise InvalidRequestError(
            f"No field {sorted(unknown)[0]!r}; there are image, options, {', '.join(OWN)}.",
            field=sorted(unknown)[0],
        )
    form = fields.get("format", "png" if "image/png" in accept else "arrays")
    if form not in FORMATS:
        raise InvalidRequestError(
            f"format is {form!r}; {' and '.join(FORMATS)} work.", field="format"
        )
    explained = fields.get("target")
    if isinstance(explained, bool) or not isinstance(explained, str | int | None):
        raise InvalidRequestError("target is a label or a class id.", field="target")
    return ExplainCall(
        target=target,
        method=_text(fields, "method") or "",
        image=image,
        layer=_text(fields, "layer"),
        explained=explained,
        options=options | given,
        is_picture=form == "png",
    )


def _document(body: bytes) -> dict[str, Any]:
    document = loads(body)
    if not isinstance(document, dict):
        raise InvalidRequestError('JSON Value: expected {"method": ..., "image": {"b64": ...}}.')
    return document


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"{name} is no text.", field=name)
    return value or None


def _option(text: str) -> Any:
    """A number, a list or true where it is one, else the text."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def encode_call(call: ExplainCall) -> bytes:
    """Client: the body of a request."""
    document: dict[str, Any] = {"method": call.method, "options": dict(call.options)}
    if call.image:
        document["image"] = {"b64": base64.b64encode(call.image).decode()}
    if call.layer is not None:
        document["layer"] = call.layer
    if call.explained is not None:
        document["target"] = call.explained
    if call.is_picture:
        document["format"] = "png"
    return dumps(document)


def encode_reply(reply: ExplainReply) -> bytes:
    """Server: an explanation."""
    return dumps(
        {
            "model": reply.model,
            "version": reply.version,
            "request_id": reply.request_id,
            "method": reply.method,
            "layer": reply.layer,
            "target": reply.class_id,
            "label": reply.label,
            "facts": dict(reply.facts),
            "arrays": {name: _array(array) for name, array in reply.arrays.items()},
            "timings": {
                "decode_s": round(reply.timings.decode_s, 6),
                "queue_s": round(reply.timings.queue_s, 6),
                "execute_s": round(reply.timings.execute_s, 6),
                "encode_s": round(reply.timings.encode_s, 6),
            },
        }
    )


def _array(array: Array) -> dict[str, Any]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "b64": base64.b64encode(little.tobytes()).decode(),
    }


def decode_reply(body: bytes) -> ExplainReply:
    """Client: an explanation.

    Raises:
        InvalidRequestError: it is none.
    """
    document: Any = loads(body)
    try:
        return ExplainReply(
            model=document["model"],
            version=int(document["version"]),
            method=document["method"],
            layer=document["layer"],
            class_id=document["target"],
            label=document["label"],
            arrays={name: _decoded(each) for name, each in document["arrays"].items()},
            facts=document["facts"],
            timings=known_of(Timings, document["timings"]),
            request_id=document["request_id"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidRequestError(f"The answer is no explanation: {error}") from error


def _decoded(array: Mapping[str, Any]) -> Array:
    if array["dtype"] not in DTYPES:
        raise ValueError(f"an array of type {array['dtype']!r}")
    values = np.frombuffer(
        base64.b64decode(array["b64"], validate=True), np.dtype(array["dtype"]).newbyteorder("<")
    )
    shaped: Array = values.reshape(array["shape"])
    return shaped


def _size(size: Any) -> tuple[int, int] | None:
    return None if size is None else (int(size[0]), int(size[1]))


def encode_layers(reply: LayersReply) -> bytes:
    """Server: what of a version can be looked into."""
    return dumps(asdict(reply))


def decode_layers(body: bytes) -> LayersReply:
    """Client: what of a version can be looked into.

    Raises:
        InvalidRequestError: it is none.
    """
    document: Any = loads(body)
    try:
        return LayersReply(
            model=document["model"],
            version=int(document["version"]),
            labels=tuple(document["labels"]),
            input_shape=tuple(document["input_shape"]),
            colour=document["colour"],
            image_size=_size(document["image_size"]),
            layers=tuple(
                LayerRecord(
                    name=each["name"],
                    kind=each["kind"],
                    shape=tuple(each["shape"]),
                    parents=tuple(each["parents"]),
                    methods=tuple(each["methods"]),
                )
                for each in document["layers"]
            ),
            methods=tuple(known_of(MethodRecord, each) for each in document["methods"]),
            # Servers from before it was told do not tell it.
            framing=known_of(Framing, framing) if (framing := document.get("framing")) else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError(f"The answer is no list of layers: {error}") from error
