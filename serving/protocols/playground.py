"""The playground's files, and the headers that keep them to themselves."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from serving.errors import UnsupportedError
from serving.protocols.tfs_rest import JSON
from serving.transport import HttpRequest, HttpResponse
from serving.wire.tfs_json import encode_error

PATH = "/playground"
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}
# Everything comes from this server; pictures may also be what the page itself made.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("permissions-policy", "camera=(self), microphone=(), geolocation=()"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-cache"),
)
# Two packages carry the page: the trace is also what the command line writes.
FOLDERS = (("serving.playground", ""), ("zoo.explain", "page"))


@cache
def pages() -> Mapping[str, tuple[bytes, str, str]]:
    """The files by name: bytes, content type, entity tag."""
    found = {}
    for package, folder in FOLDERS:
        place = files(package)
        for entry in (place / folder if folder else place).iterdir():
            ending = entry.name.rpartition(".")[2]
            if entry.is_file() and ending in TYPES:
                body = entry.read_bytes()
                tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
                found[entry.name] = (body, TYPES[ending], tag)
    return found


async def handle(request: HttpRequest, deadline: float | None) -> HttpResponse:
    """One file of the playground; `/playground` itself leads to `/playground/`."""
    del deadline  # a file is there at once
    if request.method != "GET":
        raise UnsupportedError(f"{request.method} {PATH}: GET and HEAD work.")
    if request.path == PATH:
        return HttpResponse(308, (("location", f"{PATH}/"), *HEADERS))
    name = request.path.removeprefix(f"{PATH}/") or "index.html"
    if name not in pages():
        return HttpResponse(404, JSON, encode_error(f"The playground has no file {name[:80]!r}."))
    body, kind, tag = pages()[name]
    headers = (("content-type", kind), ("etag", tag), *HEADERS)
    if request.headers.get("if-none-match") == tag:
        return HttpResponse(304, headers)
    return HttpResponse(200, headers, body)
