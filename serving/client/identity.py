"""Who is asking, and for what trace: the headers that go with every request."""

import sys
from collections.abc import Callable, Mapping

from serving.client.exchange import Headers

GivenHeaders = Mapping[str, str] | Callable[[], Mapping[str, str]] | None


def headers_of(
    token: str | None, api_key: str | None, given: GivenHeaders
) -> Callable[[], Headers]:
    """What gives the headers of each request; names in lower case, since gRPC takes no others.

    Args:
        token: Sent as a bearer token.
        api_key: Sent as x-api-key.
        given: The user's own; they win over the rest.
    """
    fixed: dict[str, str] = {}
    if token is not None:
        fixed["authorization"] = f"Bearer {token}"
    if api_key is not None:
        fixed["x-api-key"] = api_key
    if given is not None and not callable(given):
        fixed |= {name.lower(): value for name, value in given.items()}
    always = tuple(fixed.items())

    def headers() -> Headers:
        traced = _trace_context()
        if not callable(given) and not traced:
            return always
        own = given() if callable(given) else {}
        found = traced | fixed | {name.lower(): value for name, value in own.items()}
        return tuple(found.items())

    return headers


def _trace_context() -> dict[str, str]:
    """The trace that the program is in, where it has loaded OpenTelemetry."""
    carrier: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate

        propagate.inject(carrier)
    return carrier
