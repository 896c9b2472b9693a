"""That convolutions taken out of a network answer as those that OpenVINO runs, and what is taken."""

import sys

import numpy as np
import pytest

pytestmark = pytest.mark.openvino

H, W = 15, 13


def network(*layers, shape=(-1, H, W, 3)):
    """Images [N, H, W, 3] through layers, then a mean over rows and columns: "answer"."""
    import openvino as ov
    from openvino import opset14 as ops

    image = ops.parameter(list(shape), np.float32)
    image.output(0).get_tensor().set_names({"image"})
    x = ops.transpose(image, np.array([0, 3, 1, 2]))
    for layer in layers:
        x = layer(x)
    x = ops.reduce_mean(x, np.array([2, 3]))
    x.output(0).get_tensor().set_names({"answer"})
    return ov.Model([x], [image], "network")


def channels(x):
    return getattr(x, "output", lambda _: x)(0).get_partial_shape()[1].get_length()


def convolution(outputs, kernel=3, stride=1, pad=1, dilation=1, auto_pad="explicit"):
    from openvino import opset14 as ops

    def of(x):
        inputs = channels(x)
        rng = np.random.default_rng(outputs + inputs)
        weights = rng.standard_normal((outputs, inputs, kernel, kernel)).astype(np.float32) / 9
        two = [stride] * 2, [pad] * 2, [pad] * 2, [dilation] * 2
        return ops.convolution(x, weights, *two, auto_pad=auto_pad)

    return of


def pool(kernel=2, stride=2, pad=0, rounding="floor"):
    from openvino import opset14 as ops

    def of(x):
        more = [stride] * 2, [1, 1], [pad] * 2, [pad] * 2, [kernel] * 2, rounding
        return ops.max_pool(x, *more).output(0)

    return of


def each_channel(operation):
    from openvino import opset14 as ops

    def of(x):
        number = channels(x)
        values = np.random.default_rng(number).standard_normal((1, number, 1, 1))
        return getattr(ops, operation)(x, values.astype(np.float32))

    return of


def relu(x):
    from openvino import opset14 as ops

    return ops.relu(x)


def each_column(x):
    from openvino import opset14 as ops

    return ops.add(x, np.arange(W, dtype=np.float32))


@pytest.fixture
def any_size(monkeypatch):
    """Small networks are worth it, too."""
    monkeypatch.setattr("serving.engines.winograd.LEAST_MULTIPLICATIONS", 1)


def answer(model, name, data):
    import openvino as ov

    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({name: data})["answer"]


def images(rows=3):
    return np.random.default_rng(0).standard_normal((rows, H, W, 3)).astype(np.float32)


CHAINS = {
    "one": [convolution(8)],
    "bias and ReLU": [convolution(16), each_channel("add"), relu],
    "deep, so that Winograd's kernels are taken": [
        *(convolution(64), each_channel("add"), relu),
        *(convolution(64), each_channel("add"), relu),
        pool(),
        *(convolution(128), each_channel("add"), relu),
    ],
    "batch normalisation": [
        *(convolution(32), each_channel("multiply"), each_channel("add"), relu),
        *(convolution(32), each_channel("add"), each_channel("multiply"), relu),
    ],
    "overlapping pool": [convolution(16), relu, pool(3, 2), convolution(16)],
    "same": [convolution(16, auto_pad="same_upper"), relu],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_chain_is_taken_whole_and_answers_the_same(chain, any_size):
    from serving.engines.winograd import SEAM, take_trunk

    plain, cut = network(*chain), network(*chain)
    trunk = take_trunk(cut, 2)
    assert trunk is not None
    assert cut.inputs[0].get_names() == {SEAM}
    assert "Convolution" not in {each.get_type_name() for each in cut.get_ops()}
    expected = answer(plain, "image", images())
    found = answer(cut, SEAM, trunk.run(images()))
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.std()) + 1e-6)
    trunk.close()


NOT_TAKEN = {
    "stride": convolution(8, stride=2),
    "kernel": convolution(8, kernel=5, pad=2),
    "pad": convolution(8, pad=0),
    "dilation": convolution(8, pad=2, dilation=2),
    "pool with a pad": pool(3, 2, pad=1),
    "pool that rounds up": pool(2, 2, rounding="ceil"),
}


