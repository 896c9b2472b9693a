"""The Open Inference Protocol's tensors and requests, both ways."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import InvalidRequestError, LimitExceededError, UnsupportedError
from serving.messages import PredictCall, PredictReply, Signature, Target, TensorSpec
from serving.wire import numbers, oip, oip_json, oip_proto

SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
NUMBERS = st.sampled_from([name for name in oip.DATATYPES if name not in ("bytes", "bfloat16")])
TENSORS = NUMBERS.flatmap(lambda name: arrays.arrays(np.dtype(name), SHAPES)) | arrays.arrays(
    np.object_, SHAPES, elements=st.binary(max_size=6)
)
SIGNATURE = Signature("serving_default", {"x": TensorSpec("x", "float32", (None, 2))}, {})


@given(TENSORS)
def test_raw_tensors_come_back_as_they_were(array):
    name = "bytes" if array.dtype == object else str(array.dtype)
    found = oip.decode_raw(oip.encode_raw(array), "x", array.shape, name)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_an_array_of_the_other_byte_order_is_sent_as_the_same_numbers():
    array = np.arange(3, dtype=">i2")
    assert oip.datatype_of(array) == "INT16"
    found = oip.decode_raw(oip.encode_raw(array), "x", (3,), "int16")
    np.testing.assert_array_equal(found, array)


@given(st.lists(TENSORS, min_size=1, max_size=3), st.text(max_size=4))
def test_requests_and_replies_come_back_over_rest_and_grpc(tensors, signature):
    inputs = {f"x{index}": array for index, array in enumerate(tensors)}
    call = PredictCall(Target("m", 3), inputs, signature, ("y",), request_id="r")
    pieces, split = oip_json.encode_infer_request(call)
    body = b"".join(pieces)
    rest = oip_json.decode_infer_request(body, str(split), Target("m", 3), SIGNATURE)
    grpc = oip_proto.decode_infer_request(oip_proto.encode_infer_request(call))
    for found in (rest, grpc):
        assert (found.call.target, found.call.signature, found.call.outputs) == (
            Target("m", 3),
            signature,
            ("y",),
        )
        assert found.id == "r"
        assert found.wanted("y").is_binary
        for name, array in inputs.items():
            np.testing.assert_array_equal(found.call.inputs[name], array)
    reply = PredictReply("m", 3, "s", inputs)
    request = oip.InferRequest(call, "r", {}, oip.RequestedOutput(is_binary=True))
    body, split = oip_json.encode_infer_reply(request, reply, ())
    again = oip_json.decode_infer_reply(body, None if split is None else str(split))
    also = oip_proto.decode_infer_reply(oip_proto.encode_infer_reply(request, reply, ()))
    for found in (again, also):
        assert (found.model, found.version, found.request_id) == ("m", 3, "r")
        for name, array in inputs.items():
            np.testing.assert_array_equal(found.outputs[name], array)


def decode(document, header=None, tail=b""):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    length = str(len(body)) if header is None and tail else header
    return oip_json.decode_infer_request(body + tail, length, Target("m"), SIGNATURE)


def tensor(**fields):
    return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", **fields}]}


def test_json_data_may_be_nested_or_flat():
    for data in ([1, 2.5], [[1, 2.5]], [[1], [2.5]]):
        assert decode(tensor(data=data)).call.inputs["x"].tolist() == [[1, 2.5]]
    found = decode(tensor(data=["a", "b"], datatype="BYTES")).call.inputs["x"]
    assert found.tolist() == [[b"a", b"b"]]


def test_a_body_without_json_is_the_only_input():
    found = decode(np.array([1, 2], "<f4").tobytes(), header="0")
    assert found.call.inputs["x"].tolist() == [[1, 2]]
    assert found.default.is_binary


@pytest.mark.parametrize(
    ("document", "options", "words"),
    [
        ({}, {}, "list 'inputs'"),
        (tensor(), {}, "either 'data' or the parameter"),
        (tensor(data=[1, 2], parameters={"binary_data_size": 8}), {}, "either"),
        (tensor(data=[1]), {}, r"shape \[1, 2\] has 2 values, 1 came"),
        (tensor(data=["a", "b"]), {}, "of type FP32 has the value 'a'"),
        (tensor(data=[True, 1]), {}, "has the value True"),
        (tensor(data=[1.0, 2.0], datatype="INT32"), {}, "INT32 has the value 1.0"),
        (tensor(data=[1, 2], datatype="FP8"), {}, "datatype 'FP8'; there are BOOL"),
        (tensor(data=[1, 2], shape=[-1, 2]), {}, "whole numbers from 0"),
        (tensor(data=[1, 2], shape="2"), {}, "whole numbers from 0"),
        (
            tensor(parameters={"binary_data_size": 8}),
            {"tail": b"1234"},
            "unexpected size for input 'x'",
        ),
        (tensor(parameters={"binary_data_size": 4}), {"tail": b"1234"}, "has 8 bytes; 4 came"),
        (tensor(data=[1, 2]), {"tail": b"1"}, "unexpected additional input data"),
        (tensor(data=[1, 2]), {"header": "9999"}, "Inference-Header-Content-Length is '9999'"),
        (tensor(data=[1, 2]), {"header": "-1"}, "Inference-Header-Content-Length"),
        ({**tensor(data=[1, 2]), "outputs": 3}, {}, "'outputs' is a list"),
        ({**tensor(data=[1, 2]), "parameters": 3}, {}, "parameters of the request"),
        ({**tensor(data=[1, 2]), "parameters": {"priority": -1}}, {}, "priority is -1"),
        ({"inputs": [3]}, {}, "Each input is an object"),
        (tensor(data=[], shape=[0, 2**62, 2**62]), {}, "times 0 elements; at most"),
        (tensor(data=[], shape=[0, 10**4000]), {}, "whole numbers from 0"),
        (tensor(data=[1, 2], datatype=[]), {}, r"datatype \[\]; there are BOOL"),
        (tensor(data=[1, 2], datatype={}), {}, r"datatype \{\}; there are BOOL"),
        (tensor(data=[1, 2]), {"header": "1" * 5000}, "Inference-Header-Content-Length is '1111"),
        (
            {**tensor(data=[1, 2]), "parameters": {"timeout": 10**400}},
            {},
            "timeout is 10000.* a whole number from 0 to 9223372036854775807",
        ),
        ({**tensor(data=[1, 2]), "id": "\ud800"}, {}, "surrogate pair in string is invalid"),
        (b"", {}, "The document is empty"),
        ({"inputs": tensor(data=[1, 2])["inputs"] * 2}, {}, "'x' comes twice"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_part_at_fault(document, options, words):
    with pytest.raises(InvalidRequestError, match=words):
        decode(document, **options)


@pytest.mark.parametrize("raw", [bytes(8), np.float32([1, 2]).tobytes()])
def test_raw_tensors_without_their_header_are_told_what_they_lack(raw):
    body = json.dumps(tensor(parameters={"binary_data_size": 8})).encode() + raw
    with pytest.raises(InvalidRequestError, match="need the header Inference-Header-Content-Len"):
        decode(body)
    with pytest.raises(InvalidRequestError, match=r"bytes are left\.$"):
        decode(body[:-8], str(len(body) - 8))


@pytest.mark.timeout(60)
def test_of_many_inputs_the_one_that_comes_twice_is_found_in_one_pass():
    names = [f"x{index}" for index in range(60_000)]
    one = {"shape": [0], "datatype": "INT8", "data": []}
    with pytest.raises(InvalidRequestError, match="'x59999' comes twice"):
        decode({"inputs": [{"name": name, **one} for name in (*names, names[-1])]})


def test_what_is_null_counts_as_left_out():
    nothing = dict.fromkeys(("id", "parameters", "outputs"))
    document = tensor(data=[1, 2], parameters=None)
    found = decode({**document, **nothing})
    assert (found.id, found.outputs, found.call.signature) == ("", {}, "")
    document["outputs"] = [{"name": "y", "parameters": None}]
    assert decode(document).wanted("y") == oip.AS_JSON


def test_limits_and_missing_forms_are_told():
    with pytest.raises(LimitExceededError, match="elements; at most"):
        decode(tensor(data=[], shape=[1 << 20, 1 << 20]))
    with pytest.raises(UnsupportedError, match="FP16 data via JSON"):
        decode(tensor(data=[1, 2], datatype="FP16"))
    with pytest.raises(InvalidRequestError, match="goes beyond its 6 bytes"):
        oip.decode_raw(b"\x05\0\0\0ab", "x", (1,), "bytes")
    with pytest.raises(InvalidRequestError, match="bytes are left after 1 strings"):
        oip.decode_raw(b"\x01\0\0\0ab", "x", (1,), "bytes")


def test_the_best_classes_are_ranked_with_value_index_and_label():
    scores = np.array([[0.1, 0.826453, 0.05], [0.5, 0.2, 0.3]], np.float32)
    found = oip.classify(scores, 2, ("ant", "bee"))
    assert found.tolist() == [
        [b"0.826453:1:bee", b"0.100000:0:ant"],
        [b"0.500000:0:ant", b"0.300000:2"],
    ]
    assert oip.classify(scores[0], 9, ()).shape == (3,)
    with pytest.raises(InvalidRequestError, match="classification is -1"):
        oip.classify(scores, -1, ())
    with pytest.raises(InvalidRequestError, match="cannot be ranked"):
        oip.classify(np.array([b"a"], object), 1, ())


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "int8", "int64"])
def test_the_best_of_whole_numbers_are_ranked_from_the_largest_on(dtype):
    bounds = np.iinfo(dtype)
    scores = np.array([[0, bounds.max, bounds.min, 5, 5]], dtype)
    found = [text.split(b":")[1] for text in oip.classify(scores, 4, ())[0]]
    assert found == [b"1", b"3", b"4", b"0"]


def test_typed_contents_are_read_and_mixing_is_refused():
    from serving.wire.pool import message

    request = message("inference.ModelInferRequest")(model_name="m")
    made = request.inputs.add(name="x", datatype="INT16", shape=[2])
    made.contents.int_contents.extend([1, -2])
    found = oip_proto.decode_infer_request(request.SerializeToString()).call.inputs["x"]
    assert (found.dtype, found.tolist()) == (np.int16, [1, -2])
    request.raw_input_contents.append(b"\0" * 4)
    with pytest.raises(InvalidRequestError, match="contents beside raw contents"):
        oip_proto.decode_infer_request(request.SerializeToString())
    made.contents.Clear()
    request.inputs.add(name="y", datatype="INT16", shape=[2])
    with pytest.raises(InvalidRequestError, match="2 inputs came with 1 raw contents"):
        oip_proto.decode_infer_request(request.SerializeToString())
    with pytest.raises(InvalidRequestError, match="'x1' is no version number"):
        oip_proto.target_of("m", "x1")
    with pytest.raises(InvalidRequestError, match="names no model"):
        oip_proto.target_of("", "")


def test_an_input_that_comes_twice_is_refused_over_grpc():
    from serving.wire.pool import message

    request = message("inference.ModelInferRequest")(model_name="m")
    for value in (1, 2):
        made = request.inputs.add(name="x", datatype="FP32", shape=[1])
        made.contents.fp32_contents.append(value)
    with pytest.raises(InvalidRequestError, match="'x' comes twice"):
        oip_proto.decode_infer_request(request.SerializeToString())


PARAMETERS = (
    ({"signature_name": "s", "priority": 2, "timeout": 1500, "other": "x"}, None),
    ({"signature_name": 3}, "signature_name is 3"),
    ({"priority": -1}, "priority is -1"),
    ({"timeout": "soon"}, "timeout is 'soon'"),
    ({"triton_secret": 1}, "'triton_secret' starts with 'triton_', which is reserved"),
    ({"triton_enable_empty_final_response": True}, ""),
)


@pytest.mark.parametrize(("parameters", "words"), PARAMETERS)
def test_parameters_mean_the_same_over_rest_and_grpc(parameters, words):
    from serving.wire.pool import message

    request = message("inference.ModelInferRequest")(model_name="m")
    made = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    made.contents.fp32_contents.extend([1, 2])
    for name, value in parameters.items():
        kinds = {bool: "bool_param", int: "int64_param", str: "string_param"}
        setattr(request.parameters[name], kinds[type(value)], value)
    forms = (
        lambda: decode({**tensor(data=[1, 2]), "parameters": parameters}),
        lambda: oip_proto.decode_infer_request(request.SerializeToString()),
    )
    for form in forms:
        if words:
            with pytest.raises(InvalidRequestError, match=words):
                form()
        elif words is None:
            found = form()
            assert (found.call.signature, found.call.priority) == ("s", 2)
            assert found.timeout_s == 0.0015
        else:
            assert form().timeout_s is None


def test_the_earlier_of_timeout_and_deadline_counts():
    request = oip.InferRequest(PredictCall(Target("m"), {}), "", {}, timeout_s=2.0)
    assert request.due(10.0, None).deadline == 12.0
    assert request.due(10.0, 11.0).deadline == 11.0
    assert request.due(10.0, 13.0).deadline == 12.0
    unlimited = oip.InferRequest(PredictCall(Target("m"), {}), "", {})
    assert unlimited.due(10.0, 11.0).deadline == 11.0


def test_a_configuration_is_the_same_over_rest_and_grpc():
    from serving.messages import ModelMetadata
    from serving.wire.pool import message

    signature = Signature(
        "s",
        {"x": TensorSpec("x", "float32", (None, 2))},
        {"y": TensorSpec("y", "bytes", None)},
    )
    metadata = ModelMetadata("m", 3, {"s": signature})
    found = json.loads(oip_json.encode_config(metadata, signature))
    assert (found["name"], found["max_batch_size"]) == ("m", 0)
    assert found["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2]}]
    assert found["output"] == [{"name": "y", "data_type": "TYPE_STRING", "dims": [-1]}]
    answer = message("inference.ModelConfigResponse").FromString(
        oip_proto.encode_config(metadata, signature)
    )
    assert (answer.config.name, list(answer.config.input[0].dims)) == ("m", [-1, 2])
    assert answer.config.output[0].data_type == 13


def test_scalars_have_no_sizes_and_what_is_not_finite_is_written_as_such():
    assert oip.sizes_of(TensorSpec("x", "float32", ())) == []
    request = oip.InferRequest(PredictCall(Target("m"), {}), "", {})
    reply = PredictReply("m", 1, "s", {"y": np.array([[np.nan, np.inf]], np.float32)})
    body, split = oip_json.encode_infer_reply(request, reply, ())
    assert split is None
    assert b"NaN" in body
    found = oip_json.decode_infer_reply(body, None).outputs["y"]
    np.testing.assert_array_equal(found, reply.outputs["y"])


def test_bytes_that_are_no_text_are_not_sent_as_other_ones():
    reply = PredictReply("m", 1, "s", {"y": np.array([b"\xc3\xa9", b"\xff"], object)})
    as_json = oip.InferRequest(PredictCall(Target("m"), {}), "", {})
    with pytest.raises(UnsupportedError, match=r"'y' via JSON .* parameter binary_data"):
        oip_json.encode_infer_reply(as_json, reply, ())
    as_raw = oip.InferRequest(PredictCall(Target("m"), {}), "", {}, oip.AS_RAW)
    body, split = oip_json.encode_infer_reply(as_raw, reply, ())
    found = oip_json.decode_infer_reply(body, str(split)).outputs["y"]
    assert found.tolist() == [b"\xc3\xa9", b"\xff"]


def test_json_numbers_keep_to_their_type():
    assert decode(tensor(data=[1e40, 2])).call.inputs["x"][0, 0] == np.inf
    wide = decode(tensor(data=[2**64 - 1, 0], datatype="UINT64")).call.inputs["x"]
    assert wide.tolist() == [[2**64 - 1, 0]]
    with pytest.raises(InvalidRequestError, match="a value outside UINT8"):
        decode(tensor(data=[300, 0], datatype="UINT8"))


DATA = st.recursive(
    st.floats(-9, 9) | st.integers(-9, 9) | st.booleans() | st.none() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=20,
)


@given(
    DATA,
    st.sampled_from(["FP32", "FP64", "INT32", "BYTES"]),
    st.dictionaries(st.sampled_from(["id", "outputs", "parameters", "inputs"]), DATA, max_size=2),
)
def test_the_fast_path_reads_what_the_general_reader_reads(data, datatype, more):
    document = {
        "inputs": [{"name": "x", "datatype": datatype, "shape": [1], "data": data}],
        **more,
    }
    body = json.dumps(document).encode()
    fast = numbers.read_tensors(body)
    if fast is not None:
        for each in fast["inputs"]:
            assert each["data"].dtype == np.float64
            each["data"] = each["data"].tolist()
        for each in document["inputs"]:
            each["data"] = oip_json._flatten(each["data"])
        assert fast == document


def test_the_fast_path_is_taken_for_the_usual_request():
    pytest.importorskip("simdjson")
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2]}
    outputs = [{"name": "y", "parameters": {"classification": 2}}]
    for data in ([1, 2.5, 3, 4], [[1, 2.5], [3, 4]]):
        body = json.dumps({"id": "7", "inputs": [{**tensor, "data": data}], "outputs": outputs})
        found = numbers.read_tensors(body.encode())
        assert (found["id"], found["outputs"]) == ("7", outputs)
        assert found["inputs"][0]["data"].tolist() == [1, 2.5, 3, 4]
        call = decode(body.encode()).call
        assert call.inputs["x"].tolist() == [[1, 2.5], [3, 4]]
        assert call.inputs["x"].dtype == np.float32
    for data in ([1, True], [1, "2"], [1, None], [1, {}], 5, "5"):
        body = json.dumps({"inputs": [{**tensor, "data": data}]})
        assert numbers.read_tensors(body.encode()) is None
    twice = b'{"inputs": [{"name": "x", "datatype": "FP32", "data": [1], "data": [2]}]}'
    assert numbers.read_tensors(twice) is None
    again = {"inputs": [], "parameters": {"binary_data_output": True, "x": 1}}
    body = json.dumps(again).encode().replace(b'"x": 1', b'"binary_data_output": false')
    assert numbers.read_tensors(body) is None
    assert decode(body).wanted("y").is_binary


@pytest.mark.parametrize("field", [b"\x08\x01", b"\x2a\0", b"\x3a\0"], ids=["no", "inputs", "raw"])
def test_a_large_grpc_request_of_countless_fields_is_refused_before_they_are_read(field):
    """One field after the other in Python: 64 MiB of them took minutes and ten gigabytes."""
    body = b"\x0a\x01m" + field * oip_proto.WORTH_TAKING_APART
    with pytest.raises(LimitExceededError, match="more than 4,096 fields"):
        oip_proto.decode_infer_request(body)


def test_dimensions_are_counted_before_they_are_looked_at():
    """As one byte each, 64 MiB of them took ten seconds."""
    from serving.wire.pool import message

    request = message("inference.ModelInferRequest")(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[-1] * 33)
    with pytest.raises(LimitExceededError, match="33 dimensions; at most 32"):
        oip_proto.decode_infer_request(request.SerializeToString())


def test_a_large_tensor_of_a_grpc_request_is_not_copied():
    image = np.arange(3 * 20_000, dtype=np.float32).reshape(3, 20_000)
    call = PredictCall(Target("m", 2), {"x": image, "y": image[:1]}, "s", ("z",), request_id="7")
    body = oip_proto.encode_infer_request(call)
    found = oip_proto.decode_infer_request(body)
    assert (found.id, found.call.target, found.call.signature) == ("7", Target("m", 2), "s")
    for name, array in call.inputs.items():
        np.testing.assert_array_equal(found.call.inputs[name], array)
        assert np.shares_memory(found.call.inputs[name], np.frombuffer(body, np.uint8))


@given(st.data())
def test_a_large_grpc_request_that_is_cut_or_damaged_is_refused_or_read_whole(data):
    image = np.zeros((1, 20_000), np.float32)
    body = bytearray(oip_proto.encode_infer_request(PredictCall(Target("m"), {"x": image})))
    head = len(body) - image.nbytes
    place = data.draw(st.integers(0, head - 1) | st.integers(len(body) - 10, len(body) - 1))
    if data.draw(st.booleans()):
        del body[place:]
    else:
        body[place] = data.draw(st.integers(0, 255))
    try:
        found = oip_proto.decode_infer_request(bytes(body))
    except (InvalidRequestError, LimitExceededError, UnsupportedError):
        return
    assert all(array.nbytes in (0, image.nbytes) for array in found.call.inputs.values())
