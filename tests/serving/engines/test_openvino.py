"""What the engine changes in a network to run it faster, and that its answers stay."""

import numpy as np
import pytest

from zoo.cores import SHARE, cores

pytestmark = pytest.mark.openvino


def perceptron():
    """Convolution, ReLU, dense, ReLU, dense: images [N, 1, 4, 4] to [N, 3]."""
    import openvino as ov
    from openvino import opset14 as ops

    rng = np.random.default_rng(0)

    def weights(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    image = ops.parameter([-1, 1, 4, 4], np.float32)
    x = ops.convolution(image, weights(2, 1, 3, 3), [1, 1], [0, 0], [0, 0], [1, 1])
    x = ops.reshape(ops.relu(x), np.array([-1, 8]), special_zero=False)
    x = ops.matmul(x, weights(8, 64), transpose_a=False, transpose_b=False)
    x = ops.relu(ops.add(x, weights(1, 64)), name="dense_relu")
    x = ops.matmul(x, weights(64, 3), transpose_a=False, transpose_b=False)
    image.output(0).get_tensor().set_names({"image"})
    x.output(0).get_tensor().set_names({"logits"})
    return ov.Model([x], [image], "perceptron")


def test_dense_layers_are_parted_from_their_relu_and_answer_the_same():
    import openvino as ov

    from serving.engines.openvino import part_dense_from_relu

    plain, parted = perceptron(), perceptron()
    part_dense_from_relu(parted)
    kinds = [node.get_type_name() for node in parted.get_ordered_ops()]
    assert (kinds.count("Relu"), kinds.count("Maximum")) == (1, 1)  # the convolution keeps its own
    image = np.random.default_rng(1).standard_normal((5, 1, 4, 4)).astype(np.float32)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    answers = []
    for model in (plain, parted):
        compiled = ov.Core().compile_model(model, "CPU", settings)
        answers.append(compiled(image)[0])
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "is_parted"), [("fp32", True), ("int8", False)])
def test_only_what_computes_in_fp32_is_parted(precision, is_parted, tmp_path):
    import openvino as ov

    from serving.engines.openvino import OpenVINOModel
    from tests.serving.published import FP32, publish_tiny
    from zoo.artifact import read_manifest

    place = publish_tiny(tmp_path, precision=precision)
    ov.save_model(perceptron(), place / FP32, compress_to_fp16=False)
    model = OpenVINOModel(place, read_manifest(place))
    merged = [
        node.get_rt_info()["originalLayersNames"].astype(str)
        for node in model._compiled.get_runtime_model().get_ordered_ops()
    ]
    assert any("dense_relu" in names and "," in names for names in merged) is not is_parted
    model.close()


@pytest.mark.skipif(cores() == 1, reason="one core is all there is")
def test_a_network_keeps_within_the_share_of_its_process(tmp_path, monkeypatch):
    from serving.engines.openvino import OpenVINOModel
    from tests.serving.published import publish_tiny
    from zoo.artifact import read_manifest

    place = publish_tiny(tmp_path)
    threads = []
    for share in (None, 1):
        monkeypatch.setattr(SHARE, "most_cores", share)
        model = OpenVINOModel(place, read_manifest(place))
        threads.append(model._compiled.get_property("INFERENCE_NUM_THREADS"))
        model.close()
    assert threads[0] != 1
    assert threads[1] == 1
