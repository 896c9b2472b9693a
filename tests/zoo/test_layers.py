"""The layers Keras lacks, held against TensorFlow's own operations and against numbers by hand."""

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(11)


def test_lrn_follows_each_convention_as_tensorflow_computes_it():
    import tensorflow as tf

    from zoo.layers import LocalResponseNormalization

    x = (RNG.normal(size=(2, 3, 3, 16)) * 50).astype(np.float32)
    for convention, bias, alpha in (
        ("paper", 2, 1e-4),
        ("cuda-convnet2", 2, 2e-5),
        ("caffe", 1, 2e-5),
    ):
        expected = tf.nn.local_response_normalization(
            x, depth_radius=2, bias=bias, alpha=alpha, beta=0.75
        )
        found = LocalResponseNormalization(convention)(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"No LRN convention 'torch'; there are paper"):
        LocalResponseNormalization("torch")
    with pytest.raises(ValueError, match="odd"):
        LocalResponseNormalization(size=4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_bfloat16"])
def test_lrn_answers_in_every_precision(dtype):
    """300 squared is more than half precision can hold."""
    from zoo.layers import LocalResponseNormalization

    x = np.full((1, 1, 1, 8), 300, np.float32)
    expected = np.asarray(LocalResponseNormalization()(x))
    layer = LocalResponseNormalization(dtype=dtype)
    found = layer(x)
    assert found.dtype == layer.compute_dtype
    np.testing.assert_allclose(np.asarray(found).astype(np.float32), expected, rtol=1e-2)


def test_lrn_on_other_backends_computes_the_same_in_half_precision(monkeypatch):
    import keras

    from zoo.layers import LocalResponseNormalization

    x = np.full((1, 1, 1, 8), 300, np.float32)
    expected = np.asarray(LocalResponseNormalization()(x))
    layer = LocalResponseNormalization(dtype="float16")
    monkeypatch.setattr(keras.config, "backend", lambda: "another")
    found = layer.call(keras.ops.cast(x, "float16"))
    assert found.dtype == "float16"
    np.testing.assert_allclose(np.asarray(found).astype(np.float32), expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("size", "places"), [(55, 27), (110, 55), (112, 56), (26, 13), (13, 6), (57, 28), (2, 1)]
)
def test_ceil_pooling_hangs_over_the_edge(size, places):
    from zoo.layers import CeilMaxPooling2D

    x = -RNG.uniform(1, 2, (1, size, size, 2)).astype(np.float32)  # negative: zeros would win
    found = np.asarray(CeilMaxPooling2D(3, 2)(x))
    assert found.shape[1:3] == (places, places)
    for row in range(places):
        window = x[0, 2 * row : 2 * row + 3, 0:3, 0]
        assert found[0, row, 0, 0] == window.max()


def test_sum_pooling_sums():
    from zoo.layers import SumPooling2D

    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(np.asarray(SumPooling2D(2)(x))[0, :, :, 0], [[10, 18], [42, 50]])


def test_maxout_takes_the_largest_piece():
    from zoo.layers import Maxout

    x = np.array([[1, 5, 3, 2, 7, 6]], np.float32)
    assert np.asarray(Maxout(2)(x)).tolist() == [[5, 3, 7]]
    assert np.asarray(Maxout(3)(x)).tolist() == [[5, 7]]
    with pytest.raises(ValueError, match="6 channels do not divide into 4"):
        Maxout(4)(x)


def test_option_a_halves_pixels_and_adds_zeros():
    from zoo.layers import ZeroPaddedShortcut

    x = RNG.normal(size=(1, 5, 5, 2)).astype(np.float32)
    found = np.asarray(ZeroPaddedShortcut(6, 2)(x))
    assert found.shape == (1, 3, 3, 6)
    np.testing.assert_array_equal(found[..., 2:4], x[:, ::2, ::2])
    assert not found[..., :2].any()
    assert not found[..., 4:].any()


def test_local_layers_with_equal_filters_are_convolutions():
    import tensorflow as tf

    from zoo.layers import LocallyConnected2D

    x = RNG.normal(size=(2, 5, 6, 3)).astype(np.float32)
    layer = LocallyConnected2D(4, 3)
    layer.build(x.shape)
    kernel = RNG.normal(size=(3, 3, 3, 4)).astype(np.float32)
    layer.kernel.assign(np.broadcast_to(kernel.reshape(27, 4), (5, 6, 27, 4)))
    expected = tf.nn.conv2d(x, kernel, 1, "SAME")
    np.testing.assert_allclose(layer(x), expected, atol=1e-4)


def test_filters_are_scaled_back_to_their_rms():
    from zoo.layers import FilterRms

    kernel = RNG.normal(size=(3, 3, 4, 2)).astype(np.float32)
    kernel[..., 1] *= 0.01
    found = np.asarray(FilterRms(0.1)(kernel))
    assert np.sqrt((found[..., 0] ** 2).mean()) == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_array_equal(found[..., 1], kernel[..., 1])


def test_xos_maps_lie_between_minus_one_and_one_and_find_its_features():
    import zoo
    from zoo.models.xo import FEATURES

    model = zoo.create("xo")
    picture = -np.ones((1, 9, 9, 1), np.float32)
    for n in range(1, 8):
        picture[0, n, n, 0] = picture[0, n, 8 - n, 0] = 1
    maps = np.asarray(model.get_layer("conv1")(picture))[0]
    assert maps.min() >= -1
    assert maps.max() == pytest.approx(1.0)
    assert maps[1, 1, 0] == pytest.approx(1.0)  # a falling diagonal at the upper left
    assert maps[1, 5, 2] == pytest.approx(1.0)  # a rising one at the upper right
    assert maps[3, 3, 1] == pytest.approx(1.0)  # the cross in the middle
    patch = picture[0, 2:5, 0:3, 0]
    assert maps[2, 0, 0] == pytest.approx((patch * FEATURES[0]).mean())


def test_a_fully_convolutional_vgg_answers_the_same_and_takes_larger_images():
    import zoo
    from zoo.anatomy import describe
    from zoo.convert import to_fully_convolutional
    from zoo.errors import UsageError

    model = zoo.create("vgg11", input_shape=(64, 64, 3), num_classes=5)
    dense = to_fully_convolutional(model)
    x = RNG.normal(size=(2, 64, 64, 3)).astype(np.float32)
    found = np.asarray(dense(x, training=False))
    assert found.shape == (2, 1, 1, 5)
    np.testing.assert_allclose(found[:, 0, 0], np.asarray(model(x, training=False)), atol=1e-5)
    larger = RNG.normal(size=(1, 96, 128, 3)).astype(np.float32)
    found = np.asarray(dense(larger, training=False))
    assert found.shape == (1, 96 // 32 - 1, 128 // 32 - 1, 5)
    with pytest.raises(UsageError, match="googlenet is no chain"):
        to_fully_convolutional(zoo.create("googlenet", input_shape=(64, 64, 3)))
    with pytest.raises(UsageError, match="logits is in the way"):
        to_fully_convolutional(zoo.create("lenet5"))
    with pytest.raises(UsageError, match="images of any size"):
        describe(dense)
    with pytest.raises(UsageError, match="at least 32x32; found \\[None, None, 3\\]"):
        zoo.create("vgg11", input_shape=(None, None, 3))


def test_layers_of_known_sizes_take_images_whose_size_only_shows_when_they_run():
    import keras

    from zoo.layers import CeilMaxPooling2D, Maxout

    image = keras.Input((None, None, 4))
    for layer in (CeilMaxPooling2D(3, 2), Maxout(2)):
        model = keras.Model(image, layer(image))
        for size in ((58, 61), (9, 9)):
            x = RNG.normal(size=(2, *size, 4)).astype(np.float32)
            np.testing.assert_array_equal(model.predict_on_batch(x), layer(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("zfnet_cifar", {}),
        (
            "convnet",
            {
                "spec": {
                    "activation": "maxout",
                    "stages": [{"filters": 4, "pool": {}}],
                    "dense": [8],
                }
            },
        ),
    ],
)
def test_chains_with_layers_of_our_own_become_fully_convolutional(name, options):
    import zoo
    from zoo.convert import to_fully_convolutional

    model = zoo.create(name, input_shape=(32, 32, 3), num_classes=5, **options)
    dense = to_fully_convolutional(model)
    x = RNG.normal(size=(2, 32, 32, 3)).astype(np.float32)
    found = dense.predict_on_batch(x)
    np.testing.assert_allclose(found[:, 0, 0], model.predict_on_batch(x), atol=1e-4)
    assert min(dense.predict_on_batch(np.zeros((1, 64, 64, 3), np.float32)).shape[1:3]) > 1


@pytest.mark.parametrize(
    ("name", "least"),
    [("alexnet", 64), ("alexnet_owt", 63), ("zfnet", 44), ("densenet121", 29)],
)
def test_the_smallest_image_is_the_smallest_that_leaves_maps(name, least):
    import keras

    import zoo
    from zoo.errors import UsageError

    model = zoo.create(name, input_shape=(least, least, 3), include_top=False)
    assert min(model.output_shape[1:3]) == 1
    keras.backend.clear_session()
    with pytest.raises(UsageError, match=f"at least {least}x{least}"):
        zoo.create(name, input_shape=(least - 1, least, 3))


def test_only_auxiliary_heads_that_are_built_need_larger_images():
    import keras

    import zoo
    from zoo.errors import UsageError

    model = zoo.create("googlenet", input_shape=(79, 79, 3), num_classes=2, auxiliary=True)
    assert model.get_layer("aux1_conv").output.shape == (None, 1, 1, 128)
    zoo.create("googlenet", input_shape=(32, 32, 3), auxiliary=True, include_top=False)
    keras.backend.clear_session()
    with pytest.raises(UsageError, match="at least 79x79"):
        zoo.create("googlenet", input_shape=(78, 79, 3), auxiliary=True)


def test_caffes_networks_start_as_caffe_starts_them():
    """Its "xavier" is uniform within sqrt(3 / fan-in)."""
    import keras

    import zoo

    keras.utils.set_random_seed(1)
    for name, options, names in (
        ("lenet_caffe", {}, ("conv1", "conv2", "fc1", "logits")),
        (
            "googlenet",
            {"auxiliary": True, "input_shape": (96, 96, 3)},
            ("conv1", "inception3a_5x5", "aux1_conv", "aux2_fc", "aux2", "logits"),
        ),
    ):
        model = zoo.create(name, **options)
        for each in names:
            kernel = np.asarray(model.get_layer(each).kernel)
            most = np.sqrt(3 / np.prod(kernel.shape[:-1]))
            assert 0.98 * most < np.abs(kernel).max() <= most, each
            is_biased = name == "googlenet" and each not in ("logits", "aux1", "aux2")
            bias = np.asarray(model.get_layer(each).bias)
            np.testing.assert_allclose(bias, 0.2 if is_biased else 0)
    keras.backend.clear_session()


def test_googlenets_auxiliary_heads_are_there_in_training_alone():
    import keras

    import zoo
    from zoo.anatomy import describe
    from zoo.models.googlenet import without_auxiliary

    model = zoo.create("googlenet", auxiliary=True)
    assert set(model.output) == {"logits", "aux1", "aux2"}
    assert describe(model).parameters == 13_378_280
    inference = without_auxiliary(model)
    assert describe(inference).parameters == 6_998_552
    assert inference.get_layer("conv1") is model.get_layer("conv1")
    torchvisions = zoo.create("googlenet_bn", auxiliary=True)
    assert describe(torchvisions).parameters == 13_004_888
    keras.backend.clear_session()


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "maxout", "tanh", "scaled_tanh", "sigmoid"]
)
@pytest.mark.parametrize("pool", ["max", "average", "sum"])
def test_convnet_builds_every_activation_and_pool(activation, pool):
    import zoo

    spec = {
        "activation": activation,
        "stages": [{"convolutions": 2, "filters": 4, "pool": {"kind": pool}}, {"filters": 6}],
        "dense": [8],
    }
    model = zoo.create("convnet", input_shape=(8, 8, 3), spec=spec)
    assert model.output_shape == (None, 10)
    assert np.isfinite(np.asarray(model(RNG.normal(size=(1, 8, 8, 3)).astype(np.float32)))).all()


