"""TensorFlow Serving's messages, both ways, and against tensorflow-serving-api's."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequestError, LimitExceededError
from serving.messages import (
    ClassifyImagesCall,
    ClassifyImagesReply,
    LabelScore,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    Signature,
    Target,
    TensorSpec,
    VersionState,
    VersionStatus,
)
from serving.wire import tfs_proto

TARGETS = st.one_of(
    st.builds(Target, st.text(min_size=1, max_size=9)),
    st.builds(Target, st.just("m"), version=st.integers(0, 2**63 - 1)),
    st.builds(Target, st.just("m"), label=st.text(min_size=1, max_size=9)),
)


@given(TARGETS, st.text(max_size=9), st.lists(st.text(max_size=5), max_size=3))
def test_a_predict_request_comes_back_as_it_was(target, signature, outputs):
    call = PredictCall(target, {"a": np.arange(3)}, signature, tuple(outputs))
    found = tfs_proto.decode_predict_request(tfs_proto.encode_predict_request(call))
    assert (found.target, found.signature, found.outputs) == (target, signature, tuple(outputs))
    np.testing.assert_array_equal(found.inputs["a"], call.inputs["a"])


def test_replies_come_back_as_they_were():
    reply = PredictReply("m", 3, "s", {"y": np.ones((2, 2), np.float32)})
    found = tfs_proto.decode_predict_reply(tfs_proto.encode_predict_reply(reply))
    assert (found.model, found.version, found.signature) == ("m", 3, "s")
    np.testing.assert_array_equal(found.outputs["y"], reply.outputs["y"])

    signature = Signature(
        "s",
        {"x": TensorSpec("x", "float32", (None, 3), "x:0")},
        {"y": TensorSpec("y", "bytes", None, "y:0")},
    )
    metadata = ModelMetadata("m", 3, {"s": signature})
    assert tfs_proto.decode_metadata_reply(tfs_proto.encode_metadata_reply(metadata)) == metadata

    defaults = {"x": np.ones((1, 3), np.float32), "t": np.array(b"a\0", np.object_)}
    told = ModelMetadata("m", 3, {"s": replace(signature, defaults=defaults)})
    back = tfs_proto.decode_metadata_reply(tfs_proto.encode_metadata_reply(told))
    np.testing.assert_equal(dict(back.signatures["s"].defaults), defaults)

    status = ModelStatus(
        "m",
        tuple(VersionStatus(n, state, "UNKNOWN", "why") for n, state in enumerate(VersionState)),
    )
    assert tfs_proto.decode_status_reply(tfs_proto.encode_status_reply(status), "m") == status

    scores = ((LabelScore(1, "cat", 0.5), LabelScore(0, "dog", 0.25)),)
    classified = ClassifyImagesReply("m", 3, scores)
    found = tfs_proto.decode_classify_reply(tfs_proto.encode_classify_reply(classified))
    assert found.results == scores


@pytest.mark.parametrize("field", [b"\x12\0", b"\x1a\0"], ids=["inputs", "filters"])
def test_a_large_request_of_countless_fields_is_refused_before_they_are_read(field):
    """As inputs of two bytes, 32 MB took four seconds and 2.5 gigabytes."""
    body = b"\x0a\x03\x0a\x01m" + field * tfs_proto.WORTH_COUNTING
    with pytest.raises(LimitExceededError, match="PredictRequest has more than 4,096 fields"):
        tfs_proto.decode_predict_request(body)


def test_a_large_request_may_have_fields_of_a_later_version():
    call = PredictCall(Target("m"), {"x": np.zeros(20_000, np.float32)})
    body = tfs_proto.encode_predict_request(call)
    # A number, eight bytes, four bytes, and a group with a number in it, all unknown.
    unknown = b"\x88\x06\x01" + b"\x89\x06" + b"12345678" + b"\x8d\x06" + b"1234"
    unknown += b"\x8b\x06" + b"\x08\x01" + b"\x8c\x06"
    assert tfs_proto.decode_predict_request(body + unknown).inputs["x"].shape == (20_000,)
    with pytest.raises(InvalidRequestError, match="ends too early"):
        tfs_proto.decode_predict_request(body[:-1])


def test_images_travel_through_predict():
    call = ClassifyImagesCall(Target("m"), (b"one", b"two"), top_k=2)
    body = tfs_proto.encode_classify_request(call)
    found = tfs_proto.as_classify_call(tfs_proto.decode_predict_request(body))
    assert (found.images, found.top_k) == ((b"one", b"two"), 2)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "found no input"),
        ({"image_bytes": np.zeros(2)}, "vector of strings; found float64"),
        ({"image_bytes": np.array([b"x"], object), "k": np.int32(1)}, "found image_bytes, k"),
        ({"image_bytes": np.array([b"x"], object), "top_k": np.float32(1)}, "top_k is one integer"),
    ],
)
def test_other_inputs_than_images_are_refused(inputs, words):
    with pytest.raises(InvalidRequestError, match=words):
        tfs_proto.as_classify_call(PredictCall(Target("m"), inputs, "classify_images"))


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\xff", b"\x0a\x05ab"])
def test_truncated_messages_are_refused(body):
    with pytest.raises(InvalidRequestError, match="are no PredictRequest"):
        tfs_proto.decode_predict_request(body)


def test_a_request_without_a_model_is_refused_in_tensorflow_servings_words():
    with pytest.raises(InvalidRequestError, match="Missing ModelSpec"):
        tfs_proto.decode_predict_request(b"")
    with pytest.raises(InvalidRequestError, match="ModelSpec has no name specified"):
        tfs_proto.decode_status_request(tfs_proto.encode_status_request(Target("")))


@pytest.mark.tensorflow
def test_tensorflow_servings_own_classes_read_and_write_the_same_bytes():
    import tensorflow as tf
    from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

    theirs = predict_pb2.PredictRequest()
    theirs.model_spec.name = "m"
    theirs.model_spec.version_label = "stable"
    theirs.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((2, 3), np.float32)))
    theirs.output_filter.append("y")
    found = tfs_proto.decode_predict_request(theirs.SerializeToString())
    assert (found.target, found.outputs) == (Target("m", label="stable"), ("y",))

    reply = PredictReply("m", 3, "serving_default", {"y": np.ones((2, 2), np.float32)})
    answer = predict_pb2.PredictResponse.FromString(tfs_proto.encode_predict_reply(reply))
    assert list(answer.outputs["y"].float_val) == [1, 1, 1, 1]  # typed fields, as TF Serving's
    assert answer.model_spec.version.value == 3

    status = ModelStatus("m", (VersionStatus(2, VersionState.END, "UNKNOWN", "broken"),))
    answer = get_model_status_pb2.GetModelStatusResponse.FromString(
        tfs_proto.encode_status_reply(status)
    )
    (version,) = answer.model_version_status
    assert (version.version, version.state) == (2, get_model_status_pb2.ModelVersionStatus.END)
    assert (version.status.error_code, version.status.error_message) == (2, "broken")
