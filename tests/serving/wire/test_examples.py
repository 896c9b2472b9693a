"""Classify, Regress and MultiInference: examples in, classes or values out."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequestError, UnsupportedError
from serving.messages import PredictReply, Signature, Target, TensorSpec
from serving.wire import examples
from serving.wire.pool import message

INTEGERS = st.integers(-(2**63), 2**63 - 1)
FEATURES = st.dictionaries(
    st.text(max_size=4),
    st.lists(INTEGERS, min_size=1, max_size=3)
    | st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3)
    | st.lists(st.text(max_size=4), min_size=1, max_size=3),
    max_size=3,
)


def read(serialised):
    """A serialised example as the plain features that JSON would give."""
    found = {}
    for name, feature in (
        message("tensorflow.Example").FromString(serialised).features.feature.items()
    ):
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value)
        found[name] = [each.decode() for each in values] if kind == "bytes_list" else values
    return found


def decode(document):
    return examples.decode_json_request(json.dumps(document).encode(), Target("m"))


def reply(**outputs):
    arrays = {
        name: np.array(value, object if name == "classes" else np.float32)
        for name, value in outputs.items()
    }
    return PredictReply("m", 3, "s", arrays)


BOTH = reply(classes=[[b"cat", b"dog"], [b"dog", b"cat"]], scores=[[0.1, 0.5], [1, 0]])


@given(FEATURES)
def test_json_features_become_an_example_with_the_same_values(features):
    call = decode({"examples": [features], "signature_name": "s"})
    assert (call.target, call.signature) == (Target("m"), "s")
    assert read(call.inputs["inputs"][0]) == features


def test_single_values_booleans_and_base64_are_features():
    call = decode({"examples": [{"a": 3, "b": True, "c": {"b64": "aGk="}, "d": 1.5}]})
    assert read(call.inputs["inputs"][0]) == {"a": [3], "b": [1], "c": ["hi"], "d": [1.5]}


def test_a_context_is_part_of_every_example():
    call = decode({"context": {"a": 1}, "examples": [{"b": 2}, {"b": 3}]})
    found = [read(each) for each in call.inputs["inputs"]]
    assert found == [{"a": [1], "b": [2]}, {"a": [1], "b": [3]}]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "Is not object"),
        ({}, "key 'examples' is expected"),
        ({"examples": []}, "non-empty list"),
        ({"examples": [3]}, r"examples\[0\] is not an object"),
        ({"examples": [{"a": 1}], "context": 3}, "'context' must be an object"),
        ({"examples": [{}, {"a": [1, 2.5]}]}, r"examples\[1\]\['a'\] mixes float_list and int64"),
        ({"examples": [{"a": [[1]]}]}, r"examples\[0\]\['a'\] has the value \[1\]"),
        ({"examples": [{"a": None}]}, "has the value None"),
        ({"examples": [{"a": 2**63}]}, "has the value 9223372036854775808"),
        ({"examples": [{"a": {"b64": "!"}}]}, "Unable to base64 decode"),
    ],
)
def test_what_is_no_example_is_refused_with_its_place(document, words):
    with pytest.raises(InvalidRequestError, match=words):
        decode(document)


def test_json_answers_are_pairs_of_label_and_score_or_numbers():
    def encode(answer, method):
        return json.loads(examples.encode_json_reply(answer, method))

    assert encode(BOTH, examples.CLASSIFY) == {
        "results": [[["cat", 0.1], ["dog", 0.5]], [["dog", 1.0], ["cat", 0.0]]]
    }
    assert encode(reply(scores=[[0.5]]), examples.CLASSIFY) == {"results": [[["", 0.5]]]}
    assert encode(reply(outputs=[[3.5], [0.1]]), examples.REGRESS) == {"results": [3.5, 0.1]}
    assert examples.encode_json_reply(reply(outputs=[np.nan]), examples.REGRESS) in (
        b'{"results":[NaN]}',
        b'{"results": [NaN]}',
    )


@pytest.mark.parametrize(
    ("answer", "method", "words"),
    [
        (reply(scores=[0.5]), examples.CLASSIFY, r"'scores' is float32 \[1\]; classify needs"),
        (reply(classes=[[b"a"]], scores=[[1, 2]]), examples.CLASSIFY, "do not belong together"),
        (reply(outputs=[[1, 2]]), examples.REGRESS, r"float32 \[1, 2\]; regress needs"),
        (reply(outputs=1), examples.REGRESS, r"float32 \[\]; regress needs"),
    ],
)
def test_outputs_that_are_no_answer_are_refused(answer, method, words):
    with pytest.raises(InvalidRequestError, match=words):
        examples.encode_json_reply(answer, method)


def test_a_signature_that_takes_no_examples_is_told_apart():
    def signature(takes, *gives):
        specs = {name: TensorSpec(name, "float32", None) for name in gives}
        return Signature("s", {takes: TensorSpec(takes, "bytes", None)}, specs)

    examples.check_signature(signature("inputs", "scores"), examples.CLASSIFY)
    examples.check_signature(signature("inputs", "outputs"), examples.REGRESS)
    with pytest.raises(InvalidRequestError, match="'s' takes image and gives scores; classify"):
        examples.check_signature(signature("image", "scores"), examples.CLASSIFY)
    with pytest.raises(InvalidRequestError, match="regress needs 'inputs' and 'outputs'"):
        examples.check_signature(signature("inputs", "scores"), examples.REGRESS)


def multi(*tasks, count=1):
    request = message("tensorflow.serving.MultiInferenceRequest")()
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, signature
    for _ in range(count):
        request.input.example_list.examples.add()
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (multi(), InvalidRequestError, "has no tasks"),
        (multi(("m", "a", examples.CLASSIFY), count=0), InvalidRequestError, "Input is empty"),
        (
            multi(("m", "a", examples.CLASSIFY), ("n", "b", examples.REGRESS)),
            InvalidRequestError,
            "must access the same model; found 'm' and 'n'",
        ),
        (
            multi(("m", "", examples.CLASSIFY), ("m", "", examples.REGRESS)),
            InvalidRequestError,
            "Duplicate evaluation of signature: serving_default",
        ),
        (
            multi(("m", "serving_default", examples.CLASSIFY), ("m", "", examples.CLASSIFY)),
            InvalidRequestError,
            "Duplicate evaluation of signature: serving_default",
        ),
        (multi(("m", "a", "rank")), UnsupportedError, "Unsupported signature method_name: rank"),
        (b"\xff", InvalidRequestError, "no MultiInferenceRequest"),
    ],
)
def test_tasks_that_cannot_be_done_together_are_refused(body, kind, words):
    with pytest.raises(kind, match=words):
        examples.decode_multi_request(body)


@pytest.mark.timeout(60)
def test_many_tasks_cost_no_more_than_the_same_number_of_requests():
    tasks = [("m", f"s{index}", examples.CLASSIFY) for index in range(30_000)]
    found = examples.decode_multi_request(multi(*tasks, count=3))
    assert [call.signature for call, _ in found] == [signature for _, signature, _ in tasks]
    assert len({id(call.inputs[examples.INPUT]) for call, _ in found}) == 1


@pytest.mark.tensorflow
def test_tensorflow_servings_own_classes_ask_and_read():
    import tensorflow as tf
    from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

    def example(value):
        values = tf.train.FloatList(value=[value])
        return tf.train.Example(
            features=tf.train.Features(feature={"x": tf.train.Feature(float_list=values)})
        )

    asked = classification_pb2.ClassificationRequest()
    asked.model_spec.name, asked.model_spec.signature_name = "m", "s"
    asked.input.example_list_with_context.examples.append(example(2))
    asked.input.example_list_with_context.context.CopyFrom(
        tf.train.Example(
            features=tf.train.Features(
                feature={"c": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"hi"]))}
            )
        )
    )
    call = examples.decode_request("ClassificationRequest", asked.SerializeToString())
    parsed = tf.io.parse_example(
        list(call.inputs["inputs"]),
        {"x": tf.io.FixedLenFeature([], tf.float32), "c": tf.io.FixedLenFeature([], tf.string)},
    )
    assert (parsed["x"].numpy().tolist(), parsed["c"].numpy().tolist()) == ([2.0], [b"hi"])

    answer = classification_pb2.ClassificationResponse.FromString(
        examples.encode_classification_reply(BOTH)
    )
    (first, _) = answer.result.classifications
    assert [each.label for each in first.classes] == ["cat", "dog"]
    np.testing.assert_allclose([each.score for each in first.classes], [0.1, 0.5])
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (3, "s")

    values = reply(outputs=[[3.5], [0.25]])
    answer = regression_pb2.RegressionResponse.FromString(examples.encode_regression_reply(values))
    assert [each.value for each in answer.result.regressions] == [3.5, 0.25]

    several = inference_pb2.MultiInferenceRequest()
    for signature, method in (("c", examples.CLASSIFY), ("r", examples.REGRESS)):
        task = several.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "m", signature
    several.input.example_list.examples.extend([example(1), example(2)])
    tasks = examples.decode_multi_request(several.SerializeToString())
    assert [(call.signature, method) for call, method in tasks] == [
        ("c", examples.CLASSIFY),
        ("r", examples.REGRESS),
    ]
    assert all(len(call.inputs["inputs"]) == 2 for call, _ in tasks)
    answers = inference_pb2.MultiInferenceResponse.FromString(
        examples.encode_multi_reply([(BOTH, examples.CLASSIFY), (values, examples.REGRESS)])
    )
    assert [each.WhichOneof("result") for each in answers.results] == [
        "classification_result",
        "regression_result",
    ]
