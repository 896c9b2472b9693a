"""What a training run refuses before it reads its data."""

import pytest

from training import recipe as recipes
from training.run import Run
from training.train import train
from zoo.errors import BusyError, UsageError
from zoo.versions import lock

pytestmark = pytest.mark.tensorflow


def refuse_to_load(_):
    raise AssertionError("the data were read")


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr("training.data.sources.DigitsSource.load", refuse_to_load)


def test_two_runs_never_work_in_one_folder(tmp_path):
    run = Run(tmp_path / "run")
    recipe = recipes.read("digits_lenet5_modern")
    with (
        lock(run.path, ".train.lock"),
        pytest.raises(BusyError, match=r"Another run works on 'run' \(process \d+ on"),
    ):
        train(recipe, run)
    # The lock is gone with who held it.
    with pytest.raises(AssertionError, match="data were read"):
        train(recipe, run)


def test_an_option_that_no_builder_takes_is_told_first(tmp_path):
    recipe = recipes.read("digits_lenet5_modern", ["model.options={width: 2}"])
    with pytest.raises(UsageError, match="No option of lenet5_modern 'width'"):
        train(recipe, Run(tmp_path / "run"))
