"""`convzoo predict` against a real server."""

import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from click.testing import CliRunner

from serving.client import errors
from serving.client.cli import HELP, predict
from tests.e2e.conftest import serve
from tests.serving.published import publish_tiny
from tests.zoo.test_preprocess import encoded

served = pytest.mark.openvino

PNG = encoded(np.array([[0, 255], [100, 0]], np.uint8))


@pytest.fixture
def images(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "b.PNG", "deep/c.png"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.fixture
def run(tiny_server):
    def invoke(*arguments, **options):
        at = () if "--url" in arguments else ("--url", tiny_server.url)
        return CliRunner().invoke(predict, [*map(str, arguments), *at], **options)

    return invoke


@served
def test_a_folder_is_shown_as_a_table_with_bars(run, images):
    told = run("tiny", images)
    assert told.exit_code == 0
    assert told.stdout.count("bee") == 3
    assert "█" in told.stdout
    assert told.stderr == ""


@served
def test_patterns_choose_files(run, images):
    told = run("tiny", images / "**" / "*.png", "--json", "--top-k", "1")
    documents = json.loads(told.stdout)
    assert [each["image"].rpartition("/")[2] for each in documents] == ["a.png", "c.png"]
    assert [each["scores"][0]["label"] for each in documents] == ["bee", "bee"]
    assert len(documents[0]["scores"]) == 1


@served
def test_standard_input_is_an_image(run):
    told = run("tiny", "-", "--json", "--label", "stable", input=PNG)
    assert json.loads(told.stdout)[0]["version"] == 1


@served
def test_a_server_that_is_still_starting_is_waited_for(images, tmp_path):
    """As `convzoo serve ... & convzoo predict ...` has it, typed in one go."""
    publish_tiny(tmp_path / "models")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    asked = ["tiny", str(images / "a.png"), "--url", f"http://127.0.0.1:{port}", "--wait-s"]
    assert CliRunner().invoke(predict, [*asked, "0"]).exit_code == errors.TransportError.exit_code
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(CliRunner().invoke, predict, [*asked, "60"])
        with serve(tmp_path / "models", tmp_path, "--rest-port", str(port)):
            told = waiting.result()
    assert told.exit_code == 0, told.output
    assert "bee" in told.stdout


def test_a_server_that_does_not_come_is_told_after_the_wait(images):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    told = CliRunner().invoke(
        predict, ["tiny", str(images / "a.png"), "--url", url, "--wait-s", "0.2"]
    )
    assert told.exit_code == errors.DeadlineError.exit_code
    assert told.stderr.startswith("error: ")


@served
def test_an_image_that_is_none_is_told_and_the_rest_is_answered(run, images):
    told = run("tiny", images / "a.png", images / "notes.txt", images / "no.png", images / "b.PNG")
    assert told.exit_code == 3
    assert told.stdout.count("bee") == 2
    assert told.stderr.count("error: ") == 2
    assert "Cannot read the image" in told.stderr


@served
def test_other_failures_end_the_command_with_their_code(run, images):
    lost = run("huge", images)
    assert lost.exit_code == 13
    assert "this server has tiny" in lost.stderr
    unlabelled = run("tiny", images, "--label", "q")
    assert (unlabelled.exit_code, unlabelled.stderr.count("error: ")) == (13, 1)
    gone = run("tiny", images, "--url", "http://127.0.0.1:9", "--timeout-s", "1")
    assert gone.exit_code == 10
    assert gone.stderr.count("error: ") == 1
    assert (lost.stdout, gone.stdout) == ("", "")


def test_a_version_and_a_label_exclude_each_other():
    told = CliRunner().invoke(predict, ["m", "a.png", "--version", "1", "--label", "stable"])
    assert told.exit_code == 2
    assert "--version and --label exclude each other" in told.stderr


@served
@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("nothing-*.png",), "No file matches"), (("deep/empty",), "There is no image in")],
)
def test_nothing_to_look_at_is_told(run, images, arguments, words):
    (images / "deep" / "empty").mkdir()
    told = run("tiny", *(images / each for each in arguments))
    assert told.exit_code == 2
    assert words in told.stderr


