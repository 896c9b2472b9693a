"""What answers turn into: text, dicts, JSON, tables; and that nobody changes them."""

import builtins
import json

import numpy as np
import pytest
from pydantic import ValidationError

from serving.client.errors import UsageError
from serving.client.results import Classification, LabelScore, Outcome, Prediction, bar

ANSWER = Classification(
    model="digits",
    version=3,
    request_id="r1",
    scores=(
        LabelScore(class_id=7, label="seven", probability=0.75),
        LabelScore(class_id=1, label="", probability=0.25),
    ),
)
NUMBERS = Prediction(
    model="digits",
    version=3,
    outputs={"p": np.array([[0.5, 0.5], [1, 0]], np.float32), "id": np.array([4, 5])},
)


def test_a_classification_prints_its_scores_as_bars():
    assert str(ANSWER).splitlines() == [
        "digits version 3",
        "  seven     0.7500  ███████████████",
        "  class 1   0.2500  █████",
    ]
    assert bar(0.51, 1) == "▌"


def test_answers_become_dicts_and_json():
    assert ANSWER.to_dict()["scores"][0] == {"class_id": 7, "label": "seven", "probability": 0.75}
    assert json.loads(ANSWER.to_json())["version"] == 3
    assert NUMBERS.to_dict()["outputs"] == {"p": [[0.5, 0.5], [1.0, 0.0]], "id": [4, 5]}
    odd = Prediction(
        model="m", outputs={"s": np.array([b"a", b"\xff"], object), "n": np.array(np.nan)}
    )
    document = json.loads(odd.to_json())
    assert document["outputs"]["s"] == ["a", {"b64": "/w=="}]
    assert Outcome(index=1, error=UsageError("no")).to_dict() == {
        "index": 1,
        "value": None,
        "error": "no",
    }


def test_answers_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        ANSWER.model = "other"
    with pytest.raises(ValidationError, match="frozen"):
        ANSWER.scores[0].label = "eight"


def test_answers_become_data_frames_where_pandas_is():
    pd = pytest.importorskip("pandas", reason="needs pandas")
    table = ANSWER.to_pandas()
    assert list(table.columns) == ["class_id", "label", "probability"]
    assert table.label.tolist() == ["seven", ""]
    wide = NUMBERS.to_pandas()
    assert isinstance(wide, pd.DataFrame)
    assert list(wide.columns) == ["p_0", "p_1", "id"]
    assert wide.id.tolist() == [4, 5]
    with pytest.raises(UsageError, match="no leading dimension"):
        Prediction(model="m", outputs={"a": np.array(1)}).to_pandas()


def test_without_pandas_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match="pip install pandas"):
        ANSWER.to_pandas()


def test_an_output_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(KeyError, match="answered p, id"):
        NUMBERS["q"]
    with pytest.raises(UsageError, match="name the one you want"):
        _ = NUMBERS.array
