"""The description of the HTTP interface for machines (/openapi.json) and for people (/docs)."""

from functools import cache
from importlib.metadata import version
from typing import Any

from serving.protocols.native import CLASSIFY_PATHS
from serving.wire.tfs_json import dumps

JSON = "application/json"
_TEXT: dict[str, Any] = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_OBJECT = {"type": "object"}

_PARAMETERS = {
    "model": "The model's name.",
    "version": "The version's number.",
    "label": "A version label, such as stable.",
}
_HEADERS = {
    "x-request-id": ("Comes back in the answer, and stands in log lines and spans.", _TEXT),
    "x-request-timeout-s": (
        "Seconds the caller will wait; late work is dropped.",
        {"type": "number", "exclusiveMinimum": 0},
    ),
    "x-request-priority": ("1 goes first; 0, the default, stands at 8; 16 is last.", _COUNT),
    "traceparent": ("The caller's trace, as W3C writes it.", _TEXT),
}
_ERRORS = {
    "400": "The request cannot be answered as it is; the message names the part at fault.",
    "404": "There is no such model or version.",
    "429": "Too much waits already; Retry-After says when to return.",
    "503": "The server or the model is starting or stopping; trying again helps.",
    "504": "The deadline passed.",
}


@cache
def openapi_json() -> bytes:
    """The OpenAPI 3.1 document."""
    return dumps(document())


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document, as nested dictionaries."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "convzoo",
            "version": version("convzoo"),
            "description": "Image classifiers over the native API, TensorFlow Serving's REST API "
            "and the Open Inference Protocol. The same models answer over gRPC on the other port.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [
            {"name": "images", "description": "Images in, labels out."},
            {"name": "TensorFlow Serving", "description": "Tensors in row or column form."},
            {"name": "Open Inference", "description": "Version 2, with Triton's extensions."},
            {"name": "server", "description": "Probes, metrics and this description."},
        ],
        "paths": {**_native(), **_tensorflow_serving(), **_open_inference(), **_server()},
        "components": {
            "schemas": {
                "Error": _object({"error": _TEXT}, ["error"]),
                "Classification": _CLASSIFICATION,
                "Images": _IMAGES,
                "Predict": _PREDICT,
                "Infer": _INFER,
            }
        },
    }


# --- Schemas ------------------------------------------------------------------------------------


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": properties}
    return made | ({"required": required} if required else {})


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_SCORE = _object(
    {
        "class_id": _COUNT,
        "label": _TEXT,
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
    },
    ["class_id", "label", "probability"],
)
_CLASSIFICATION = _object(
    {
        "model": _TEXT,
        "version": _COUNT,
        "request_id": _TEXT,
        "results": {"description": "For each image its best labels.", **_list(_list(_SCORE))},
        "timings": {
            "description": "Seconds: decode_s, queue_s, execute_s.",
            "type": "object",
            "additionalProperties": {"type": "number"},
        },
    },
    ["model", "version", "results"],
)
_IMAGES = _object(
    {"images": _list(_object({"b64": {"type": "string", "contentEncoding": "base64"}}, ["b64"]))},
    ["images"],
)
_PREDICT = {
    "description": "Either `instances` (one entry an image) or `inputs` (whole tensors).",
    **_object(
        {
            "signature_name": {"type": "string", "default": "serving_default"},
            "instances": {"type": "array"},
            "inputs": {},
        }
    ),
}
_INFER = _object(
    {
        "id": _TEXT,
        "inputs": _list(
            _object(
                {
                    "name": _TEXT,
                    "shape": _list(_COUNT),
                    "datatype": {"type": "string", "examples": ["FP32"]},
                    "data": {"type": "array"},
                    "parameters": _OBJECT,
                },
                ["name", "shape", "datatype"],
            )
        ),
        "outputs": _list(_object({"name": _TEXT, "parameters": _OBJECT}, ["name"])),
        "parameters": _OBJECT,
    },
    ["inputs"],
)


# --- Paths --------------------------------------------------------------------------------------


