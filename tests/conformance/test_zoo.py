"""One list of promises, held by every network of the catalog."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import zoo
from zoo.catalog import CATALOG

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# Where a network of the paper's size would only be large, the smallest image that its sizes allow
# and few classes; None keeps the catalog's.
TINY = {
    "alexnet": (67, 67, 3),
    "caffenet": (67, 67, 3),
    "alexnet_owt": (63, 63, 3),
    "zfnet": (64, 64, 3),
    "zfnet_wide": (64, 64, 3),
    "googlenet": (64, 64, 3),
    "googlenet_bn": (64, 64, 3),
    **{name: (32, 32, 3) for name in CATALOG if name.startswith(("vgg", "resnet", "densenet"))},
}
# Deeper siblings run the same code and layers; tracing them again on each engine shows nothing new.
DEEP = {
    *("vgg13", "vgg16_c", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", "zfnet_wide"),
    *("resnet34", "resnet101", "resnet152", "resnet101_v1_5", "resnet152_v1_5"),
    *("resnet18_v1_5", "resnet34_v1_5"),
    *("resnet50_keras", "resnet101_keras", "resnet152_keras"),
    *("resnet32", "resnet44", "resnet56", "resnet110"),
    *("densenet169", "densenet201", "densenet161", "densenet_bc100_cifar"),
}
TRACED = [name for name in CATALOG if name not in DEEP]

# One network for each file and each layer of the zoo's own: compiling for JAX is slow.
KINDS = (
    *("lenet5", "lenet5_modern", "lenet_caffe", "alexnet", "caffenet", "alexnet_cifar", "zfnet"),
    *("vgg11_lrn", "vgg11_bn", "googlenet", "googlenet_bn", "resnet18", "resnet20"),
    *("densenet40_cifar", "convnet", "xo"),
)

# Receptive field of the last convolution, from the papers' own arithmetic.
FIELDS = {
    "lenet5": ("c5", 32),
    "alexnet": ("conv5", 163),
    "zfnet": ("conv5", 139),
    "vgg11": ("conv5_2", 134),
    "vgg13": ("conv5_2", 140),
    "vgg16_c": ("conv5_3", 140),
    "vgg16": ("conv5_3", 196),
    "vgg19": ("conv5_4", 252),
    "googlenet": ("inception5b", 715),
    "googlenet_bn": ("inception5b", 379),
    "resnet18": ("conv5_2", 435),
    "resnet34": ("conv5_3", 899),
    "resnet50": ("conv5_3", 483),
    "resnet101": ("conv5_3", 1027),
    "resnet152": ("conv5_3", 1507),
    "resnet50_v1_5": ("conv5_3", 427),
    "resnet20": ("conv4_3", 81),
    "resnet110": ("conv4_18", 501),
    "densenet121": ("features_relu", 2071),
    "densenet_bc100_cifar": ("features_relu", 230),
    "densenet40_cifar": ("features_relu", 174),
}
# (layer, output) after each stage, as the papers' tables have them.
SIZES = {
    "alexnet": {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv5": 13, "pool5": 6},
    "caffenet": {"conv1": 55, "pool1": 27, "pool2": 13, "pool5": 6},
    "zfnet": {"conv1": 110, "pool1": 55, "conv2": 26, "pool2": 13, "pool5": 6},
    "vgg16": {"pool1": 112, "pool2": 56, "pool3": 28, "pool4": 14, "pool5": 7},
    "googlenet": {
        "conv1": 112,
        "pool1": 56,
        "pool2": 28,
        "inception3b": 28,
        "pool3": 14,
        "inception4e": 14,
        "pool4": 7,
        "inception5b": 7,
    },
    "resnet50": {
        "conv1": 112,
        "pool1": 56,
        "conv2_3": 56,
        "conv3_4": 28,
        "conv4_6": 14,
        "conv5_3": 7,
    },
    "densenet121": {"conv1": 112, "pool1": 56, "pool2": 28, "pool3": 14, "pool4": 7},
}


def tiny(name, **options):
    classes = min(10, CATALOG[name].num_classes)
    return zoo.create(name, input_shape=TINY.get(name), num_classes=classes, **options)


def images(model, number=2, seed=0):
    shape = (number, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def difference(found, expected):
    return float(
        np.abs(np.asarray(found) - np.asarray(expected)).max() / np.asarray(expected).std()
    )


@pytest.mark.parametrize("name", CATALOG)
def test_the_catalogs_figures_are_those_of_the_built_network(name):
    import keras

    from zoo.anatomy import describe

    spec = CATALOG[name]
    model = zoo.create(name)
    anatomy = describe(model)
    assert model.name == name
    assert model.input_shape == (None, *spec.input.shape)
    assert model.output_shape == (None, spec.num_classes)
    assert anatomy.parameters == spec.parameters
    assert anatomy.macs == spec.macs
    assert (model.layers[0].name, model.layers[-1].name) == ("image", "logits")
    if name in FIELDS:
        layer, field = FIELDS[name]
        assert anatomy[layer].receptive_field == field
    for layer, size in SIZES.get(name, {}).items():
        assert anatomy[layer].output_shape[:2] == (size, size), layer
    keras.backend.clear_session()


@pytest.mark.parametrize("name", CATALOG)
def test_every_network_learns_and_headless_ends_in_maps(name):
    """One step of plain gradient descent on two images lowers their loss; no weight is left out.

    Headless at the same seed it ends in maps, and starts from the very same weights.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = tiny(name)
    drawn = model.get_weights()
    x = images(model)
    ids = np.array([0, 1])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        before = loss(ids, model(x, training=False))
    gradients = tape.gradient(before, model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    assert all(bool(np.isfinite(gradient).all()) for gradient in gradients)
    norm = float(tf.linalg.global_norm(gradients))
    assert norm > 0
    for rate in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        step = rate * float(before) / norm**2
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign_sub(step * gradient)
        after = float(loss(ids, model(x, training=False)))
        if after < float(before):
            break
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign_add(step * gradient)
    assert after < float(before)
    if name in TRACED:
        keras.utils.set_random_seed(1)
        headless = tiny(name, include_top=False)
        assert len(headless.output_shape) == 4
        for found, expected in zip(headless.get_weights(), drawn, strict=False):
            np.testing.assert_array_equal(found, expected)
    keras.backend.clear_session()


@pytest.mark.openvino
@pytest.mark.parametrize("name", TRACED)
def test_every_form_of_a_network_answers_the_same(name, tmp_path):
    """.keras, SavedModel and OpenVINO, within 1e-4 of the logits' standard deviation."""
    import keras
    import openvino as ov
    import tensorflow as tf

    from training import openvino
    from training.publish import OUTPUTS, export

    keras.utils.set_random_seed(2)
    model = tiny(name)
    x = images(model, 3)
    expected = np.asarray(model(x, training=False))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert difference(again(x, training=False), expected) < 1e-6
    export(model, tmp_path / "saved", {"serving_default": OUTPUTS})
    loaded = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    assert difference(loaded(image=tf.constant(x))["logits"], expected) < 1e-4
    openvino.write_ir(tmp_path / "saved", OUTPUTS, tmp_path / "ir" / "fp32.xml")
    # A padding of its own would keep what follows the pool from computing in eight bits. Those of
    # the networks that pad with zeros before the pool, as their papers' code does, stay.
    converted = ov.Core().read_model(tmp_path / "ir" / "fp32.xml").get_ordered_ops()
    fills = [
        each.input_value(0).get_node().input_value(3).get_node().get_data().item()
        for each in converted
        if each.get_type_name() == "MaxPool"
        and each.input_value(0).get_node().get_type_name() == "Pad"
    ]
    assert not np.isneginf(fills).any()
    assert difference(openvino.run_ir(tmp_path / "ir" / "fp32.xml", x)["logits"], expected) < 1e-4
    keras.backend.clear_session()


ON_JAX = """
    import json, sys
    import jax, keras, numpy as np
    import zoo.layers
    assert keras.backend.backend() == "jax"
    for line in sys.stdin:
        path = json.loads(line)
        model = keras.models.load_model(path, compile=False)
        weights = [each.value for each in model.trainable_variables]
        fixed = [each.value for each in model.non_trainable_variables]
        answer = jax.jit(lambda t, n, x: model.stateless_call(t, n, x, training=False)[0])
        print(json.dumps(np.asarray(answer(weights, fixed, np.load(path + ".npy"))).tolist()), flush=True)
"""


@pytest.mark.jax
def test_every_kind_of_network_answers_the_same_on_jax(tmp_path):
    """Keras 3 operations only: the same weights give the same logits on another backend."""
    import keras

    asked, expected = [], {}
    for name in KINDS:
        keras.utils.set_random_seed(4)
        model = tiny(name)
        path = str(tmp_path / f"{name}.keras")
        model.save(path)
        x = images(model)
        np.save(path + ".npy", x)
        asked.append(json.dumps(path))
        expected[name] = np.asarray(model(x, training=False))
        keras.backend.clear_session()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ON_JAX)],
        input="\n".join(asked),
        env=os.environ
        | {
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            # Compiling costs far more than running here, and both give the same numbers.
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line, (name, logits) in zip(done.stdout.splitlines(), expected.items(), strict=True):
        assert difference(np.array(json.loads(line)), logits) < 1e-3, name
