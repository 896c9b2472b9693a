"""Who the server is and who is asking: TLS, certificates, tokens, keys, headers of one's own."""

import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from serving.client import Client, Retries, Tls
from serving.client.errors import TransportError, UsageError

ONCE = Retries(attempts=1)


class Noting(BaseHTTPRequestHandler):
    """Answers everything and notes the headers that came."""

    seen: list

    def do_GET(self):
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        body = b'{"model_version_status": []}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Quiet(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A handshake that a client refuses is what these tests are for."""


def http_server(context=None):
    kind = type("Fresh", (Noting,), {"seen": []})
    server = Quiet(("127.0.0.1", 0), kind)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def stop():
        server.shutdown()
        thread.join()
        server.server_close()

    return server.server_port, kind.seen, stop


def grpc_server(credentials=None):
    seen = []

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            def answer(request, context):
                seen.append(dict(details.invocation_metadata))
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(2), [Handler()])
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return port, seen, lambda: server.stop(None).wait()


@pytest.fixture(params=["https", "grpcs"])
def guarded(request, certificates):
    """A server that asks for a certificate of its authority, by its URL."""
    files = [certificates / name for name in ("server.pem", "server.key", "ca.pem")]
    if request.param == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files[:2])
        context.load_verify_locations(files[2])
        context.verify_mode = ssl.CERT_REQUIRED
        port, _, stop = http_server(context)
    else:
        chain, key, ca = (file.read_bytes() for file in files)
        port, _, stop = grpc_server(
            grpc.ssl_server_credentials([(key, chain)], ca, require_client_auth=True)
        )
    yield f"{request.param}://127.0.0.1:{port}"
    stop()


def test_both_sides_prove_who_they_are(guarded, certificates):
    tls = Tls(
        ca=certificates / "ca.pem",
        certificate=certificates / "client.pem",
        key=certificates / "client.key",
        server_name="model.test",
    )
    with Client(guarded, protocol="tfs", tls=tls, timeout_s=5) as client:
        assert client.status("m").versions == ()


@pytest.mark.parametrize("change", ["authority", "name", "certificate"])
def test_nobody_else_is_believed(guarded, certificates, change):
    ours = {"certificate": certificates / "client.pem", "key": certificates / "client.key"}
    tls = Tls(
        ca=certificates / ("other.pem" if change == "authority" else "ca.pem"),
        server_name="other.test" if change == "name" else "model.test",
        **({} if change == "certificate" else ours),
    )
    with (
        Client(guarded, protocol="tfs", tls=tls, timeout_s=5, retries=ONCE) as client,
        pytest.raises(TransportError) as refused,
    ):
        client.status("m")
    if change != "certificate":  # what a server that sends us away says is its own affair
        assert "certificate is not believed" in str(refused.value)
        assert "Tls(ca=" in str(refused.value)


@pytest.mark.parametrize("url", ["https://host", "grpcs://host"])
def test_files_that_are_none_are_told_before_anything_is_sent(certificates, url):
    with pytest.raises(UsageError, match=r"ca file .*nowhere\.pem.* is not there"):
        Client(url, tls=Tls(ca="nowhere.pem"))
    mixed = Tls(certificate=certificates / "client.pem", key=certificates / "server.key")
    with pytest.raises(UsageError, match="no certificate with its key"):
        Client(url, tls=mixed)
    with pytest.raises(UsageError, match="no PEM"):
        Client(url, tls=Tls(ca=certificates / "ca.key"))
    with pytest.raises(ValueError, match="come together"):
        Tls(key=certificates / "client.key")


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_every_call_says_who_is_asking(kind):
    port, seen, stop = http_server() if kind == "http" else grpc_server()
    turns = iter(range(9))
    try:
        with Client(
            f"{kind}://127.0.0.1:{port}",
            protocol="tfs",
            token="t0ken",  # noqa: S106 - a test's
            api_key="k3y",
            headers=lambda: {"Traceparent": f"00-{next(turns)}"},
        ) as client:
            client.status("m")
            client.status("m")
        with Client(
            f"{kind}://127.0.0.1:{port}", protocol="tfs", headers={"X-Team": "a"}
        ) as client:
            client.status("m")
    finally:
        stop()
    assert seen[0]["authorization"] == "Bearer t0ken"
    assert seen[0]["x-api-key"] == "k3y"
    assert [each.get("traceparent") for each in seen] == ["00-0", "00-1", None]
    assert seen[2]["x-team"] == "a"
    assert len({each["x-request-id"] for each in seen}) == 3
    if kind == "http":
        assert 0 < float(seen[0]["x-request-timeout-s"]) <= 60


def test_calls_belong_to_the_trace_that_the_program_is_in():
    """In a process of its own: OpenTelemetry's presence is what is tested."""
    pytest.importorskip("opentelemetry.propagate", reason="needs opentelemetry-api")
    port, seen, stop = http_server()
    code = f"""
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from serving.client import Client
span = NonRecordingSpan(SpanContext(0xA, 0xB, is_remote=False, trace_flags=TraceFlags(1)))
with Client("http://127.0.0.1:{port}", protocol="tfs", token="t") as client:
    with trace.use_span(span):
        client.status("m")
"""
    try:
        subprocess.run([sys.executable, "-c", code], check=True)
    finally:
        stop()
    assert seen[0]["traceparent"] == f"00-{0xA:032x}-{0xB:016x}-01"
    assert seen[0]["authorization"] == "Bearer t"
