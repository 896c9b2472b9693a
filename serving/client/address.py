"""Where a server is and which way it is spoken to, read from one URL."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from serving.client.errors import UsageError

Protocol = Literal["auto", "native", "oip", "tfs"]
PROTOCOLS: tuple[Protocol, ...] = ("auto", "native", "oip", "tfs")

# http and https as everywhere; gRPC without TLS on the port TF Serving and convzoo listen on.
DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 8500, "grpcs": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """One server.

    Attributes:
        url: As the user wrote it, without user information; for messages.
        scheme: "http", "https", "grpc" or "grpcs".
        host: A name or an IP address, without brackets.
        port: A TCP port.
        prefix: The path before all others, e.g. "/models-team"; never ends in "/". HTTP only.
    """

    url: str
    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def is_grpc(self) -> bool:
        """Whether gRPC is spoken here, HTTP otherwise."""
        return self.scheme.startswith("grpc")

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is TLS."""
        return self.scheme.endswith("s")

    @property
    def authority(self) -> str:
        """Host and port as one text, IPv6 addresses in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse(url: str) -> Address:
    """Reads `http(s)://host[:port][/prefix]` or `grpc(s)://host[:port]`.

    Raises:
        UsageError: it is neither.
    """
    wanted = "Use http://, https://, grpc:// or grpcs://, e.g. grpc://localhost:8500."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not a URL: {error}. {wanted}") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise UsageError(f"{url!r} has no scheme that this client speaks. {wanted}")
    if not parts.hostname:
        raise UsageError(f"{url!r} names no host. {wanted}")
    if port == 0:
        raise UsageError(f"{url!r} names port 0, where no server can be. {wanted}")
    if parts.username or parts.password:
        raise UsageError(
            f"The URL of {parts.hostname!r} carries a user name or password; "
            "URLs end in logs, so pass token=... or api_key=... instead."
        )
    if parts.query or parts.fragment:
        raise UsageError(f"{url!r} carries a query or fragment, which have no meaning here.")
    prefix = parts.path.rstrip("/")
    if prefix and parts.scheme.startswith("grpc"):
        raise UsageError(f"{url!r} has a path, which gRPC has no place for. {wanted}")
    return Address(
        url=url,
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or DEFAULT_PORTS[parts.scheme],
        prefix=prefix,
    )
