"""Runs, versions and labels in a real MLflow, by a database file and by its server.

`make registries` installs it.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tests.e2e.conftest import convzoo
from tests.s3 import free_port
from zoo.artifact import MANIFEST, file_sha256, read_labels, read_manifest, verify, write_labels

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        importlib.util.find_spec("mlflow") is None, reason="`make registries` installs MLflow"
    ),
    pytest.mark.filterwarnings("ignore"),
]

PASSWORD = "nobody-should-read-this"  # noqa: S105 - of a server that asks for none


@contextmanager
def server(place, poll):
    """MLflow's own server; only its address takes a user and a password."""
    port = free_port()
    command = ("server", "--port", port, "--workers", 1, "--host", "127.0.0.1")
    stores = (f"sqlite:///{place}/mlflow.db", "--artifacts-destination", place / "artifacts")
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, (sys.executable, "-m", "mlflow", *command, "--backend-store-uri", *stores))],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            poll(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 60)
            yield f"http://somebody:{PASSWORD}@127.0.0.1:{port}"
        finally:
            # Asked politely it waits for threads of its own for half a minute.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def models(published, tmp_path_factory):
    """Two published versions, one promoted, and the run they came from."""
    base_path = tmp_path_factory.mktemp("mlflow") / "models"
    shutil.copytree(published.base_path, base_path)
    convzoo("publish", published.run, "--base-path", base_path)
    model = base_path / published.model
    write_labels(model, {"stable": 1})
    return SimpleNamespace(base_path=base_path, path=model, name=model.name, run=published.run)


@pytest.fixture(params=["database", "server"])
def uri(request, tmp_path, poll, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if request.param == "database":
        yield f"sqlite:///{tmp_path}/mlflow.db"
    else:
        with server(tmp_path, poll) as found:
            yield found


def mlflow(*args, uri):
    done = convzoo("mlflow", *args, "--tracking-uri", uri, "--json")
    assert PASSWORD not in done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_run_is_logged_once_registered_with_its_version_and_its_labels_go_both_ways(models, uri):
    from mlflow.artifacts import download_artifacts
    from mlflow.tracking import MlflowClient

    write_labels(models.path, {"stable": 1})
    logged = mlflow("log", models.run, uri=uri)
    assert logged["is_new"]
    first = mlflow("log", models.path / "1", uri=uri)
    # The version came from that run, and the run is told from its network.
    assert first == {
        "run_id": logged["run_id"],
        "name": models.name,
        "version": 1,
        "is_new": True,
    }
    assert mlflow("log", models.run, uri=uri) == {"run_id": logged["run_id"], "is_new": False}
    assert not mlflow("log", models.path / "1", uri=uri)["is_new"]

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    manifest = read_manifest(models.path / "1")
    run = client.get_run(first["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.name"] == manifest.recipe["model"]["name"]
    assert run.data.metrics["accuracy"] == manifest.metrics["accuracy"].value
    assert run.data.metrics["accuracy_low"] == manifest.metrics["accuracy"].low
    assert len(client.get_metric_history(first["run_id"], "epoch.loss")) == 3
    registered = client.get_model_version(models.name, "1")
    assert registered.tags["convzoo.version"] == "1"
    assert registered.tags["convzoo.recipe_sha256"] == manifest.recipe_sha256
    assert registered.tags["convzoo.data_sha256"] == manifest.data_sha256
    assert registered.tags["convzoo.manifest_sha256"] == file_sha256(models.path / "1" / MANIFEST)
    assert registered.description.startswith(f"# {models.name}")

    def sync(*args):
        found = mlflow("sync", models.name, "--base-path", models.base_path, *args, uri=uri)
        return {each["label"]: each["outcome"] for each in found}

    assert sync() == {"stable": "set"}
    assert sync() == {"stable": "same"}
    assert client.get_model_version_by_alias(models.name, "stable").version in (1, "1")
    # What MLflow gives back for an alias is the published version, byte for byte.
    given = download_artifacts(
        artifact_uri=f"models:/{models.name}@stable", tracking_uri=uri, registry_uri=uri
    )
    assert verify(type(models.path)(given)) == manifest

    # The other way, through the gates.
    mlflow("log", models.path / "2", uri=uri)
    client.set_registered_model_alias(models.name, "stable", "2")
    pull = ("mlflow", "sync", models.name, "--base-path", models.base_path, "--tracking-uri", uri)
    refused = convzoo(*pull, "--pull", check=False)
    assert refused.returncode == 2
    assert "was not gated" in refused.stderr
    assert read_labels(models.path) == {"stable": 1}
    assert sync("--pull", "--force", "--why", "approved in MLflow") == {"stable": "set"}
    assert read_labels(models.path) == {"stable": 2}


def test_what_cannot_be_done_is_told(models, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    args = ("--tracking-uri", uri)
    unregistered = convzoo(
        "mlflow", "sync", models.name, "--base-path", models.base_path, *args, check=False
    )
    assert unregistered.returncode == 6
    assert models.name in unregistered.stderr
    kept = convzoo("mlflow", "log", models.path / "1", "--no-files", *args, check=False)
    assert kept.returncode == 2
    assert "leave --no-files away" in kept.stderr
    address = f"http://somebody:{PASSWORD}@127.0.0.1:1"
    away = convzoo("mlflow", "log", models.run, "--tracking-uri", address, check=False)
    assert away.returncode == 6
    assert "http://127.0.0.1:1 cannot be used" in away.stderr
    assert PASSWORD not in away.stderr
