"""The form that OpenVINO runs: the same answers in fewer, faster operations."""

import numpy as np
import pytest

from training.openvino import _pad_in_pools, compile_ir, run_ir, save
from zoo.errors import ArtifactError

pytestmark = pytest.mark.openvino


def pooled(fill=-np.inf, begin=(0, 0, 0, 0), end=(0, 0, 1, 1), *, ceil=False, mode="constant"):
    """A padding before a 3x3 pool of maxima with stride 2, images [N, C, 8, 8]."""
    import openvino as ov
    from openvino import opset14 as ops

    image = ops.parameter([-1, 3, 8, 8], np.float32, name="image")
    image.output(0).get_tensor().set_names({"image"})
    padded = ops.pad(image, np.array(begin), np.array(end), mode, np.float32(fill))
    pool = ops.max_pool(
        padded,
        strides=[2, 2],
        dilations=[1, 1],
        pads_begin=[0, 0],
        pads_end=[0, 0],
        kernel_shape=[3, 3],
        rounding_type="ceil" if ceil else "floor",
        auto_pad="explicit",
    )
    pool.output(0).get_tensor().set_names({"pooled"})
    return ov.Model([pool.output(0)], [image], "pooled")


def kinds(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


def answer(model):
    # Below zero, where a padding with anything but minus infinity would win.
    image = -1 - np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    return run_ir(model, image)["pooled"]


@pytest.mark.parametrize(
    ("begin", "end"), [((0, 0, 0, 0), (0, 0, 1, 1)), ((0, 0, 2, 1), (0, 0, 0, 2))]
)
def test_a_pool_hangs_over_the_edge_by_itself(begin, end):
    before = answer(pooled(begin=begin, end=end))
    model = pooled(begin=begin, end=end)
    _pad_in_pools(model)
    assert "Pad" not in kinds(model)
    np.testing.assert_array_equal(answer(model), before)
    assert model.outputs[0].get_any_name() == "pooled"


@pytest.mark.parametrize(
    "settings",
    [
        {"fill": 0.0},
        {"fill": -2.0},
        {"end": (0, 1, 1, 1)},
        {"end": (0, 0, 3, 3)},
        {"end": (0, 0, -1, -1)},
        {"ceil": True},
        {"mode": "reflect"},
    ],
    ids=str,
)
def test_another_padding_stays(settings):
    before = answer(pooled(**settings))
    model = pooled(**settings)
    _pad_in_pools(model)
    assert "Pad" in kinds(model)
    np.testing.assert_array_equal(answer(model), before)


@pytest.mark.parametrize(
    ("place", "words"),
    [("fp32.bin", r"cannot write fp32.xml \(.*iostream error\)"), ("fp32.xml", "MB free")],
)
def test_a_full_disk_is_told_in_one_line(tmp_path, place, words):
    (tmp_path / place).symlink_to("/dev/full")
    with pytest.raises(ArtifactError, match=words) as told:
        save(pooled(), tmp_path / "fp32.xml")
    assert "\n" not in str(told.value)


def test_what_is_compiled_computes_in_what_was_asked_or_in_fp32():
    import openvino as ov

    native = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision, type_name, capability in (("bf16", "bf16", "BF16"), ("fp16", "f16", "FP16")):
        compiled = compile_ir(pooled(), precision)
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        assert found == (type_name if capability in native else "f32")
