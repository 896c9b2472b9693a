"""An S3 server for tests: moto behind werkzeug, one request at a time, as S3 orders its own.

`make registries` installs it. `python -m tests.s3 PORT [careless]`; a careless one does not keep
If-None-Match, as some stores that call themselves compatible do not.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time

SECRET = "nobody-should-read-this"  # noqa: S105 - of a server that lives as long as a test
BUCKET = "bucket"


def environment(port: int) -> dict[str, str]:
    """What tells s3fs where the server is."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextlib.contextmanager
def connected(port: int):
    """Lets s3fs find a server; it remembers its connections, so that they are forgotten twice."""
    import pytest
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(port).items():
            patch.setenv(name, value)
        yield patch
    s3fs.S3FileSystem.clear_instance_cache()


@contextlib.contextmanager
def s3_server(*args: str):
    """Starts one with a bucket and yields its port."""
    import boto3

    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.s3", str(port), *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        raise
                    time.sleep(0.05)
            given = environment(port)
            client = boto3.client(
                "s3",
                endpoint_url=given["AWS_ENDPOINT_URL"],
                aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=SECRET,
                region_name="us-east-1",
            )
            client.create_bucket(Bucket=BUCKET)
            yield port
        finally:
            process.terminate()
            process.wait(20)


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    app = DomainDispatcherApplication(create_backend_app)

    def careless(environ, start_response):
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return app(environ, start_response)

    chosen = careless if "careless" in sys.argv else app
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "x")
    run_simple("127.0.0.1", int(sys.argv[1]), chosen, threaded=False)


if __name__ == "__main__":
    main()
