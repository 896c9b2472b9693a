"""Settings, keys and reasons of a pipeline; nothing is trained here."""

import pytest
import yaml

from training import pipeline as pipelines
from zoo.errors import UsageError


def write(place, **settings):
    (place / "p.yaml").write_text(yaml.safe_dump({"recipe": "digits_lenet5_modern", **settings}))
    return place / "p.yaml"


@pytest.mark.parametrize("label", ["", "a/b", "latest", "2", "-x"])
def test_a_label_that_cannot_be_one_is_refused_before_anything_runs(tmp_path, label):
    with pytest.raises(UsageError, match=r"promote\.label.*cannot be a label"):
        pipelines.read(write(tmp_path, promote={"label": label}))


def test_no_label_leaves_the_labels_to_people(tmp_path):
    assert pipelines.read(write(tmp_path, promote={"label": None})).promote.label is None


@pytest.mark.parametrize("model", ["../evil/x", "a/b", "..", " "])
def test_a_name_that_leads_out_of_the_base_path_is_refused_before_anything_runs(tmp_path, model):
    file = write(tmp_path, model=model)
    for step in (pipelines.plan, pipelines.run):
        with pytest.raises(UsageError, match="cannot name a model"):
            step(pipelines.read(file))
    assert sorted(tmp_path.iterdir()) == [file]