def test_a_convnet_comes_from_yaml_and_faults_are_named(tmp_path):
    import zoo
    from zoo.errors import UsageError

    path = tmp_path / "net.yaml"
    path.write_text(
        "stages: [{filters: 4, kernel: 5, padding: valid, pool: {size: 2}}]\ndense: []\n"
    )
    assert zoo.create("convnet", spec=path).output_shape == (None, 10)
    sized = "input_shape: [28, 20, 1]\nnum_classes: 3\nstages: [{filters: 4}]\n"
    path.write_text(sized)
    model = zoo.create("convnet", spec=path)
    assert (model.input_shape, model.output_shape) == ((None, 28, 20, 1), (None, 3))
    assert zoo.create("convnet", spec=path, num_classes=7).output_shape == (None, 7)
    for text, words in (
        ("stages: [{filters: 0}]", "stages.0.filters"),
        ("stage: []", "stage: Extra inputs"),
        ("stages: []", "stages"),
        ("{", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            zoo.create("convnet", spec=path)
    path.write_bytes("stages: é".encode("latin-1"))
    with pytest.raises(UsageError, match="cannot be read"):
        zoo.create("convnet", spec=path)
    too_deep = {"stages": [{"filters": 2, "pool": {"size": 2}}] * 6}
    with pytest.raises(UsageError, match="1 pixels are left"):
        zoo.create("convnet", spec=too_deep)
    with pytest.raises(UsageError, match="at least one class"):
        zoo.create("convnet", num_classes=0)
