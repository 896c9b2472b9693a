"""TensorProto, both ways, and against TensorFlow's own reader and writer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import InvalidRequestError, LimitExceededError
from serving.wire.pool import message
from serving.wire.tensors import decode_tensor, encode_tensor

NUMERIC = (
    *("float32", "float64", "float16", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128"),
)


def proto():
    return message("tensorflow.TensorProto")()


def a_tensor():
    shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    return st.sampled_from(NUMERIC).flatmap(
        lambda name: arrays.arrays(
            np.dtype(name), shapes, elements={"allow_subnormal": False} if "f" in name else None
        )
    )


@given(a_tensor(), st.booleans())
def test_numbers_come_back_as_they_were(array, as_content):
    written = proto()
    encode_tensor(array, written, as_content=as_content)
    found = decode_tensor(type(written).FromString(written.SerializeToString()), "x")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(
    arrays.arrays(
        np.object_,
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        elements=st.binary(max_size=9),
    )
)
def test_strings_come_back_as_they_were(array):
    written = proto()
    encode_tensor(array, written, as_content=True)
    found = decode_tensor(written, "x")
    assert found.shape == array.shape
    assert found.tolist() == array.tolist()


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0, 2)])
def test_tensorflow_reads_ours_and_we_read_tensorflows(name, shape):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    array = (np.arange(int(np.prod(shape))) % 2).reshape(shape).astype(name)
    theirs = tf.make_tensor_proto(array).SerializeToString()
    found = decode_tensor(message("tensorflow.TensorProto").FromString(theirs), "x")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    for as_content in (True, False):
        written = proto()
        encode_tensor(array, written, as_content=as_content)
        read = tf.make_ndarray(tensor_pb2.TensorProto.FromString(written.SerializeToString()))
        np.testing.assert_array_equal(read, array)


@pytest.mark.tensorflow
def test_strings_as_content_are_read_as_tensorflow_writes_them():
    import tensorflow as tf

    array = np.array([b"a", b"", b"x" * 300], dtype=object)
    theirs = tf.constant(array)
    content = b"\x01\x00\xac\x02" + b"a" + b"x" * 300
    written = proto()
    written.dtype, written.tensor_content = 7, content
    written.tensor_shape.dim.add().size = 3
    assert decode_tensor(written, "x").tolist() == theirs.numpy().tolist()


def test_an_array_of_the_other_byte_order_is_sent_as_the_same_numbers():
    array = np.arange(3, dtype=">f4")
    for as_content in (True, False):
        written = proto()
        encode_tensor(array, written, as_content=as_content)
        np.testing.assert_array_equal(decode_tensor(written, "x"), array)


@pytest.mark.tensorflow
@pytest.mark.parametrize("as_content", [True, False])
def test_bfloat16_is_the_type_that_tensorflow_gives_and_takes(as_content):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    array = tf.constant([1.0, -2.5, 0.0], tf.bfloat16).numpy()
    written = proto()
    encode_tensor(array, written, as_content=as_content)
    read = tf.make_ndarray(tensor_pb2.TensorProto.FromString(written.SerializeToString()))
    found = decode_tensor(written, "x")
    assert read.dtype == found.dtype == array.dtype
    assert read.tolist() == found.tolist() == [1.0, -2.5, 0.0]


def declared(dtype, *sizes, **fields):
    written = proto()
    written.dtype = dtype
    for size in sizes:
        written.tensor_shape.dim.add().size = size
    for name, values in fields.items():
        if name == "tensor_content":
            written.tensor_content = values
        else:
            getattr(written, name).extend(values)
    return written


def test_the_last_typed_value_is_repeated_and_none_means_zero():
    assert decode_tensor(declared(1, 4, float_val=[1, 2]), "x").tolist() == [1, 2, 2, 2]
    assert decode_tensor(declared(1, 3), "x").tolist() == [0, 0, 0]
    assert decode_tensor(declared(7, 2), "x").tolist() == [b"", b""]
    assert decode_tensor(declared(3, 2, int_val=[1, 2, 3]), "x").tolist() == [1, 2]
    assert decode_tensor(declared(4, 2, int_val=[300, 2]), "x").tolist() == [44, 2]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (declared(1, 2, tensor_content=b"123"), "8 bytes; tensor_content has 3"),
        (declared(1, -1), "no size may be negative"),
        (declared(0, 1), "type number 0"),
        (declared(101, 1), "type number 101"),
        (declared(7, 2, tensor_content=b"\x05"), "lengths of 2 strings end too early"),
        (declared(7, 2, tensor_content=b"\x01\x01a"), "2 bytes in all; tensor_content has 1"),
        (declared(7, 1, tensor_content=b"\xff" * 20), "end too early"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_input_named(written, words):
    with pytest.raises(InvalidRequestError, match="x.*" + words) as refused:
        decode_tensor(written, "x")
    assert refused.value.field in ("x", "")


def test_a_terabyte_in_twenty_bytes_is_refused_before_anything_is_allocated():
    with pytest.raises(LimitExceededError, match="274,877,906,944 elements; at most"):
        decode_tensor(declared(1, 1 << 19, 1 << 19), "x")
    with pytest.raises(LimitExceededError):
        decode_tensor(declared(1, 2**62, 2**62), "x")


def test_an_empty_tensor_whose_other_sizes_are_too_large_is_refused():
    for sizes in ((2**62, 2**62, 0), (0, 2**62, 2**62)):
        with pytest.raises(LimitExceededError, match="times 0 elements; at most"):
            decode_tensor(declared(1, *sizes), "x")
    assert decode_tensor(declared(1, 0, 224, 224, 3), "x").shape == (0, 224, 224, 3)


def test_dimensions_are_counted_before_they_are_looked_at():
    """As two bytes each, 64 MiB of them took ten seconds."""
    tensor = proto()
    tensor.dtype = 1
    for _ in range(33):
        tensor.tensor_shape.dim.add(size=-1)
    with pytest.raises(LimitExceededError, match="33 dimensions; at most 32"):
        decode_tensor(tensor, "x")
