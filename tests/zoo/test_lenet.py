"""LeNet-5, held against the paper's own figures."""

import subprocess
import sys

import numpy as np
import pytest

import zoo
from zoo.errors import UsageError


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_importing_the_zoo_imports_no_framework():
    code = "import sys, zoo, zoo.cli; zoo.describe('lenet5'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"tensorflow", "keras", "jax", "torch", "openvino"}


def test_an_unknown_model_names_those_that_exist():
    with pytest.raises(UsageError, match=r"No model 'lenet'\. Did you mean 'lenet5'"):
        zoo.create("lenet")


@pytest.mark.tensorflow
def test_an_unknown_option_names_those_that_exist():
    with pytest.raises(UsageError, match="No option of lenet5 'dropout'"):
        zoo.create("lenet5", dropout=0.5)


@pytest.mark.tensorflow
def test_an_image_that_is_too_small_names_both_sizes():
    with pytest.raises(UsageError, match=r"at least 32x32; found \[28, 28, 1\]"):
        zoo.create("lenet5", input_shape=(28, 28, 1))


@pytest.mark.tensorflow
def test_every_layer_of_lenet5_has_the_papers_parameters_and_size():
    model = zoo.create("lenet5")
    paper = {  # section II.B: trainable parameters, output size
        "c1": (156, (28, 28, 6)),
        "s2": (12, (14, 14, 6)),
        "c3": (1_516, (10, 10, 16)),
        "s4": (32, (5, 5, 16)),
        "c5": (48_120, (1, 1, 120)),
        "f6": (10_164, (84,)),
        "logits": (0, (10,)),
    }
    for name, (parameters, size) in paper.items():
        layer = model.get_layer(name)
        assert trainable(layer) == parameters, name
        assert layer.output.shape[1:] == size, name
    assert model.count_params() == 60_840  # with the 840 fixed values of the codes


@pytest.mark.tensorflow
def test_c3_sees_only_the_maps_of_table_i():
    model = zoo.create("lenet5")
    layer = model.get_layer("c3")
    quiet = np.zeros((1, 14, 14, 6), np.float32)
    for source in range(6):
        loud = quiet.copy()
        loud[..., source] = 1.0
        changed = np.abs(np.asarray(layer(loud)) - np.asarray(layer(quiet))).max((0, 1, 2)) > 0
        expected = [source in row for row in layer.table]
        assert changed.tolist() == expected


@pytest.mark.tensorflow
def test_subsampling_sums_four_inputs():
    from zoo.layers import Subsampling

    layer = Subsampling(activation="linear")
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    layer.build(image.shape)
    layer.coefficient.assign([2.0])
    layer.bias.assign([1.0])
    sums = np.array([[0 + 1 + 4 + 5, 2 + 3 + 6 + 7], [8 + 9 + 12 + 13, 10 + 11 + 14 + 15]])
    np.testing.assert_allclose(np.asarray(layer(image))[0, :, :, 0], 2 * sums + 1)


@pytest.mark.tensorflow
def test_scaled_tanh_passes_through_one():
    from zoo.layers import scaled_tanh

    found = np.asarray(scaled_tanh(np.array([-1.0, 0.0, 1.0, 100.0], np.float32)))
    np.testing.assert_allclose(found, [-1, 0, 1, 1.7159], atol=1e-4)


@pytest.mark.tensorflow
def test_the_output_is_the_negated_distance_to_the_codes():
    model = zoo.create("lenet5")
    layer = model.get_layer("logits")
    codes = np.asarray(layer.code)
    assert codes.shape == (10, 84)
    assert set(codes.ravel().tolist()) == {-1.0, 1.0}
    answers = np.asarray(layer(codes))
    assert np.array_equal(answers.argmax(-1), np.arange(10))
    np.testing.assert_allclose(np.diag(answers), 0)
    distances = ((codes[:, None] - codes[None]) ** 2).sum(-1)
    np.testing.assert_allclose(answers, -distances)
    assert len({tuple(code) for code in codes}) == 10


@pytest.mark.tensorflow
def test_initial_weights_lie_within_the_papers_bounds():
    model = zoo.create("lenet5")
    for name, fan_in in (("c1", 25), ("c5", 400), ("f6", 120)):
        kernel = np.asarray(model.get_layer(name).kernel)
        bound = 2.4 / fan_in
        assert np.abs(kernel).max() <= bound
        assert np.abs(kernel).max() > 0.9 * bound


@pytest.mark.tensorflow
def test_the_1998_loss_is_cross_entropy_with_one_more_class():
    import keras

    from zoo.losses import MaximumAPosteriori

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 10)).astype(np.float32)
    ids = rng.integers(0, 10, 6)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wide = np.concatenate([logits, np.full((6, 1), -2.0, np.float32)], axis=1)
    assert float(MaximumAPosteriori(j=2.0)(ids, logits)) == pytest.approx(
        float(plain(ids, wide)), rel=1e-6
    )
    far = float(MaximumAPosteriori(j=1e4)(ids, logits))
    assert far == pytest.approx(float(plain(ids, logits)), rel=1e-6)


@pytest.mark.tensorflow
def test_other_sizes_classes_and_headless_forms_are_built():
    assert zoo.create("lenet5_modern", input_shape=(28, 28, 3), num_classes=7).output_shape == (
        None,
        7,
    )
    assert zoo.create("lenet5", num_classes=26).output_shape == (None, 26)
    assert zoo.create("lenet5", include_top=False).output_shape == (None, 5, 5, 16)
    assert zoo.create("lenet5_modern", include_top=False).output_shape == (None, 5, 5, 16)


@pytest.mark.tensorflow
def test_the_table_of_its_layers_names_the_paper():
    from click.testing import CliRunner

    from zoo.cli import show

    told = CliRunner().invoke(show, ["lenet5"]).output
    assert "[lecun1998]" in told.split("layer")[0]