class Refusing(BaseHTTPRequestHandler):
    """Answers the first image, and everything after it with one status."""

    status = 200
    asked = 0
    rows = 1
    model, label = "m", "ant"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        type(self).asked += 1
        results = [[{"class_id": 0, "label": self.label, "probability": 1.0}]] * self.rows
        document = {"model": self.model, "version": 1, "request_id": "", "results": results}
        document["timings"] = {}
        status = 200 if self.asked == 1 else self.status
        self.answer(status, document if status == 200 else {"error": "so it is"})

    def do_GET(self):
        self.answer(200, {"name": "convzoo"})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def answering(**facts):
    """A server of that kind, and its URL."""
    kind = type("Fresh", (Refusing,), {"asked": 0, **facts})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        kind.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield kind
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, 3),
        (503, 14),
        (504, 11),
        (429, 12),
        (404, 13),
        (401, 15),
        (403, 15),
        (501, 16),
        (500, 17),
    ],
)
def test_each_kind_of_failure_has_its_code(tmp_path, status, code):
    (tmp_path / "00.png").write_bytes(PNG)
    with answering(status=status) as server:
        arguments = ["m", str(tmp_path / "00.png"), "--url", server.url, "--json"]
        alone = CliRunner().invoke(predict, arguments)
        server.asked = 1
        told = CliRunner().invoke(predict, arguments)
    assert (alone.exit_code, json.loads(alone.stdout)[0]["scores"][0]["label"]) == (0, "ant")
    assert told.exit_code == code
    assert told.stderr.endswith("so it is\n")


def test_the_exit_codes_of_the_help_are_those_of_the_errors():
    listed = {int(code) for code in re.findall(r"(?:^|  )\s*(\d+)  \w", HELP, re.MULTILINE)}
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    tree = {each.exit_code for each in kinds if issubclass(each, errors.ClientError)}
    assert listed == tree - {errors.ClientError.exit_code}
    assert (
        "\n  convzoo predict lenet5 digit.png\n" in CliRunner().invoke(predict, ["--help"]).output
    )


def test_what_was_answered_before_a_failure_is_shown(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.png").write_bytes(PNG)
    with answering(status=500, rows=8) as server:
        told = CliRunner().invoke(
            predict, ["m", str(tmp_path), "--url", server.url, "--json", "--concurrency", "1"]
        )
    assert told.exit_code == 17
    assert [each["image"][-6:] for each in json.loads(told.stdout)] == [
        f"{number:02}.png" for number in range(8)
    ]
    assert told.stderr.count("error: ") == 1
    assert told.stderr == "error: so it is\n"


def test_names_and_labels_with_brackets_are_shown_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    names = ["[x].png", "a[/b].png", ":cat:.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    with answering(rows=3, model="[bold]m[/b]", label="[red]ant[/]") as server:
        told = CliRunner().invoke(predict, ["m", *names, "--url", server.url])
    assert told.exit_code == 0, told.output
    assert all(name in told.stdout for name in [*names, "[bold]m[/b] version 1"])
    assert told.stdout.count("[red]ant[/]") == 3


def test_a_url_and_a_name_that_is_too_long_are_told_as_images(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    wrong = ["https://host/a.png?size=2", "n" * 300 + ".png", "n" * 300 + "*"]
    with answering() as server:
        arguments = ["m", *wrong[:2], str(tmp_path / "a.png"), "--url", server.url]
        told = CliRunner().invoke(predict, arguments)
        none = CliRunner().invoke(predict, ["m", wrong[2], "--url", server.url])
    assert told.exit_code == 3
    assert told.stdout.count("ant") == 1
    url, long, nothing = told.stderr.split("\n")
    assert url.startswith("error: https://host/a.png?size=2: 'https://host/a.png?size=2' is a URL")
    assert "Cannot read the image 'nnn" in long
    assert "File name too long" in long
    assert nothing == ""
    assert (none.exit_code, "No file matches" in none.stderr) == (2, True)


def test_a_folder_with_the_name_of_an_image_is_none(tmp_path):
    (tmp_path / "b.png").mkdir()
    (tmp_path / "b.png" / "c.png").write_bytes(PNG)
    with answering() as server:
        for argument in (tmp_path, tmp_path / "**" / "*.png"):
            told = CliRunner().invoke(predict, ["m", str(argument), "--url", server.url, "--json"])
            assert (told.exit_code, told.stderr) == (0, "")
            assert [each["image"] for each in json.loads(told.stdout)] == [
                str(tmp_path / "b.png" / "c.png")
            ]
