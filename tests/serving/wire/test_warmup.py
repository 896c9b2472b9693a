"""Warm-up files are read as TensorFlow writes them."""

import numpy as np
import pytest

from serving.errors import InvalidRequestError, LimitExceededError, ServingError
from serving.messages import PredictCall, Target
from serving.wire import tfs_proto
from serving.wire.pool import message
from serving.wire.warmup import decode_warmup

IMAGE = np.ones((2, 3), np.float32)


def crc32c(data):
    """Bit by bit, unlike the reader's table."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def record(data):
    length = len(data).to_bytes(8, "little")
    return b"".join(
        [length, crc32c(length).to_bytes(4, "little"), data, crc32c(data).to_bytes(4, "little")]
    )


def predict_log():
    log = message("tensorflow.serving.PredictionLog")()
    request = tfs_proto.encode_predict_request(PredictCall(Target("m"), {"x": IMAGE}, "s"))
    log.predict_log.request.ParseFromString(request)
    return log


def examples_log(kind):
    log = message("tensorflow.serving.PredictionLog")()
    request = getattr(log, kind).request
    request.input.example_list.examples.add()
    if kind == "multi_inference_log":
        task = request.tasks.add(method_name="tensorflow/serving/classify")
        task.model_spec.name = "m"
    else:
        request.model_spec.name = "m"
    return log


def test_logs_of_every_kind_become_calls():
    logs = [predict_log()] + [
        examples_log(kind) for kind in ("classify_log", "regress_log", "multi_inference_log")
    ]
    calls = decode_warmup(b"".join(record(each.SerializeToString()) for each in logs))
    assert [each.target.model for each in calls] == ["m"] * 4
    np.testing.assert_array_equal(calls[0].inputs["x"], IMAGE)
    assert calls[0].signature == "s"
    assert all(each.inputs["inputs"].shape == (1,) for each in calls[1:])
    assert decode_warmup(b"") == ()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file[:5], "within a record's head, at byte 0"),
        (lambda file: file[:-10], "within the record at byte 12"),
        (lambda file: b"\x01" + file[1:], "record at byte 0 is damaged"),
        (lambda file: file + record(b"\xff"), "Record 1: .* no PredictionLog"),
        (lambda file: file + record(b""), "Only logs of Predict"),
    ],
)
def test_a_damaged_file_is_told_with_its_place(spoil, words):
    with pytest.raises(ServingError, match=words) as told:
        decode_warmup(spoil(record(predict_log().SerializeToString())))
    assert isinstance(told.value, InvalidRequestError) or "Only logs" in words


def test_more_than_a_thousand_records_are_refused_as_tensorflow_serving_does():
    one = record(predict_log().SerializeToString())
    assert len(decode_warmup(one * 1000)) == 1000
    with pytest.raises(LimitExceededError, match="more than 1000 records"):
        decode_warmup(one * 1001)


@pytest.mark.tensorflow
def test_what_tensorflow_writes_is_read(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "file")) as writer:
        for _ in range(3):
            writer.write(predict_log().SerializeToString())
    assert len(decode_warmup((tmp_path / "file").read_bytes())) == 3