def _operation(
    tag: str,
    summary: str,
    path: str,
    *,
    body: dict[str, Any] | None = None,
    answer: dict[str, Any] | None = None,
    query: tuple[tuple[str, str, dict[str, Any]], ...] = (),
    errors: tuple[str, ...] = ("400", "404"),
) -> dict[str, Any]:
    """One method of a path; what stands in braces becomes its parameters."""
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": text,
            "schema": {"type": "integer", "minimum": 1} if name == "version" else _TEXT,
        }
        for name, text in _PARAMETERS.items()
        if f"{{{name}}}" in path
    ]
    parameters += [
        {"name": name, "in": "query", "description": text, "schema": schema}
        for name, text, schema in query
    ]
    if body is not None:
        parameters += [
            {"name": name, "in": "header", "description": text, "schema": schema}
            for name, (text, schema) in _HEADERS.items()
        ]
        errors = ("400", "404", "429", "503", "504")
    responses: dict[str, Any] = {
        "200": {"description": "The answer.", "content": answer or {JSON: {"schema": _OBJECT}}}
    }
    for code in errors:
        content = {JSON: {"schema": _ref("Error")}}
        responses[code] = {"description": _ERRORS[code], "content": content}
    operation = {
        "tags": [tag],
        "summary": summary,
        "operationId": "_".join(
            "".join(letter if letter.isalnum() else " " for letter in f"{summary} {path}").split()
        ),
        "parameters": parameters,
        "responses": responses,
    }
    return operation | ({"requestBody": {"required": True, "content": body}} if body else {})


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {JSON: {"schema": schema}}


def _native() -> dict[str, Any]:
    image = {"schema": {"type": "string", "format": "binary"}}
    parts = {
        "type": "object",
        "additionalProperties": {"type": "string", "contentMediaType": "image/*"},
    }
    body = {
        **{f"image/{kind}": image for kind in ("jpeg", "png", "webp", "bmp")},
        "multipart/form-data": {"schema": parts},
        JSON: {"schema": _ref("Images")},
    }
    query = (("top_k", "How many labels an image gets.", {"type": "integer", "default": 5}),)
    paths: dict[str, Any] = {
        path: {
            "post": _operation(
                "images",
                "Classify images",
                path,
                body=body,
                answer=_json(_ref("Classification")),
                query=query,
            )
        }
        for path in CLASSIFY_PATHS
    }
    explained = {**_json(_OBJECT), "image/png": {"schema": {"type": "string", "format": "binary"}}}
    asked = tuple(
        (name, text, _TEXT)
        for name, text in (
            ("method", "How to look; the layers say which methods there are."),
            ("layer", "Where to look."),
            ("target", "The class that is explained: its id or label."),
            ("format", "png for a picture; everything else is an option of the method."),
        )
    )
    looked = {kind: body[kind] for kind in body if kind.startswith("image/")} | _json(_OBJECT)
    for path in CLASSIFY_PATHS:
        base = path.removesuffix("/classify")
        paths[f"{base}/layers"] = {"get": _operation("images", "Layers", f"{base}/layers")}
        paths[f"{base}/explain"] = {
            "post": _operation(
                "images",
                "Explain an image",
                f"{base}/explain",
                body=looked,
                answer=explained,
                query=asked,
            )
        }
    models = _json(_object({"models": _list(_TEXT)}, ["models"]))
    paths["/api/models"] = {
        "get": _operation("images", "List models", "/api/models", answer=models, errors=())
    }
    return paths


def _tensorflow_serving() -> dict[str, Any]:
    tag, paths = "TensorFlow Serving", {}
    for where in ("", "/versions/{version}", "/labels/{label}"):
        base = f"/v1/models/{{model}}{where}"
        for verb in ("predict", "classify", "regress"):
            path = f"{base}:{verb}"
            schema = _ref("Predict") if verb == "predict" else _OBJECT
            paths[path] = {"post": _operation(tag, verb.title(), path, body=_json(schema))}
        paths[f"{base}/metadata"] = {"get": _operation(tag, "Signatures", f"{base}/metadata")}
        paths[base] = {"get": _operation(tag, "Status of the versions", base)}
    return paths


