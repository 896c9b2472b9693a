"""Files in multipart/form-data: what is read, what is refused, and that neither takes long."""

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequestError, LimitExceededError
from serving.limits import LIMITS
from serving.wire import native_json

FORM = "multipart/form-data; boundary=BB"
FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"'
# Line ends, hyphens and blank lines within a file are the file's.
IMAGE = b"\x89PNG\r\n\x1a\n\x00--BB\r\n\r\n--\n\n"


def decode(body, content_type=FORM):
    return native_json.decode_images(body, content_type)


def form(head=FILE, boundary=b"BB", end=b"\r\n"):
    return b"".join((b"--", boundary, end, head, end, end, IMAGE, end, b"--", boundary, b"--", end))


@pytest.mark.parametrize(
    "parameters",
    [
        "; boundary=BB",
        ";boundary=BB",
        '; boundary="BB"',
        '; boundary="BB',
        '; boundary="B\\B"',
        "; Boundary=BB",
        "; boundary = BB",
        "; boundary=BB;",
        "; boundary=BB ; x=y",
        "; boundary=BB; boundary=CC",
        "; boundary*=utf-8''B%42",
        "; charset=utf-8; boundary=BB",
        '; charset="a;b"; boundary="BB "',
    ],
)
def test_a_boundary_is_found_however_it_is_written(parameters):
    assert decode(form(), f"multipart/form-data{parameters}") == (IMAGE,)


def test_a_boundary_may_have_every_sign_that_is_allowed():
    boundary = "=_B'()+_,-./:=? Z"
    body = form(boundary=boundary.encode())
    assert decode(body, f'multipart/form-data; boundary="{boundary}"') == (IMAGE,)


@pytest.mark.parametrize(
    "head",
    [
        FILE.lower(),
        FILE.upper(),
        b"Content-Disposition: form-data; name=f; filename=a.png",
        b'Content-Disposition:form-data;name="f";filename="a;b.png"',
        b'Content-Disposition : form-data; name="f"; filename="a"',
        b"Content-Disposition: form-data; name=\"f\"; filename*=UTF-8''a%20b.png",
        b'Content-Disposition: form-data; name="f"; filename="a\\"b.png"',
        b'Content-Disposition: form-data; name="f"; filename="C:\\a\\"',
        b'Content-Disposition: form-data; name="f"; filename="\xc3\xa9.png"',
        b'Content-Disposition: form-data; name="f"; filename="\xe9.png"',
        b'Content-Disposition: form-data; name="f"; filename=""',
        b'Content-Disposition: form-data; name="f"\r\n ; filename="a"',
        b'Content-Disposition: attachment; filename="a"',
        b'Content-Disposition: form-data; name="f"\r\nContent-Type: IMAGE/PNG; charset=binary',
        b'Content-Type: application/octet-stream\r\nContent-Disposition: form-data; name="f"',
        FILE + b"\r\nContent-Type: text/plain",
        FILE + b"\r\nContent-Transfer-Encoding: binary",
        FILE + b"\r\nContent-Length: 5",
        FILE + b"\r\nno field",
        b"X: y",
    ],
)
def test_a_file_is_found_however_its_head_is_written(head):
    assert decode(form(head)) == (IMAGE,)


@pytest.mark.parametrize(
    "body",
    [
        form(end=b"\n"),
        b"preamble\r\n" + form() + b"epilogue\r\n--BB\r\n\r\nx",
        form().replace(b"--BB\r\n", b"--BB \t\r\n", 1),
        form().removesuffix(b"\r\n"),
        form().removesuffix(b"--\r\n"),
        form().removesuffix(b"\r\n--BB--\r\n"),
        b"--BB\r\n\r\n" + IMAGE + b"\r\n--BB--",
        form().replace(b"--BB--\r\n", b"--BB\r\n" + FILE + b"\r\n\r\n\r\n--BB--"),
    ],
    ids=["LF", "around", "padding", "no end", "open", "cut", "no head", "an empty file"],
)
def test_a_file_is_found_however_its_lines_are_written(body):
    assert decode(body) == (IMAGE,)


def test_files_that_are_written_as_text_are_read():
    head = FILE + b"\r\nContent-Transfer-Encoding: "
    for coding, text in (
        (b"base64", b"AAEC"),
        (b"Quoted-Printable", b"=00=01=\r\n=02"),
    ):
        body = form(head + coding).replace(IMAGE, text)
        assert decode(body) == (b"\0\1\2",)
    with pytest.raises(InvalidRequestError, match="Part 0 of the multipart body is no base64"):
        decode(form(head + b"base64").replace(IMAGE, b"A"))


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4))
def test_files_come_back_as_they_were(files):
    parts = b"".join(b"--B9b7\r\n" + FILE + b"\r\n\r\n" + file + b"\r\n" for file in files)
    assert decode(parts + b"--B9b7--\r\n", "multipart/form-data; boundary=B9b7") == tuple(files)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "has no parts; is its boundary right"),
        (b"--CC\r\n\r\nx\r\n--CC--", "has no parts"),
        (b"--BB--\r\n", "has no parts"),
        (b"--BB\r\nContent-Disposition: form-data\r\n--BB--", "Part 0 .* no blank line"),
        (b"--BB\r\n" + b"a: b\r\n" * 9000 + b"\r\nx", "Part 0 .* no blank line"),
        (form(b"Content-Type: Multipart/Mixed; boundary=C"), "Part 0 .* is multipart/mixed itself"),
        (b"--BBx\n" * 9000, "boundary in its parts"),
    ],
)
def test_what_has_no_files_is_refused(body, words):
    with pytest.raises(InvalidRequestError, match=words):
        decode(body)


def test_a_body_without_a_boundary_has_no_parts():
    with pytest.raises(InvalidRequestError, match="has no parts"):
        decode(form(), "multipart/form-data")


def test_a_field_that_is_no_file_is_named():
    body = form().replace(
        b"--BB--", b'--BB\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--BB--'
    )
    with pytest.raises(InvalidRequestError, match=r"field 'top_k' is no file.*\?top_k=") as caught:
        decode(body)
    assert caught.value.field == "top_k"


def test_more_parts_than_images_are_taken_are_not_looked_at():
    part = b"--BB\r\n" + FILE + b"\r\n\r\nx\r\n"
    assert len(decode(part * LIMITS.images + b"--BB--")) == LIMITS.images
    with pytest.raises(LimitExceededError, match="more than 256 parts"):
        decode(part * (LIMITS.images + 1) + b"--BB--")


@pytest.mark.parametrize(
    "body",
    [
        b"--BB\r\n\r\nx\r\n" * 45_000 + b"--BB--\r\n",
        b"--BB\r\n\r\n" + b"\n" * (4 << 20) + b"\r\n--BB--\r\n",
        b"\n".join(b"--BB\nContent-Type: multipart/mixed; boundary=BB\n" for _ in range(3000)),
        b"--BBx\n" * (1 << 20),
        (b"--BB\r\nContent-Disposition: " + b';a="\\' * 1500 + b"\r\n\r\nx\r\n") * 255,
        (b"--BB\r\nContent-Disposition: ; a" + b" " * 8000 + b"\r\n\r\nx\r\n") * 255,
    ],
    ids=["parts", "lines", "nested", "false delimiters", "parameters", "blanks"],
)
def test_no_body_holds_up_the_server(body):
    start = time.process_time()
    with suppress(InvalidRequestError):
        decode(body)
    assert time.process_time() - start < 1.0
