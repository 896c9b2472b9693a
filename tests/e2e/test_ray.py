"""The same service as a Ray Serve deployment, on a real Ray; `make ray` installs it."""

import contextlib
import http.client
import importlib.util
import inspect
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest

from serving.client import Client
from serving.core import engine
from serving.errors import ConfigError
from tests.e2e.conftest import ROOT, free_port, serve_light
from tests.serving.published import publish_tiny
from tests.zoo.test_preprocess import encoded

if importlib.util.find_spec("ray") is None:
    pytest.skip("`make ray` installs Ray", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from serving.ray import Replica, application

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

IMAGE = np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1)
# Batches of one row, 0.3 s each: a request of twenty runs long enough to be caught running.
SLOW = {"instances": np.zeros((20, 2, 2, 1)).tolist()}


class LightReplica(Replica):
    """A replica whose engine compiles nothing; its model `slow` takes 0.3 s a batch."""

    async def __init__(self, settings):
        engine.ENGINES["openvino"] = "tests.e2e.light:LightModel"
        await super().__init__(settings)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    base_path = tmp_path_factory.mktemp("ray") / "models"
    publish_tiny(base_path)
    publish_tiny(base_path, "slow")
    return base_path


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this machine alone, with its proxy on a free port; yields the proxy's URL."""
    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    environment = {
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Without one in the environment Ray writes one into the home.
        "RAY_AUTH_TOKEN": secrets.token_hex(),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        import ray
        from ray import serve

        port = free_port()
        ray.init(
            address="local",
            namespace="convzoo",
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=80 << 20,
            logging_level=logging.WARNING,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=place,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(place, ignore_errors=True)


# Each under a name of its own: Ray's proxy still holds a name that is gone for unavailable when it
# comes anew.
@contextlib.contextmanager
def deployed(name, route_prefix="/", **given):
    from ray import serve

    try:
        serve.run(application(**given), name=name, route_prefix=route_prefix)
        yield
    finally:
        serve.delete(name)


@contextlib.contextmanager
def light(patch, base_path, **given):
    """Both models on the light engine, `slow` in batches of one row."""
    patch.setattr("serving.ray.Replica", LightReplica)
    models = {
        name: {"base_path": str(base_path / name), "max_batch_rows": 1, "is_tuned": False}
        for name in ("tiny", "slow")
    }
    options = {"user_config": {"models": models}, "health_check_period_s": 1}
    with deployed("light", deployment=options, **given):
        yield


@pytest.fixture(scope="module")
def url(cluster, base_path):
    """A deployment on OpenVINO with the model `tiny` alone, which stays beside all others."""
    with deployed("kept", "/kept", base_path=base_path, only=["tiny"]):
        yield f"{cluster}/kept"


def ask(url, path, body=None, **headers):
    """The status, the content type and the body of one answer, whatever it is."""
    request = urllib.request.Request(
        url + path, body, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers["content-type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read()


def asked_slowly(url, **headers):
    return ask(url, "/v1/models/slow:predict", json.dumps(SLOW).encode(), **headers)


def metric(url, name):
    lines = ask(url, "/metrics")[2].decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def is_running(url):
    return metric(url, "convzoo_requests_active") == 1


def replicas(name):
    """The names of an application's actors."""
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    return {each["name"] for each in actors if each["name"].startswith(f"SERVE_REPLICA::{name}#")}


def until(holds, limit_s=60):
    ends = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends, f"not within {limit_s} s"
        time.sleep(0.05)


@pytest.mark.parametrize("asked", ["/v1/models/tiny:predict", "/v2/models/tiny/infer"])
def test_both_protocols_are_answered_in_json(url, asked):
    body = (
        {"instances": IMAGE.tolist()}
        if asked.startswith("/v1")
        else {
            "inputs": [
                {"name": "image", "datatype": "FP32", "shape": [2, 2, 2, 1], "data": IMAGE.tolist()}
            ]
        }
    )
    status, kind, answer = ask(url, asked, json.dumps(body).encode())
    assert (status, kind) == (200, "application/json")
    document = json.loads(answer)
    if asked.startswith("/v1"):
        rows = np.array(document["predictions"])
    else:
        (found,) = (each for each in document["outputs"] if each["name"] == "probabilities")
        rows = np.array(found["data"]).reshape(2, 3)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("protocol", ["auto", "tfs", "oip"])
def test_the_client_asks_as_of_convzoo_serve(url, protocol):
    # Over the Open Inference Protocol it sends and takes raw tensors.
    with Client(url, protocol=protocol) as client:
        reply = client.predict("tiny", {"image": IMAGE})
        np.testing.assert_allclose(reply["probabilities"].sum(1), 1, rtol=1e-5)


def test_the_client_sends_images(url):
    with Client(url) as client:
        assert client.models() == ("tiny",)
        image = encoded(np.zeros((2, 2), np.uint8), "PNG")
        assert len(client.classify("tiny", image).scores) == 3


BAD = {
    "no JSON": ("/v1/models/tiny:predict", b'{"instances": [1'),
    "another shape": ("/v1/models/tiny:predict", b'{"instances": [[1, 2]]}'),
    "no such model": ("/v1/models/nobody:predict", b'{"instances": [1]}'),
    "no such version": ("/v1/models/tiny/versions/7:predict", b'{"instances": [1]}'),
    "no such address": ("/v3", None),
    "no POST": ("/v1/models/tiny:predict", None),
    "no input": ("/v2/models/tiny/infer", b'{"inputs": []}'),
    "an encoded name": ("/v2/models/a%2Fb%3Ac", None),
    "no image": ("/api/v1/models/tiny:classify", b"no image"),
    "a change": ("/v2/repository/models/tiny/unload", b"{}"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_is_told_as_convzoo_serve_tells_it(bad, url, witness):
    path, body = BAD[bad]
    found = ask(url, path, body, content_type="application/json")
    assert found[0] >= 400
    assert found == ask(witness, path, body, content_type="application/json")


@pytest.fixture(scope="module")
def witness(base_path, tmp_path_factory):
    """`convzoo serve` beside it."""
    place = tmp_path_factory.mktemp("witness")
    alone = place / "models"
    shutil.copytree(base_path / "tiny", alone / "tiny")
    with serve_light(alone, place, "--read-only", "--no-tune") as server:
        yield server.url


def test_a_body_beyond_the_limit_is_refused_and_a_head_has_no_body(url, witness):
    answers = []
    for each in map(urlsplit, (url, witness)):
        connection = http.client.HTTPConnection(each.netloc, timeout=30)
        connection.putrequest("POST", f"{each.path}/v1/models/tiny:predict")
        connection.putheader("content-length", str(1 << 40))
        connection.endheaders()
        answer = connection.getresponse()
        answers.append((answer.status, answer.read()))
        connection.close()
        connection = http.client.HTTPConnection(each.netloc, timeout=30)
        connection.request("HEAD", f"{each.path}/v1/models/tiny")
        answer = connection.getresponse()
        answers.append((answer.status, answer.headers["content-type"], answer.read()))
        connection.close()
    assert answers[0][0] == 413
    assert answers[1] == (200, "application/json", b"")
    assert answers[:2] == answers[2:]


def test_a_request_id_comes_back_once(url):
    request = urllib.request.Request(f"{url}/v1/models/tiny", headers={"x-request-id": "mine"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers.get_all("x-request-id") == ["mine"]


def test_deadlines_and_clients_that_go_end_the_work_and_a_stop_waits_for_it(
    cluster, base_path, monkeypatch
):
    with ThreadPoolExecutor(1) as pool:
        with light(monkeypatch, base_path):
            status, _, answer = asked_slowly(cluster, x_request_timeout_s="0.5")
            assert status == 504, answer
            until(lambda: not is_running(cluster))

            connection = http.client.HTTPConnection(cluster.removeprefix("http://"))
            connection.request("POST", "/v1/models/slow:predict", json.dumps(SLOW))
            until(lambda: is_running(cluster))
            connection.close()
            cancelled = 'code="CANCELLED"'
            until(lambda: cancelled in ask(cluster, "/metrics")[2].decode())

            until(lambda: not is_running(cluster))
            running = pool.submit(asked_slowly, cluster)
            until(lambda: is_running(cluster))
        # The deployment is gone.
        status, _, answer = running.result()
        assert status == 200, answer
        assert len(json.loads(answer)["predictions"]) == 20
        assert not replicas("light")


def test_a_killed_replica_is_replaced(cluster, base_path):
    import ray

    options = {"health_check_period_s": 1}
    with deployed("killed", base_path=base_path, only=["tiny"], deployment=options):
        (killed,) = replicas("killed")
        ray.kill(ray.get_actor(killed, namespace="serve"))
        until(lambda: replicas("killed") - {killed})
        until(lambda: ask(cluster, "/v1/models/tiny")[0] == 200)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base_path": "/nowhere"}, "There is no base path /nowhere"),
        ({"only": ["tini"]}, "No model 'tini'. Did you mean 'tiny'?"),
        ({"base_path": None}, "There is nothing to serve"),
        ({"base_path": None, "deployment": {"user_config": {}}}, "user_config names no model"),
    ],
)
def test_what_cannot_serve_is_told_where_it_is_deployed(given, words, cluster, base_path):
    from ray import serve

    options = {"max_constructor_retry_count": 1, **given.pop("deployment", {})}
    given = {"base_path": base_path, "deployment": options} | given
    try:
        with pytest.raises(RuntimeError):
            serve.run(application(**given), name="refused")
        (told,) = serve.status().applications["refused"].deployments.values()
        assert words in told.message
    finally:
        serve.delete("refused")


CONFIG = """
applications:
- name: changed
  route_prefix: /zoo
  import_path: serving.ray:application
  args: {{base_path: {base_path}, only: [tiny]}}
  deployments:
  - name: convzoo
    ray_actor_options: {{num_cpus: 1}}
    user_config: {user_config}
"""


def test_a_configuration_file_of_ray_deploys_it_and_changes_its_models_in_place(
    cluster, base_path, tmp_path
):
    import ray
    from ray import serve

    def run(user_config):
        config = tmp_path / "serve.yaml"
        config.write_text(CONFIG.format(base_path=base_path, user_config=json.dumps(user_config)))
        done = subprocess.run(
            [sys.executable, "-m", "ray.serve.scripts", "run", "--non-blocking", str(config)],
            env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        run(None)
        until(lambda: serve.status().applications["changed"].status == "RUNNING")
        with Client(f"{cluster}/zoo") as client:
            assert client.predict("tiny", {"image": IMAGE})["probabilities"].shape == (2, 3)
        assert ask(cluster, "/zoo")[2] == b'{"status":"alive"}'
        assert ask(cluster, "/zoo/v2/models/tiny/ready")[0] == 200
        before = replicas("changed")

        run({"models": {"other": {"base_path": str(base_path / "tiny"), "is_tuned": False}}})
        until(lambda: ask(cluster, "/zoo/v1/models/other")[0] == 200)
        assert ask(cluster, "/zoo/v2/models/tiny/ready")[0] != 200
        assert replicas("changed") == before
    finally:
        serve.delete("changed")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base_paht": "models"}, "No argument 'base_paht'. Did you mean 'base_path'?"),
        ({"base_path": "models", "config": "serve.toml"}, "Either base_path or config"),
        ({"only": ["tiny"]}, "`only` picks models of a base_path"),
        ({"base_path": "models", "drain_limit_s": -1}, "drain_limit_s"),
        ({"base_path": "ftp://host/models"}, "ftp"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_deployed(given, words):
    with pytest.raises(ConfigError, match=words.replace(".", r"\.").replace("?", r"\?")):
        application(**given)
    with pytest.raises(ConfigError):
        application(given)


def test_ray_finds_a_builder_of_one_parameter():
    assert len(inspect.signature(application).parameters) == 1
