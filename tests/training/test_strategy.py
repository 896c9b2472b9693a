"""Several workers: the same curve as one, a clear end when one is lost, and one who writes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from training.run import Run
from zoo.errors import UsageError

pytestmark = pytest.mark.tensorflow

# No dropout and no batch normalisation: what a replica does alone differs from what one does for
# all.
OVERRIDES = ["epochs=2", "batch_size=32", "data.per_class=40", "optimizer.kind=sgd"]


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_workers(run, overrides, number=2):
    ports = free_ports(number)
    workers = []
    for index in range(number):
        config = {
            "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
            "task": {"type": "worker", "index": index},
        }
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(config),
            "CUDA_VISIBLE_DEVICES": "",
            "TF_NUM_INTRAOP_THREADS": "1",
        }
        command = [
            *(sys.executable, "-m", "zoo.command", "train", "digits_lenet5_modern"),
            *("--out", str(run.path if index == 0 else run.path.with_name("other"))),
            *("strategy=multi_worker", *overrides),
        ]
        workers.append(
            subprocess.Popen(
                command, env=environment, stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE
            )
        )
    return workers


def end(workers, limit_s=180):
    """Waits for all; what is left after the limit is killed."""
    deadline = time.monotonic() + limit_s
    told = []
    for worker in workers:
        try:
            told.append(worker.communicate(timeout=max(1, deadline - time.monotonic()))[1])
        except subprocess.TimeoutExpired:
            worker.kill()
            told.append(worker.communicate()[1] + "\n(killed: too slow)")
    return told


@pytest.mark.e2e
def test_two_workers_train_to_the_same_curve_as_one_and_only_the_chief_writes(tmp_path):
    from training import recipe as recipes
    from training.train import train

    single = Run(tmp_path / "single")
    train(recipes.read("digits_lenet5_modern", OVERRIDES), single)
    run = Run(tmp_path / "several")
    workers = start_workers(run, OVERRIDES)
    told = end(workers)
    assert [worker.returncode for worker in workers] == [0, 0], told
    assert not (tmp_path / "other").exists()
    for found, expected in zip(run.epochs(), single.epochs(), strict=True):
        assert found.loss == pytest.approx(expected.loss, rel=1e-3)
        assert found.validation_loss == pytest.approx(expected.validation_loss, rel=1e-3)
    assert run.evaluation().metrics["accuracy"].examples == 345


@pytest.mark.slow
@pytest.mark.e2e
def test_a_lost_worker_ends_the_job_with_a_checkpoint_from_which_it_goes_on(tmp_path):
    run = Run(tmp_path / "run")
    overrides = ["epochs=400", *OVERRIDES[1:], "checkpoints.every_s=0"]
    workers = start_workers(run, overrides)
    deadline = time.monotonic() + 120
    while len(run.epochs()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    workers[1].send_signal(signal.SIGKILL)
    told = end(workers)
    assert workers[0].returncode == 6, told[0]
    assert "worker was lost" in told[0]
    assert "Traceback" not in told[0]
    before = len(run.epochs())
    assert list((run.path / "checkpoints").glob("[0-9]*.npz"))
    # The same two again, told to stop a little later: they go on from there.
    workers = start_workers(run, overrides)
    deadline = time.monotonic() + 120
    while len(run.epochs()) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    workers[1].send_signal(signal.SIGTERM)
    told = end(workers)
    assert [worker.returncode for worker in workers] == [6, 6], told
    numbers = [each.epoch for each in run.epochs()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= before + 2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "needs TF_CONFIG"),
        ("{", "not valid"),
        ('{"cluster": {"worker": ["a:1"]}}', "lacks 'task'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 3}}', "1 workers"),
    ],
)
def test_a_faulty_tf_config_is_explained(monkeypatch, config, words):
    from training.strategy import Devices

    if config is None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
    else:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UsageError, match=words):
        Devices("multi_worker")


def test_mirrored_replicas_on_one_machine_take_the_same_steps(tmp_path):
    """With one device there is one replica; the code is the one that several take."""
    from training import recipe as recipes
    from training.train import train

    losses = {}
    for strategy in ("single", "mirrored"):
        run = Run(tmp_path / strategy)
        train(recipes.read("digits_lenet5_modern", [*OVERRIDES, f"strategy={strategy}"]), run)
        losses[strategy] = [each.loss for each in run.epochs()]
    np.testing.assert_allclose(losses["mirrored"], losses["single"], rtol=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused():
    from training import recipe as recipes
    from training.strategy import Devices

    devices = Devices("single")
    devices.replicas = 3
    with pytest.raises(UsageError, match=r"batch_size=32 cannot be shared by 3.*multiple of 3"):
        devices.check(recipes.read("digits_lenet5_modern"))
