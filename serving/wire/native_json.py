"""The native image API's JSON: images in, labels out, both directions.

    POST /api/models/{model}[/versions/N|/labels/L]/classify?top_k=5

The body is one raw image, several in multipart/form-data, or `{"images": [{"b64": "..."}]}`.
"""

import base64
from typing import Any

from serving.errors import InvalidRequestError
from serving.messages import ClassifyImagesReply, LabelScore, Timings
from serving.wire import multipart
from serving.wire.tfs_json import dumps, known_of, loads, read_base64


def decode_images(body: bytes, content_type: str) -> tuple[bytes, ...]:
    """Server: the images of a request, as they arrived.

    Args:
        body: The request's body.
        content_type: Its Content-Type; JSON and multipart are read, all else is one image.

    Raises:
        InvalidRequestError: there is no image, or JSON or multipart is not what it should be.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return _decode_json(body)
    if kind == "multipart/form-data":
        return multipart.decode_files(body, content_type)
    if not body:
        raise InvalidRequestError("The body is empty; send an image.", field="images")
    return (body,)


def _decode_json(body: bytes) -> tuple[bytes, ...]:
    document = loads(body)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise InvalidRequestError('JSON Value: expected {"images": [{"b64": "..."}]}.')
    return tuple(read_image(image, f"images[{index}]") for index, image in enumerate(images))


def read_image(image: Any, name: str) -> bytes:
    """Server: the bytes of an image in JSON, `{"b64": "..."}`.

    A page has its images as data URLs (RFC 2397); what stands before their base64 is skipped.

    Raises:
        InvalidRequestError: it is none; `name` says where.
    """
    text = image.get("b64") if isinstance(image, dict) else None
    if not isinstance(text, str):
        raise InvalidRequestError(f'{name} is no {{"b64": "..."}}.', field=name)
    if text.startswith("data:"):
        text = text.partition(",")[2]
    return read_base64(text, name)


def encode_images(images: tuple[bytes, ...]) -> tuple[bytes, str]:
    """Client: a body and its Content-Type; one image goes as it is."""
    if len(images) == 1:
        return images[0], "application/octet-stream"
    listed = [{"b64": base64.b64encode(image).decode()} for image in images]
    return dumps({"images": listed}), "application/json"


def encode_reply(reply: ClassifyImagesReply) -> bytes:
    """Server: labels, best first, with the version that answered and where the time went."""
    return dumps(
        {
            "model": reply.model,
            "version": reply.version,
            "request_id": reply.request_id,
            "results": [
                [
                    {
                        "class_id": score.class_id,
                        "label": score.label,
                        "probability": score.probability,
                    }
                    for score in row
                ]
                for row in reply.results
            ],
            "timings": {
                "decode_s": round(reply.timings.decode_s, 6),
                "queue_s": round(reply.timings.queue_s, 6),
                "execute_s": round(reply.timings.execute_s, 6),
            },
        }
    )


def encode_models(models: tuple[str, ...]) -> bytes:
    """Server: the names of all models."""
    return dumps({"models": list(models)})


def decode_models(body: bytes) -> tuple[str, ...]:
    """Client: the names of all models."""
    document: Any = loads(body)
    try:
        return tuple(str(name) for name in document["models"])
    except (KeyError, TypeError) as error:
        raise InvalidRequestError(f"The answer is no list of models: {error}") from error


def decode_reply(body: bytes) -> ClassifyImagesReply:
    """Client: the reply.

    Raises:
        InvalidRequestError: it is none.
    """
    document: Any = loads(body)
    try:
        return ClassifyImagesReply(
            model=document["model"],
            version=int(document["version"]),
            request_id=document["request_id"],
            results=tuple(
                tuple(
                    LabelScore(int(each["class_id"]), each["label"], float(each["probability"]))
                    for each in row
                )
                for row in document["results"]
            ),
            timings=known_of(Timings, document["timings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError(f"The answer is no classification: {error}") from error
