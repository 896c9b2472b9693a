"""`convzoo predict` against a real server."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from serving.client.cli import predict
from serving.client.errors import ModelNotFoundError, TransportError
from tests.zoo.test_preprocess import encoded

pytestmark = pytest.mark.openvino

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


def test_a_folder_is_shown_as_a_table_with_bars(run, images):
    told = run("tiny", images)
    assert told.exit_code == 0
    assert told.stdout.count("bee") == 3
    assert "█" in told.stdout
    assert told.stderr == ""


def test_patterns_choose_files(run, images):
    told = run("tiny", images / "**" / "*.png", "--json", "--top-k", "1")
    documents = json.loads(told.stdout)
    assert [each["image"].rpartition("/")[2] for each in documents] == ["a.png", "c.png"]
    assert [each["scores"][0]["label"] for each in documents] == ["bee", "bee"]
    assert len(documents[0]["scores"]) == 1


def test_standard_input_is_an_image(run):
    told = run("tiny", "-", "--json", "--label", "stable", input=PNG)
    assert json.loads(told.stdout)[0]["version"] == 1


def test_an_image_that_is_none_is_told_and_the_rest_is_answered(run, images):
    told = run("tiny", images / "a.png", images / "notes.txt", images / "no.png", images / "b.PNG")
    assert told.exit_code == 3
    assert told.stdout.count("bee") == 2
    assert told.stderr.count("error: ") == 2
    assert "Cannot read the image" in told.stderr


def test_other_failures_end_the_command_with_their_code(run, images):
    lost = run("huge", images)
    assert isinstance(lost.exception, ModelNotFoundError)
    assert lost.exception.exit_code == 13
    gone = run("tiny", images, "--url", "http://127.0.0.1:9", "--timeout-s", "1")
    assert isinstance(gone.exception, TransportError)
    assert gone.exception.exit_code == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("nothing-*.png",), "No file matches"), (("deep/empty",), "There is no image in")],
)
def test_nothing_to_look_at_is_told(run, images, arguments, words):
    (images / "deep" / "empty").mkdir()
    told = run("tiny", *(images / each for each in arguments))
    assert told.exit_code == 2
    assert words in told.stderr
