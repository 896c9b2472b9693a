"""TensorFlow Serving's JSON: what it takes, what it refuses, in which words."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import (
    InvalidRequestError,
    LimitExceededError,
    SignatureNotFoundError,
    UnsupportedError,
)
from serving.messages import (
    ModelMetadata,
    PredictCall,
    PredictReply,
    Signature,
    Target,
    TensorSpec,
)
from serving.wire import numbers, tfs_json


def signature(dtype="float32", shape=None, **more):
    inputs = {"x": TensorSpec("x", dtype, shape)}
    inputs |= {name: TensorSpec(name, kind, None) for name, kind in more.items()}
    outputs = {"y": TensorSpec("y", "float32", None)}
    return {"serving_default": Signature("serving_default", inputs, outputs)}


def decode(document, signatures=None):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return tfs_json.decode_predict_request(body, Target("m"), signatures or signature())


def shapes():
    return arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)


@given(arrays.arrays(np.float32, shapes(), elements=st.floats(-1e6, 1e6, width=32)), st.booleans())
def test_numbers_arrive_as_they_were_sent_in_both_forms(array, is_row):
    call, found_row = decode({"instances" if is_row else "inputs": array.tolist()})
    assert found_row == is_row
    assert call.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(call.inputs["x"], array)


@given(arrays.arrays(np.float32, shapes(), elements=st.floats(width=32, allow_nan=False)))
def test_what_our_client_sends_our_server_reads(array):
    body = tfs_json.encode_predict_request(PredictCall(Target("m"), {"x": array}))
    call, _ = tfs_json.decode_predict_request(body, Target("m"), signature())
    np.testing.assert_array_equal(call.inputs["x"], array)
    reply = PredictReply("m", 0, "serving_default", {"y": array})
    for is_row in (True, False):
        answer = tfs_json.encode_predict_reply(reply, is_row=is_row)
        if not is_row:
            found = tfs_json.decode_predict_reply(
                answer, Target("m"), signature()["serving_default"]
            )
            np.testing.assert_array_equal(found.outputs["y"], array)


RECURSIVE = st.recursive(
    st.floats(-9, 9) | st.integers(-9, 9) | st.booleans() | st.none() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=20,
)


@given(RECURSIVE, st.sampled_from(["instances", "inputs"]), st.booleans())
def test_the_fast_path_takes_only_what_the_general_reader_takes_and_reads_the_same(
    value, key, is_named
):
    body = json.dumps({key: {"x": value} if is_named else value}).encode()
    fast = numbers.read(body)
    if fast is not None:
        expected = np.array(value, dtype=np.float64)  # raises when it is ragged
        np.testing.assert_array_equal(fast.values, expected)


def test_the_fast_path_is_taken_for_the_usual_request():
    pytest.importorskip("simdjson")
    body = json.dumps({"signature_name": "s", "instances": [[1.5, 2], [3, 4]]}).encode()
    found = numbers.read(body)
    assert (found.is_row, found.signature, found.input) == (True, "s", None)
    assert found.values.tolist() == [[1.5, 2], [3, 4]]
    found = numbers.read(b'{"inputs": {"x": [[1.5, 2]]}}')  # as our own client asks
    assert (found.is_row, found.input, found.values.tolist()) == (False, "x", [[1.5, 2]])
    assert numbers.read(b'{"inputs": {"x": [1], "y": [2]}}') is None
    assert numbers.read(b'{"instances": {"x": [1]}}') is None
    assert numbers.read(b'{"instances": [[1, 2], [3, 4, 5], [6]]}') is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": {"x": 1, "x": 2}, "a": 3}',
        b'{"a": [{"x": 1, "x": "2:3"}], "b": 1, "b": 2}',
        b'{"a": [[], {"x": 1, "x": [":"]}]}',
        b'{"a": [1, {"x": 1, "x": 2}], "c": NaN}',
    ],
)
def test_of_a_key_that_comes_twice_the_first_counts(body):
    def first(members):
        return dict(reversed(members))

    np.testing.assert_equal(tfs_json.loads(body), json.loads(body, object_pairs_hook=first))


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"signature_name": "", "signature_name": "z", "instances": [1]}', 1.0),
        (b'{"instances": [{"x": 1, "x": 2}]}', 1.0),
        (b'{"inputs": {"x": [1], "x": [2]}}', 1.0),
        (b'{"inputs": [1], "inputs": [2]}', 1.0),
        (b'{"inputs": [NaN], "inputs": [2]}', float("nan")),
    ],
)
def test_it_counts_for_every_reader_alike(body, value):
    np.testing.assert_array_equal(decode(body)[0].inputs["x"], [value])


@pytest.mark.parametrize("number", ["1", "NaN"])
def test_a_mark_of_the_byte_order_is_skipped_by_every_reader(number):
    body = f'\ufeff {{"inputs": [{number}]}}'.encode()
    assert decode(body)[0].inputs["x"].shape == (1,)


@pytest.mark.timeout(60)  # it took hours
@pytest.mark.parametrize("begin", [b"[" * 70 + b'"', b'[Inf, "'])
@pytest.mark.parametrize("unit", [b'\\"', b'"\\'])
def test_a_text_without_end_takes_no_longer_than_one_with_it(begin, unit):
    with pytest.raises(InvalidRequestError, match="JSON Parse error"):
        tfs_json.loads(begin + unit * 500_000)


def test_colons_within_texts_are_no_members():
    body = json.dumps({"inputs": [{"b64": "AA=="}, "a:b", '\\"c": "'], "z": {"k": ":"}}).encode()
    document = json.loads(body)
    assert tfs_json._has_all_members(body, document)
    document["z"] = {}
    assert not tfs_json._has_all_members(body, document)


def test_whole_pairs_of_surrogates_are_characters_and_an_escaped_backslash_is_none_of_them():
    assert tfs_json.loads(b'["\\ud83d\\ude00", "\\\\ud800", NaN]')[:2] == ["\U0001f600", "\\ud800"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"instances": [1e999]}', "JSON Parse error: Number too big.*1e999"),
        (b'{"instances": [[1.5, -1E+0309], NaN]}', "JSON Parse error: Number too big"),
        (b'{"instances": [1' + b"0" * 250 + b".0e99]}", "JSON Parse error: Number too big"),
        (b'{"signature_name": "\\ud800", "instances": [1]}', "surrogate pair.*offset: 20"),
        (b'{"z": "\\uDC00\\ud800", "instances": [1]}', "surrogate pair in string is invalid"),
        (b"", "JSON Parse error: The document is empty"),
        (b"   ", "JSON Parse error: The document is empty"),
        (b"{", "JSON Parse error: .* at offset: 1"),
        (b'{"instances": [1,}', "JSON Parse error"),
        (b"[1]", r"JSON Value: \[1\] Is not object"),
        (b"\xff\xfe{}", "JSON Parse error: Invalid UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [1], "inputs": [1]}, "only 'instances' or 'inputs'"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": {"x": 1}}, "'instances' is not a list"),
        ({"instances": [[1, 2], [3]]}, "Encountered list at unexpected size"),
        ({"instances": [1, [2]]}, "Encountered list at unexpected size"),
        ({"instances": [None]}, "null Type: Null is not of expected type: float"),
        ({"instances": [True]}, "true Type: Bool is not of expected type: float"),
        ({"instances": [True, 1.5]}, "true Type: Bool is not of expected type: float"),
        ({"instances": [[1.5, True]]}, "true Type: Bool is not of expected type: float"),
        ({"instances": [10**400]}, "outside -1.79"),
        ({"instances": ["1.5"]}, "Type: String is not of expected type: float"),
        ({"instances": [{"x": 1, "z": 2}]}, "element: 0 of 'instances'.*keys x; found x, z"),
        ({"instances": [{"x": 1}, 5]}, "element: 1"),
        ({"inputs": {"z": 1}}, "Missing named input: x in 'inputs' object"),
        ({"inputs": {"": [1]}}, "Missing named input: x in 'inputs' object"),
        ({"instances": [[1], [2], []]}, "'x' is ragged"),
        ({"signature_name": 3, "inputs": 1}, "'signature_name' is not a string"),
    ],
)
def test_what_cannot_be_read_is_refused_in_tensorflow_servings_words(body, words):
    with pytest.raises(InvalidRequestError, match=words):
        decode(body)


def test_brackets_are_counted_without_room_for_each_of_them():
    """A few kilobytes of gzip are many brackets: several bytes for each of them add up."""
    body = b'{"instances": [' + b"[]," * (1 << 20) + b"[" * 100
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceededError, match="102 levels; at most 64"):
            decode(body)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()


def test_an_unknown_signature_names_those_that_exist():
    with pytest.raises(SignatureNotFoundError, match="'q'; this model has serving_default"):
        decode({"signature_name": "q", "instances": [1]})


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("int32", [1.0], "1.0 Type: Number is not of expected type: int32"),
        ("int32", [2**31], "outside -2147483648..2147483647"),
        ("int32", [1, True], "true Type: Bool is not of expected type: int32"),
        ("int64", [2**80], "not of expected type: int64"),  # orjson makes it a float
        ("int64", [2**63, -1], "outside -9223372036854775808"),
        ("uint32", [-1], "outside 0..4294967295"),
        ("bool", [1], "not of expected type: bool"),
        ("bytes", [1], "Type: Number is not of expected type: string"),
        ("bytes", [["a"], ["b", "c"]], "unexpected size: 2 at level: 1"),
        ("bytes", ["a", ["b"]], "different depth"),
        ("bytes", json.loads("[" * 900 + '"a"' + "]" * 900), "nested too deep, 901 levels"),
        ("bytes", [{"b64": "!"}], "Unable to base64 decode"),
    ],
)
def test_types_are_held_to_the_signature(dtype, value, words):
    with pytest.raises(InvalidRequestError, match=words):
        decode({"inputs": value}, signature(dtype))


def test_types_without_a_json_form_say_so():
    with pytest.raises(UnsupportedError, match="float16"):
        decode({"inputs": [1]}, signature("float16"))
    with pytest.raises(InvalidRequestError, match=r"element: 0 of 'instances'.*float16"):
        decode({"instances": [1]}, signature("float16"))
    half = PredictReply("m", 1, "s", {"y": np.ones(1, np.float16)})
    with pytest.raises(InvalidRequestError, match="JSON value for tensor type: half"):
        tfs_json.encode_predict_reply(half, is_row=True)
    with pytest.raises(UnsupportedError, match="JSON value for tensor type: half"):
        tfs_json.encode_predict_request(PredictCall(Target("m"), half.outputs))


def test_all_that_tensorflow_serving_takes_is_taken():
    assert decode({"inputs": 3.5})[0].inputs["x"].shape == ()
    assert decode({"inputs": []})[0].inputs["x"].shape == (0,)
    assert decode({"inputs": {"x": [1], "extra": 2}})[0].inputs["x"].tolist() == [1]
    assert decode({"instances": [1, 2], "more": {}})[0].inputs["x"].shape == (2,)
    assert np.isnan(decode(b'{"instances": [NaN, Infinity, -Infinity]}')[0].inputs["x"][0])
    body = b'{"signature_name": "Inf", "instances": [Inf, -Inf, "Inf"]}'
    assert tfs_json.loads(body)["instances"] == [np.inf, -np.inf, "Inf"]
    assert tfs_json.loads(body)["signature_name"] == "Inf"
    assert (
        decode(b'{"instances": [1e40, 1267650600228229401496703205376]}')[0].inputs["x"][0] > 1e38
    )
    assert decode({"inputs": [2**64 - 1, 0]}, signature("uint64"))[0].inputs["x"][0] == 2**64 - 1
    assert decode({"inputs": [300, -1]}, signature("uint8"))[0].inputs["x"].tolist() == [44, 255]
    assert decode({"inputs": [[]]}, signature("int32"))[0].inputs["x"].shape == (1, 0)
    assert decode(b'{"instances": [1]} tail')[0].inputs["x"].tolist() == [1]
    two = signature(z="int64")
    call, _ = decode({"instances": [{"x": 1.5, "z": 2}, {"x": 3, "z": 4}]}, two)
    assert call.inputs["z"].tolist() == [2, 4]
    assert call.inputs["z"].dtype == np.int64
    strings, _ = decode({"instances": [{"b64": "aGk"}, "text"]}, signature("bytes"))
    assert strings.inputs["x"].tolist() == [b"hi", b"text"]


def test_answers_have_tensorflow_servings_form():
    one = PredictReply("m", 1, "s", {"y": np.array([[0.1, 1.0]], np.float32)})
    assert tfs_json.encode_predict_reply(one, is_row=True) == b'{"predictions":[[0.1,1.0]]}'
    assert tfs_json.encode_predict_reply(one, is_row=False) == b'{"outputs":[[0.1,1.0]]}'
    both = {"a": np.array([1, 2]), "image_bytes": np.array([b"hi", b"\xff"], object)}
    found = json.loads(tfs_json.encode_predict_reply(PredictReply("m", 1, "s", both), is_row=True))
    assert found == {
        "predictions": [
            {"a": 1, "image_bytes": {"b64": "aGk="}},
            {"a": 2, "image_bytes": {"b64": "/w=="}},
        ]
    }
    not_finite = PredictReply("m", 1, "s", {"y": np.array([np.nan, np.inf, -np.inf], np.float32)})
    assert (
        tfs_json.encode_predict_reply(not_finite, is_row=True)
        == b'{"predictions":[NaN,Infinity,-Infinity]}'
    )


def test_a_scalar_output_is_a_number():
    scalar = PredictReply("m", 1, "s", {"y": np.array(0.1, np.float32)})
    assert tfs_json.encode_predict_reply(scalar, is_row=False) == b'{"outputs":0.1}'
    not_finite = PredictReply("m", 1, "s", {"y": np.array(np.nan, np.float32)})
    assert tfs_json.encode_predict_reply(not_finite, is_row=False) == b'{"outputs":NaN}'


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"a": np.ones(2), "b": np.ones(3)}, "b has inconsistent batch size: 3 expecting: 2"),
        ({"a": np.float32(1).reshape(())}, "a has no shape information"),
    ],
)
def test_row_form_refuses_outputs_that_share_no_batch(outputs, words):
    with pytest.raises(InvalidRequestError, match=f"Tensor name: {words}"):
        tfs_json.encode_predict_reply(PredictReply("m", 1, "s", outputs), is_row=True)


def test_the_codecs_work_without_simdjson_and_orjson():
    """The base install has neither; the client must read and write all the same."""
    code = """
import sys
sys.modules["orjson"] = sys.modules["simdjson"] = None
import numpy as np
from serving.messages import PredictCall, Target
from serving.wire import tfs_json
from tests.serving.wire.test_tfs_json import signature
array = np.array([[0.1, 2.5]], np.float32)
body = tfs_json.encode_predict_request(PredictCall(Target("m"), {"x": array}))
assert body == b'{"inputs":{"x":[[0.1,2.5]]}}', body
call, _ = tfs_json.decode_predict_request(body, Target("m"), signature())
assert call.inputs["x"].tolist() == array.tolist()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metadata_tells_defaults_as_protobufs_json_has_them():
    signature = Signature("s", {}, {}, defaults={"q": np.array([1, 2], np.float32)})
    body = tfs_json.encode_metadata_reply(ModelMetadata("m", 1, {"s": signature}))
    (told,) = json.loads(body)["metadata"]["signature_def"]["signature_def"].values()
    q = told["defaults"]["q"]
    assert (q["dtype"], q["float_val"], q["tensor_content"]) == ("DT_FLOAT", [1.0, 2.0], "")
    assert q["tensor_shape"] == {"dim": [{"size": "2", "name": ""}], "unknown_rank": False}
