"""Explanations over the wire: what goes in comes out, and what is none is refused."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import InvalidRequestError
from serving.messages import ExplainCall, ExplainReply, Target, Timings
from serving.wire.explain_json import decode_call, decode_reply, encode_call, encode_reply

TARGET = Target("m")
JSON = "application/json"

names = st.text(min_size=1, max_size=8)


@given(
    st.dictionaries(
        names,
        st.sampled_from([np.float32, np.int64, np.uint8]).flatmap(
            lambda kind: arrays.arrays(kind, arrays.array_shapes(max_dims=4, max_side=4))
        ),
        max_size=3,
    )
)
def test_a_reply_reads_back_as_it_was(found):
    reply = ExplainReply(
        model="m",
        version=3,
        method="occlusion",
        layer="c3",
        class_id=2,
        label="bee",
        arrays=found,
        facts={"box": {"top": 1}, "values": [0.5]},
        timings=Timings(decode_s=0.25),
        request_id="r",
    )
    back = decode_reply(encode_reply(reply))
    assert back.arrays.keys() == found.keys()
    for name, array in found.items():
        assert back.arrays[name].dtype == array.dtype
        assert np.array_equal(back.arrays[name], array, equal_nan=array.dtype.kind == "f")
    assert asdict(back) | {"arrays": 0} == asdict(reply) | {"arrays": 0}


@given(
    method=names,
    layer=st.none() | names,
    explained=st.none() | names | st.integers(0, 999),
    options=st.dictionaries(names, st.integers() | st.booleans() | st.text(max_size=5), max_size=3),
    image=st.binary(max_size=20),
    is_picture=st.booleans(),
)
def test_a_call_reads_back_as_it_was(method, layer, explained, options, image, is_picture):
    call = ExplainCall(
        TARGET, method, image, layer=layer, explained=explained, options=options,
        is_picture=is_picture,
    )  # fmt: skip
    assert decode_call(TARGET, encode_call(call), JSON, "") == call


def test_a_raw_image_takes_everything_else_from_the_query():
    query = "method=occlusion&layer=c3&target=7&patch=8&fill=0.5&motion=rotate&values=%5B1%2C2%5D"
    call = decode_call(TARGET, b"PNG", "image/png", query)
    assert (call.method, call.layer, call.explained, call.image) == ("occlusion", "c3", "7", b"PNG")
    assert call.options == {"patch": 8, "fill": 0.5, "motion": "rotate", "values": [1, 2]}
    assert not call.is_picture


def test_a_picture_is_asked_for_by_format_or_accept():
    assert decode_call(TARGET, b"", "", "method=input&format=png").is_picture
    assert decode_call(TARGET, b"", "", "method=input", "image/png").is_picture


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], ""),
        ({"method": 3}, "method"),
        ({"method": "input", "image": "aGk="}, "image"),
        ({"method": "input", "image": {"b64": "?"}}, "image"),
        ({"method": "input", "layer": {}}, "layer"),
        ({"method": "input", "target": True}, "target"),
        ({"method": "input", "target": [1]}, "target"),
        ({"method": "input", "options": []}, "options"),
        ({"method": "input", "format": "gif"}, "format"),
        ({"method": "input", "size": 3}, "size"),
    ],
)
def test_what_is_no_request_is_refused_with_its_field(document, field):
    with pytest.raises(InvalidRequestError) as refused:
        decode_call(TARGET, json.dumps(document).encode(), JSON, "")
    assert refused.value.field == field


@pytest.mark.parametrize(
    "broken",
    [
        {"dtype": "object", "shape": [1], "b64": "AAAA"},
        {"dtype": "float32", "shape": [9], "b64": "AAAA"},
        {"dtype": "float32", "shape": [1], "b64": "?"},
        {"shape": [1]},
    ],
)
def test_an_answer_with_an_array_that_is_none_is_refused(broken):
    reply = ExplainReply("m", 1, "input", None, None, None, {}, {})
    document = json.loads(encode_reply(reply)) | {"arrays": {"a": broken}}
    with pytest.raises(InvalidRequestError, match="no explanation"):
        decode_reply(json.dumps(document).encode())