@pytest.mark.parametrize("layer", NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_other_layers_stay_with_openvino(layer, any_size):
    from serving.engines.winograd import SEAM, take_trunk

    chain = [convolution(16), relu, layer, convolution(8)]
    plain, cut = network(*chain), network(*chain)
    trunk = take_trunk(cut, 1)
    assert trunk is not None
    assert cut.inputs[0].get_partial_shape()[1].get_length() == 16
    left = sum(each.get_type_name() == "Convolution" for each in cut.get_ops())
    assert left == sum(each.get_type_name() == "Convolution" for each in plain.get_ops()) - 1
    expected = answer(plain, "image", images())
    found = answer(cut, SEAM, trunk.run(images()))
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.std()) + 1e-6)


def branches(x):
    from openvino import opset14 as ops

    return ops.concat([convolution(4)(x), relu(x)], 1)


@pytest.mark.parametrize(
    "model",
    [
        lambda: network(convolution(8, stride=2), convolution(8)),
        lambda: network(branches),
        lambda: network(convolution(8), shape=(-1, -1, -1, 3)),
    ],
    ids=["another layer first", "branches", "images of any size"],
)
def test_a_network_that_begins_otherwise_stays_as_it_was(model, any_size):
    from serving.engines.winograd import take_trunk

    network = model()
    before = [each.get_type_name() for each in network.get_ordered_ops()]
    assert take_trunk(network, 1) is None
    assert [each.get_type_name() for each in network.get_ordered_ops()] == before


def test_what_is_added_to_columns_is_no_bias(any_size):
    from serving.engines.winograd import SEAM, take_trunk

    chain = [convolution(W), each_column, relu]
    plain, cut = network(*chain), network(*chain)
    trunk = take_trunk(cut, 1)
    assert "Add" in {each.get_type_name() for each in cut.get_ops()}
    found = answer(cut, SEAM, trunk.run(images()))
    np.testing.assert_allclose(found, answer(plain, "image", images()), rtol=1e-5, atol=1e-5)


def test_a_value_that_is_used_twice_is_where_openvino_begins(any_size):
    from serving.engines.winograd import SEAM, take_trunk

    chain = [convolution(16), relu, branches]
    plain, cut = network(*chain), network(*chain)
    trunk = take_trunk(cut, 1)
    found = answer(cut, SEAM, trunk.run(images()))
    expected = answer(plain, "image", images())
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.std()) + 1e-6)


def test_what_is_not_worth_it_stays_as_it_was():
    from serving.engines.winograd import take_trunk

    small = network(convolution(8))
    assert take_trunk(small, 1) is None
    assert small.inputs[0].get_names() == {"image"}


def not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)


def no_room(monkeypatch):
    def refused():
        raise FileNotFoundError("No usable temporary directory found.")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refused)


def refused(monkeypatch):
    monkeypatch.setattr("serving.engines.winograd._written", lambda *_: ("no network", []))


@pytest.mark.parametrize("prevent", [not_there, no_room, refused])
def test_where_ncnn_cannot_run_them_openvino_does_and_the_log_says_so(
    prevent, any_size, monkeypatch, caplog
):
    from serving.engines.winograd import take_trunk

    prevent(monkeypatch)
    whole = network(convolution(8))
    assert take_trunk(whole, 1) is None
    assert answer(whole, "image", images()).shape == (3, 8)
    assert "stay with OpenVINO" in caplog.text


@pytest.mark.parametrize("shape", [(1, W, H, 3), (1, H, W, 4), (0, H, W, 3), (1, H * W * 3)])
def test_images_of_another_shape_are_refused(shape, any_size):
    from serving.engines.winograd import take_trunk
    from serving.errors import InvalidRequestError

    trunk = take_trunk(network(convolution(8)), 1)
    with pytest.raises(InvalidRequestError, match=rf"{H}, {W}, 3"):
        trunk.run(np.zeros(shape, np.float32))


@pytest.mark.parametrize(("precision", "is_taken"), [("fp32", True), ("int8", False)])
def test_the_engine_takes_them_out_of_what_computes_in_fp32(
    precision, is_taken, any_size, tmp_path
):
    import openvino as ov

    from serving.engines.openvino import OpenVINOModel
    from tests.serving.published import FP32, publish_tiny
    from zoo.artifact import read_manifest

    def whole():
        return network(*CHAINS["bias and ReLU"])

    place = publish_tiny(tmp_path, precision=precision)
    ov.save_model(whole(), place / FP32, compress_to_fp16=False)
    model = OpenVINOModel(place, read_manifest(place))
    assert (model._trunk is not None) is is_taken
    for rows in (1, 5):
        found = model.run("serving_default", {"image": images(rows)})["answer"]
        expected = answer(whole(), "image", images(rows))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    model.close()