def _open_inference() -> dict[str, Any]:
    tag = "Open Inference"
    paths: dict[str, Any] = {
        "/v2": {"get": _operation(tag, "Server metadata", "/v2", errors=())},
        "/v2/health/live": {"get": _operation(tag, "Live", "/v2/health/live", errors=())},
        "/v2/health/ready": {"get": _operation(tag, "Ready", "/v2/health/ready", errors=("503",))},
        "/v2/models": {"get": _operation(tag, "Names of the models", "/v2/models", errors=())},
        "/v2/models/stats": {"get": _operation(tag, "All statistics", "/v2/models/stats")},
    }
    body = {
        JSON: {"schema": _ref("Infer")},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    for where in ("", "/versions/{version}"):
        base = f"/v2/models/{{model}}{where}"
        paths[base] = {"get": _operation(tag, "Model metadata", base)}
        paths[f"{base}/infer"] = {"post": _operation(tag, "Infer", f"{base}/infer", body=body)}
        for verb in ("ready", "config", "stats"):
            path = f"{base}/{verb}"
            paths[path] = {"get": _operation(tag, f"Model {verb}", path)}
    index = "/v2/repository/index"
    paths[index] = {"post": _operation(tag, "All versions and their states", index)}
    for verb in ("load", "unload"):
        path = f"/v2/repository/models/{{model}}/{verb}"
        paths[path] = {"post": _operation(tag, f"{verb.title()} a model", path)}
    return paths


def _server() -> dict[str, Any]:
    text = {"text/plain": {"schema": _TEXT}}
    pages = {
        "/": ("The same as /livez, for KServe's clients", {JSON: {"schema": _OBJECT}}, ()),
        "/livez": ("Whether the process is up", text, ()),
        "/healthz": ("Whether the process is up", text, ()),
        "/readyz": ("Whether requests are taken", text, ("503",)),
        "/metrics": ("Counts and times for Prometheus", text, ()),
        "/monitoring/prometheus/metrics": ("The same, where TensorFlow Serving has it", text, ()),
        "/openapi.json": ("This description", {JSON: {"schema": _OBJECT}}, ()),
        "/docs": ("This description for people", {"text/html": {"schema": _TEXT}}, ()),
    }
    return {
        path: {"get": _operation("server", summary, path, answer=answer, errors=errors)}
        for path, (summary, answer, errors) in pages.items()
    }


# A page of its own: nothing is fetched from elsewhere, so it works where there is no internet.
DOCS_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>convzoo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
        padding: 0 1rem; color: #222; background: #fff }
 @media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b }
   code, pre { background: #2a2a2a !important } }
 summary { cursor: pointer; padding: .3rem 0 } code { background: #f2f2f2; padding: .1rem .3rem }
 pre { background: #f2f2f2; padding: .7rem; overflow-x: auto }
 .method { display: inline-block; width: 3.2rem; font-weight: 600; font-size: .8rem }
 td { padding: .1rem .8rem .1rem 0; vertical-align: top }
</style></head><body><h1>convzoo</h1><p id="about">Reading /openapi.json ...</p><main></main>
<script>
 const make = (name, text) => { const node = document.createElement(name);
   if (text !== undefined) node.textContent = text; return node };
 fetch("openapi.json").then(answer => answer.json()).then(api => {
   document.querySelector("#about").textContent =
     `Version ${api.info.version}. ${api.info.description}`;
   const main = document.querySelector("main");
   for (const tag of api.tags) {
     main.append(make("h2", tag.name), make("p", tag.description));
     for (const [path, methods] of Object.entries(api.paths))
       for (const [method, operation] of Object.entries(methods)) {
         if (operation.tags[0] !== tag.name) continue;
         const details = make("details"), summary = make("summary"), verb = make("span");
         verb.className = "method"; verb.textContent = method.toUpperCase();
         summary.append(verb, make("code", path), ` ${operation.summary}`);
         const table = make("table");
         for (const each of operation.parameters) {
           const row = make("tr"), name = make("td"); name.append(make("code", each.name));
           row.append(name, make("td", each.in), make("td", each.description)); table.append(row);
         }
         for (const [code, each] of Object.entries(operation.responses)) {
           const row = make("tr"), name = make("td"); name.append(make("code", code));
           row.append(name, make("td", "answer"), make("td", each.description)); table.append(row);
         }
         details.append(summary, table);
         if (operation.requestBody)
           details.append(make("p", "Body: " + Object.keys(operation.requestBody.content).join(", ")));
         main.append(details);
       }
   }
   const schemas = make("details");
   schemas.append(make("summary", "Schemas"),
     make("pre", JSON.stringify(api.components.schemas, null, 1)));
   main.append(schemas);
 });
</script></body></html>
"""
