"""A real server with a pod's arguments, its probes, and a real Prometheus with the dashboard's panels."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
import yaml

from tests.e2e.conftest import serve
from tests.serving.published import publish_tiny
from tests.test_deploy import DEPLOY, container

pytestmark = [pytest.mark.e2e, pytest.mark.openvino]

# What a test sets itself: the folder, and an address that no other test has.
OWN = ("--base-path=", "--host=")


@pytest.fixture(scope="module")
def pod(tmp_path_factory):
    place = tmp_path_factory.mktemp("pod")
    publish_tiny(place / "models")
    arguments = [each for each in container()["args"][1:] if not each.startswith(OWN)]
    with serve(place / "models", place, *arguments) as server:
        yield server


def status_of(url, body=None):
    try:
        with urllib.request.urlopen(url, body, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_pods_server_answers_its_probes(pod):
    one = container()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = one[probe]["httpGet"]
        assert asked["port"] == "http"
        assert status_of(pod.url + asked["path"]) == 200
    assert json.loads(pod.log.read_text().splitlines()[0])


def ask(url, query):
    asked = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"{url}/api/v1/query?{asked}", timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def test_every_panel_shows_something(pod, tmp_path):
    if (program := shutil.which("prometheus")) is None:
        pytest.skip("prometheus is not here; Debian's is `apt-get install prometheus`")
    settings = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    settings["global"]["scrape_interval"] = "1s"
    settings["scrape_configs"][0]["static_configs"] = [
        {"targets": [pod.url.removeprefix("http://")]}
    ]
    settings["rule_files"] = [str(DEPLOY / "alerts.yml")]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{probe.getsockname()[1]}"
    dashboard = json.loads((DEPLOY / "grafana" / "convzoo.json").read_text())
    waiting = {
        panel["title"]: [
            each["expr"].replace("$model", ".*").replace("$__rate_interval", "30s")
            for each in panel["targets"]
        ]
        for panel in dashboard["panels"]
    }
    assert len(waiting) == len(dashboard["panels"])
    image = json.dumps({"instances": [[[[0.0]] * 2] * 2]}).encode()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(program, f"--config.file={tmp_path / 'prometheus.yml'}"),
                *(f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={url}"),
            ],
            stdout=log,
            stderr=log,
        )
        try:
            until = time.monotonic() + 60
            while waiting:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < until, waiting
                # Asked again and again: a rate takes two looks, and an error is a panel's, too.
                assert status_of(f"{pod.url}/v1/models/tiny:predict", b"{}") == 400
                assert status_of(f"{pod.url}/v1/models/tiny:predict", image) == 200
                time.sleep(0.2)
                try:
                    waiting = {
                        title: expressions
                        for title, expressions in waiting.items()
                        if not all(ask(f"http://{url}", each) for each in expressions)
                    }
                except urllib.error.HTTPError:
                    raise  # an expression that it cannot read
                except urllib.error.URLError:
                    continue  # it is not up yet
        finally:
            process.terminate()
            process.wait(20)


def test_a_pods_server_stops_when_it_is_told(pod):
    assert pod.stop() == 0
