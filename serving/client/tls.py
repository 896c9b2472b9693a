"""TLS contexts for HTTP and credentials for gRPC, made from the same settings."""

import re
import ssl
from pathlib import Path
from typing import Any

from serving.client.errors import UsageError
from serving.client.settings import Tls


def context(tls: Tls) -> ssl.SSLContext:
    """Returns a context that verifies the server, by the system's authorities or `tls.ca`.

    Raises:
        UsageError: a file that cannot be read or is not PEM.
    """
    made = ssl.create_default_context()
    if tls.ca is not None:
        ca = _existing(tls.ca, "ca")
        try:
            made = ssl.create_default_context(cafile=ca)
        except ssl.SSLError as error:
            raise UsageError(f"The ca file {ca!r} is no PEM file with certificates.") from error
    made.set_alpn_protocols(["http/1.1"])
    if tls.certificate is not None and tls.key is not None:
        certificate = _existing(tls.certificate, "certificate")
        key = _existing(tls.key, "key")
        try:
            made.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise UsageError(
                f"{certificate!r} and {key!r} are no certificate with its key: {error.reason}."
            ) from error
    return made


def check(tls: Tls) -> None:
    """Looks at the files, of which gRPC itself says only that there is no connection.

    Raises:
        UsageError: one that cannot be read or is not PEM.
    """
    if tls.ca is not None or tls.certificate is not None:
        context(tls)


def credentials(tls: Tls) -> Any:
    """Returns gRPC channel credentials.

    Raises:
        UsageError: a file that cannot be read.
    """
    import grpc

    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca, "ca"),
        private_key=_read(tls.key, "key"),
        certificate_chain=_read(tls.certificate, "certificate"),
    )


# What OpenSSL and gRPC say when it is the certificate that is wrong.
_UNTRUSTED = re.compile(r"certificate|ssl_error_ssl|verification", re.IGNORECASE)


def hint(words: str, protocol: str, *, is_encrypted: bool) -> str:
    """What to try when there was no connection.

    Args:
        words: What the connection failed with.
        protocol: "REST" or "gRPC".
        is_encrypted: Whether TLS was tried.
    """
    if is_encrypted and _UNTRUSTED.search(words):
        return (
            "The server's certificate is not believed: name its authority with Tls(ca=...), and "
            "its name with Tls(server_name=...) where the URL has another."
        )
    spoken = ", and does it speak TLS" if is_encrypted else ""
    return f"Is the server running, and is this its {protocol} port{spoken}?"


def _existing(path: Path, what: str) -> str:
    if not path.is_file():
        raise UsageError(f"The {what} file {str(path)!r} is not there.")
    return str(path)


def _read(path: Path | None, what: str) -> bytes | None:
    return None if path is None else Path(_existing(path, what)).read_bytes()
