"""What of the MLflow bridge needs no MLflow; the rest is in tests/e2e/test_mlflow.py."""

import importlib.util

import pytest
from click.testing import CliRunner

from training.mlflow import PARAM_CHARACTERS, Tracking, flat
from training.mlflow_cli import mlflow
from zoo.errors import UsageError


def test_a_recipe_becomes_flat_text():
    recipe = {"model": {"name": "lenet5", "options": {}}, "epochs": 3, "steps": [1, 2], "x": None}
    assert flat(recipe) == {
        "model.name": "lenet5",
        "model.options": "{}",
        "epochs": "3",
        "steps": "[1, 2]",
        "x": "null",
    }
    assert len(flat({"long": "x" * 10_000})["long"]) == PARAM_CHARACTERS


@pytest.mark.skipif(bool(importlib.util.find_spec("mlflow")), reason="MLflow is installed")
def test_what_to_install_is_said():
    with pytest.raises(UsageError, match=r"pip install 'convzoo\[mlflow\]'"):
        Tracking("http://127.0.0.1:1")


def test_aliases_have_no_gates_to_force():
    done = CliRunner().invoke(mlflow, ["sync", "m", "--tracking-uri", "x", "--force"])
    assert (done.exit_code, "--force goes with --pull" in done.output) == (2, True)
