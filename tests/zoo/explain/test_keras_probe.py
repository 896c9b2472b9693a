"""The Keras probe against JAX, against a deconvnet written out by hand, and on every kind of network."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.zoo.explain.reference import (
    convolve_back,
    jax_scores,
    pool_with_switches,
    unpool,
    weights_of,
)
from zoo.errors import ExplainError
from zoo.explain.deconvnet import deconvnet, top_patches
from zoo.explain.geometry import receptive_box
from zoo.explain.grad_cam import grad_cam
from zoo.explain.guided import guided_backpropagation
from zoo.explain.integrated import integrated_gradients
from zoo.explain.inversion import inversion
from zoo.explain.keras_file import KerasFile
from zoo.explain.methods import METHODS, Subject, explain
from zoo.explain.probe import activation_of, ancestors, last_maps, logits
from zoo.explain.remote import RemoteProbe, WorkerError
from zoo.explain.saliency import class_model, saliency
from zoo.explain.sanity import weight_randomisation
from zoo.explain.trace import trace
from zoo.explain.units import activate, unit_of
from zoo.spec import ImageInput

pytestmark = pytest.mark.tensorflow

# One network for each file and each layer of the zoo's own, as small as its sizes allow.
NETWORKS = {
    "lenet5": {},
    "lenet5_modern": {},
    "lenet_caffe": {},
    "xo": {},
    "alexnet": {"input_shape": (67, 67, 3), "num_classes": 7},
    "alexnet_cifar": {},
    "vgg11_lrn": {"input_shape": (32, 32, 3), "num_classes": 7},
    "googlenet": {"input_shape": (64, 64, 3), "num_classes": 7},
    "resnet20": {},
    "densenet40_cifar": {},
    "convnet": {},
    "maxout": {"spec": {"activation": "maxout"}},
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """A network of each kind with its probe, an image, and all its feature maps."""
    import zoo
    from zoo.keras_probe import KerasProbe

    draws = np.random.default_rng(0)
    name = "convnet" if request.param == "maxout" else request.param
    model = zoo.create(name, **NETWORKS[request.param])
    for variable in model.variables:
        if variable.name in ("gamma", "beta", "bias", "moving_mean", "moving_variance"):
            variable.assign(draws.uniform(0.5, 1.5, variable.shape))
    probe = KerasProbe(model)
    image = draws.normal(size=model.input_shape[1:]).astype(np.float32)
    return model, probe, image


def test_feature_maps_are_what_the_network_computes(network):
    model, probe, image = network
    found = probe.feature_maps(image[None], [probe.output])[probe.output]
    assert np.allclose(found, np.asarray(model(image[None])), atol=1e-5)


def test_every_units_arithmetic_gives_the_feature_map(network):
    _, probe, image = network
    draws = np.random.default_rng(1)
    maps = probe.feature_maps(image[None], [layer.name for layer in probe.layers])
    for layer in probe.layers[1:]:
        place = [int(draws.integers(size)) for size in layer.output_shape]
        inputs = [maps[parent][0] for parent in layer.parents]
        unit = unit_of(probe, layer, inputs, maps[layer.name][0], place)
        scale = float(np.abs(maps[layer.name]).max()) + 1e-6
        assert activate(layer, unit.before) == pytest.approx(unit.value, abs=1e-5 * scale), layer


def test_nothing_outside_its_receptive_field_moves_a_unit(network):
    _, probe, image = network
    draws = np.random.default_rng(2)
    with_maps = [layer for layer in probe.layers[1:] if layer.has_maps]
    for layer in with_maps[:: max(1, len(with_maps) // 4)]:
        place = tuple(int(draws.integers(size)) for size in layer.output_shape)
        box = receptive_box(probe.layers, layer.name, *place[:2])
        other = draws.normal(size=image.shape).astype(np.float32)
        other[box.top : box.bottom, box.left : box.right] = image[
            box.top : box.bottom, box.left : box.right
        ]
        found = probe.feature_maps(np.stack([image, other]), [layer.name])[layer.name]
        assert found[0][place] == pytest.approx(found[1][place], rel=1e-4, abs=1e-5)


def test_every_method_works_or_says_why_not(network):
    _, probe, image = network
    shape = ImageInput(
        height=image.shape[0], width=image.shape[1], channels=image.shape[2], value_range=(-2, 2)
    )
    subject = Subject(probe, np.zeros(image.shape, np.uint8), image, shape)
    for name, method in METHODS.items():
        layer = last_maps(probe) if method.needs_layer and name != "filters" else None
        if name == "filters":
            layer = next(
                each.name
                for each in probe.layers
                if each.kind in ("Conv2D", "NormalizedTemplateConv2D")
            )
        options = {
            "occlusion": {"patch": 8 if min(image.shape[:2]) > 9 else 3, "stride": 8},
            "class_model": {"steps": 1},
            "integrated_gradients": {"steps": 2},
            "inversion": {"steps": [1, 1, 1]},
            "invariance": {"values": [0.1]},
        }.get(name, {})
        try:
            found = explain(subject, name, layer=layer, options=options)
        except ExplainError as error:
            said = str(error)
            if name in ("guided_backpropagation", "guided_grad_cam", "deconvnet"):
                below = ancestors(probe.layers, layer or probe.output)
                assert "no ReLU" in said
                assert not {activation_of(each) for each in below} & {"relu", "leaky_relu"}
            else:
                assert name in ("trace", "feature_maps"), said  # too large to be shown
            continue
        assert all(
            np.isfinite(array).all() or name in ("unit", "trace") for array in found.arrays.values()
        )


# --- against JAX --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """conv 3x3, ReLU, pool 2 | conv 3x3, ReLU | dense: a Keras probe, and the same in JAX."""
    import keras
    from keras import layers

    from zoo.keras_probe import KerasProbe

    keras.utils.set_random_seed(3)
    image = keras.Input((12, 12, 2), name="image")
    x = layers.Conv2D(5, 3, name="conv1", activation="relu")(image)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(6, 3, name="conv2")(x)
    x = layers.Activation("relu", name="relu2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(4, name="logits")(x)
    model = keras.Model(image, x)
    for variable in model.variables:
        if variable.name == "bias":
            variable.assign(np.random.default_rng(1).normal(size=variable.shape) * 0.1)
    probe = KerasProbe(model)
    images = np.random.default_rng(2).normal(size=(2, 12, 12, 2)).astype(np.float32)
    return probe, images, weights_of(probe)


def test_a_batch_that_would_not_fit_runs_in_parts(small, monkeypatch):
    probe, images, _ = small
    seed = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    whole = probe.feature_maps(images, ["relu2"])["relu2"], probe.pull_back(images, "logits", seed)
    monkeypatch.setattr(probe, "_rows", 1)
    parts = probe.feature_maps(images, ["relu2"])["relu2"], probe.pull_back(images, "logits", seed)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(whole, parts, strict=True))


def test_saliency_is_jaxs_gradient(small):
    import jax

    probe, images, weights = small
    gradient = jax.grad(lambda x: jax_scores(x, weights)[:, 2].sum())(images)
    assert np.allclose(saliency(probe, images, 2), np.abs(gradient).max(-1), atol=1e-5)


def test_guided_backpropagation_is_jaxs_gradient_with_the_guided_rule(small):
    import jax

    probe, images, weights = small
    gradient = jax.grad(lambda x: jax_scores(x, weights, rule="guided")[:, 1].sum())(images)
    assert np.abs(gradient).max() > 0
    assert np.allclose(guided_backpropagation(probe, images, 1), gradient, atol=1e-5)


def test_grad_cam_is_jaxs(small):
    import jax

    probe, images, weights = small
    maps = jax_scores(images, weights, until="conv1")
    slopes = jax.grad(lambda a: jax_scores(a, weights, since="conv1")[:, 3].sum())(maps)
    expected = np.maximum((np.asarray(maps) * slopes.mean((1, 2), keepdims=True)).sum(-1), 0)
    assert np.allclose(grad_cam(probe, images, 3, layer="conv1"), expected, atol=1e-5)


def test_grad_cam_before_a_mean_and_a_dense_layer_is_the_class_activation_map():
    import keras
    from keras import layers

    from zoo.keras_probe import KerasProbe

    image = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv1")(image)
    mean = layers.GlobalAveragePooling2D(name="mean")(x)
    probe = KerasProbe(keras.Model(image, layers.Dense(2, name="logits")(mean)))
    picture = np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype(np.float32)
    maps = probe.feature_maps(picture, ["conv1"])["conv1"][0]
    kernel = probe.weights("logits")["kernel"][:, 1]
    assert np.allclose(
        grad_cam(probe, picture, 1, layer="conv1")[0], np.maximum(maps @ kernel / 16, 0), atol=1e-5
    )


def test_integrated_gradients_are_jaxs_and_complete(small):
    import jax

    probe, images, weights = small
    found = integrated_gradients(probe, images[0], 0, steps=256)
    alphas = (np.arange(256, dtype=np.float32) + 0.5) / 256
    slope = jax.grad(lambda x: jax_scores(x, weights)[:, 0].sum())
    mean = np.asarray(slope(alphas[:, None, None, None] * images[0])).mean(0)
    assert np.allclose(found.attribution_hwc, images[0] * mean, atol=1e-4)
    assert abs(found.residual) < 0.02 * abs(found.score_difference)


# --- the deconvnet, written out -----------------------------------------------------------------


def test_the_deconvnet_is_the_papers_written_out_by_hand(small):
    probe, images, weights = small
    image = images[0]
    found = deconvnet(probe, image, "relu2", channel=3)
    row, column, channel = found.place
    # Down: rectify, transpose conv2, unpool to the switches, rectify, transpose conv1.
    signal = np.zeros((3, 3, 6), np.float32)
    signal[row, column, channel] = found.activation
    signal = convolve_back(np.maximum(signal, 0), weights["conv2"]["kernel"])
    first = probe.feature_maps(image[None], ["conv1"])["conv1"][0]
    pooled, switches = pool_with_switches(first)
    assert np.allclose(pooled, probe.feature_maps(image[None], ["pool1"])["pool1"][0])
    signal = np.maximum(unpool(signal, switches, first.shape), 0)
    signal = convolve_back(signal, weights["conv1"]["kernel"])
    assert np.abs(signal).max() > 0
    assert np.allclose(found.image_hwc, signal, atol=1e-5)


def test_the_deconvnet_equals_backpropagation_where_every_relu_is_open(small):
    """All weights and inputs positive: every unit is active and every signal positive."""
    import keras

    from zoo.keras_probe import KerasProbe

    model = keras.models.clone_model(small[0].model)
    for variable in model.variables:
        variable.assign(np.abs(np.random.default_rng(0).normal(size=variable.shape)))
    probe = KerasProbe(model)
    image = np.abs(small[1][0])
    found = deconvnet(probe, image, "conv2", channel=0)
    seed = np.zeros((1, 3, 3, 6), np.float32)
    seed[(0, *found.place)] = found.activation
    assert np.allclose(found.image_hwc, probe.pull_back(image[None], "conv2", seed)[0], rtol=1e-5)


def test_normalisation_lets_a_deconvnets_signal_pass_unchanged():
    import keras
    from keras import layers

    from zoo.keras_probe import KerasProbe
    from zoo.layers import LocalResponseNormalization

    image = keras.Input((4, 4, 6), name="image")
    x = layers.Activation("relu", name="relu1")(image)
    x = LocalResponseNormalization("paper", alpha=0.5, name="norm1")(x)
    probe = KerasProbe(keras.Model(image, x))
    picture = np.abs(np.random.default_rng(0).normal(size=(1, 4, 4, 6))).astype(np.float32)
    seed = np.abs(np.random.default_rng(1).normal(size=(1, 4, 4, 6))).astype(np.float32)
    assert np.allclose(probe.pull_back(picture, "norm1", seed, rule="deconvnet"), seed)
    assert not np.allclose(probe.pull_back(picture, "norm1", seed), seed, rtol=0.1)


def test_top_patches_are_found_by_exhaustive_search(small):
    probe, _, _ = small
    images = np.random.default_rng(5).normal(size=(20, 12, 12, 2)).astype(np.float32)
    found = top_patches(probe, [images[:8], images[8:]], "relu2", [1, 4], count=9)
    maps = probe.feature_maps(images, ["relu2"])["relu2"]
    for channel in (1, 4):
        peaks = maps[..., channel].max((1, 2))
        assert [each.index for each in found[channel]] == list(np.argsort(-peaks)[:9])
        for each in found[channel]:
            # pool1's window of two, conv1's of three: (3 - 1) * 2 + 2 + 2 = 8 pixels.
            assert each.pixels_hwc.shape == (8, 8, 2)
            assert each.projection_hwc.shape == (8, 8, 2)


# --- the rest -----------------------------------------------------------------------------------


def test_a_class_model_is_what_the_network_takes_for_its_class(small):
    probe, _, _ = small
    for target in range(4):
        found = class_model(probe, target, steps=40)
        assert logits(probe, found.image_hwc[None])[0].argmax() == target


def test_inversion_finds_an_image_with_the_same_representation(small):
    probe, images, _ = small
    found = inversion(probe, images[0], "conv1", unit=4 / 255, centre=0.0, tv=0.0)
    assert found.error < 0.25
    alike = np.corrcoef(found.image_hwc.ravel(), images[0].ravel())[0, 1]
    assert alike > 0.8


def test_random_weights_change_gradients(small):
    probe, images, _ = small
    steps = weight_randomisation(probe, lambda each: saliency(each, images[:1], 1), seed=4)
    assert [step.layer for step in steps] == ["logits", "conv2", "conv1"]
    assert steps[-1].rank < 0.5


def test_randomising_keeps_the_other_layers(small):
    probe, images, _ = small
    other = probe.randomised(["logits"])
    same = ["conv1", "relu2"]
    before, after = probe.feature_maps(images, same), other.feature_maps(images, same)
    assert all(np.array_equal(before[name], after[name]) for name in same)
    assert not np.allclose(logits(probe, images), logits(other, images))


def test_a_probe_takes_other_weights_by_their_paths(small):
    probe, images, _ = small
    doubled = {each.path: np.asarray(each) * 2 for each in probe.model.variables}
    found = probe.with_weights(doubled).feature_maps(images, ["conv1"])["conv1"]
    assert np.allclose(found, 2 * probe.feature_maps(images, ["conv1"])["conv1"], atol=1e-5)
    del doubled["conv1/bias"]
    with pytest.raises(ExplainError, match=r"conv1/bias has the shape \[5\]"):
        probe.with_weights(doubled)


def test_a_trace_holds_every_number_and_refuses_what_nobody_could_read(small):
    import zoo
    from zoo.keras_probe import KerasProbe

    probe, images, _ = small
    found = trace(probe, images[0])
    assert [step.layer.name for step in found.steps] == [layer.name for layer in probe.layers]
    for step in found.steps[1:]:
        assert step.unit.value == pytest.approx(float(step.output.max()), rel=1e-6)
    with pytest.raises(ExplainError, match="branches at 'conv2_1_add'"):
        trace(KerasProbe(zoo.create("resnet20")), np.zeros((32, 32, 3), np.float32))


def test_a_signal_cannot_go_where_a_layer_does_not_depend(small):
    probe, images, _ = small
    with pytest.raises(ExplainError, match="'conv1' does not depend on 'conv2'"):
        probe.pull_back(images, "conv1", np.zeros((2, 10, 10, 5), np.float32), at="conv2")
    with pytest.raises(ExplainError, match=r"takes images \[N, 12, 12, 2\]; found \[1, 3, 3, 1\]"):
        probe.feature_maps(np.zeros((1, 3, 3, 1), np.float32), ["conv1"])


def test_a_keras_file_is_read_as_keras_reads_it(network, tmp_path):
    model, probe, _ = network
    model.save(tmp_path / "model.keras")
    found = KerasFile(tmp_path / "model.keras")
    assert found.output == probe.output
    assert [(each.name, each.parents) for each in found.layers] == [
        (each.name, each.parents) for each in probe.layers
    ]
    for layer in probe.layers:
        expected, read = probe.weights(layer.name), found.weights(layer.name)
        assert read.keys() == expected.keys(), layer.name
        assert all(np.array_equal(read[name], expected[name]) for name in read), layer.name


def test_a_probe_in_another_process_gives_the_same(small, tmp_path):
    probe, images, _ = small
    probe.model.save(tmp_path / "model.keras")
    remote = RemoteProbe(tmp_path / "model.keras", probe.layers, probe.output)
    try:
        names = [layer.name for layer in probe.layers]
        here, there = probe.feature_maps(images, names), remote.feature_maps(images, names)
        assert all(np.allclose(here[name], there[name], atol=1e-6) for name in names)
        assert np.allclose(
            guided_backpropagation(probe, images, 1), guided_backpropagation(remote, images, 1)
        )
        assert np.array_equal(probe.weights("conv1")["kernel"], remote.weights("conv1")["kernel"])
        with pytest.raises(ExplainError, match="No layer 'conv9'"):
            remote.weights("conv9")
    finally:
        remote.close()


def test_a_worker_that_died_is_started_again(small, tmp_path):
    probe, images, _ = small
    probe.model.save(tmp_path / "model.keras")
    remote = RemoteProbe(tmp_path / "model.keras", probe.layers, probe.output)
    try:
        remote.weights("conv1")
        remote._process.kill()
        remote._process.wait()
        with pytest.raises(WorkerError, match="starts another"):
            remote.weights("conv1")
        assert remote.feature_maps(images, ["logits"])["logits"].shape == (2, 4)
    finally:
        remote.close()
    assert remote._process is None


def test_a_file_that_is_no_network_is_refused_by_the_worker(small, tmp_path):
    (tmp_path / "model.keras").write_bytes(b"nothing")
    remote = RemoteProbe(tmp_path / "model.keras", small[0].layers, "logits")
    with pytest.raises(ExplainError, match=r"Keras cannot read model\.keras"):
        remote.weights("conv1")
    remote.close()
    with pytest.raises(ExplainError, match=r"model\.keras is no Keras file"):
        KerasFile(tmp_path / "model.keras")


ON_JAX = """
import sys
import numpy as np
from pathlib import Path
from zoo.keras_probe import load_probe
from zoo.explain.deconvnet import deconvnet
from zoo.explain.guided import guided_backpropagation
from zoo.explain.saliency import saliency
folder = Path(sys.argv[1])
probe, images = load_probe(folder / "model.keras"), np.load(folder / "images.npy")
import keras
assert keras.backend.backend() == "jax"
np.savez(
    folder / "found.npz",
    saliency=saliency(probe, images, 2),
    guided=guided_backpropagation(probe, images, 2),
    deconvnet=deconvnet(probe, images[0], "relu2", channel=3).image_hwc,
)
"""


@pytest.mark.jax
def test_the_jax_backend_explains_the_same(small, tmp_path):
    probe, images, _ = small
    probe.model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    subprocess.run(
        [sys.executable, "-c", ON_JAX, str(tmp_path)],
        check=True,
        env=os.environ | {"KERAS_BACKEND": "jax"},
    )
    with np.load(tmp_path / "found.npz") as found:
        assert np.allclose(found["saliency"], saliency(probe, images, 2), atol=1e-5)
        assert np.allclose(found["guided"], guided_backpropagation(probe, images, 2), atol=1e-5)
        here = deconvnet(probe, images[0], "relu2", channel=3).image_hwc
        assert np.allclose(found["deconvnet"], here, atol=1e-5)
