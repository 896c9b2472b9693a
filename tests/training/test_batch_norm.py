"""Batch normalisation in one operation: the same numbers as Keras's dozen."""

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow


def layer_of(**options):
    import keras

    keras.utils.set_random_seed(3)
    inputs = keras.Input((5, 4, 3))
    layer = keras.layers.BatchNormalization(
        beta_initializer="random_normal",
        gamma_initializer="random_uniform" if options.get("scale", True) else "ones",
        **options,
    )
    return keras.Model(inputs, layer(inputs)), layer


def trained_once(model, layer, x):
    """Outputs, gradients by input and weights, and the moving statistics after one step."""
    import tensorflow as tf

    weights = np.random.default_rng(2).standard_normal(x.shape).astype(np.float32)
    image = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(image)
        outputs = model(image, training=True)
        total = tf.reduce_sum(outputs * weights)
    gradients = tape.gradient(total, [image, *model.trainable_variables])
    return [outputs, *gradients, layer.moving_mean, layer.moving_variance]


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9, "epsilon": 1e-5}, {"scale": False}, {"center": False}, {"axis": 3}],
)
def test_a_step_gives_what_keras_gives(options):
    from training.batch_norm import fuse

    x = 3 + 2 * np.random.default_rng(1).standard_normal((6, 5, 4, 3)).astype(np.float32)
    expected = trained_once(*layer_of(**options), x)
    model, layer = layer_of(**options)
    fuse(model)
    found = trained_once(model, layer, x)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=2e-4, atol=2e-5)


def names_of_operations(model, shape):
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=True))
    graph = function.get_concrete_function(tf.TensorSpec(shape, tf.float32)).graph
    return {each.type for each in graph.get_operations()}


def test_it_is_one_operation_and_what_it_cannot_do_is_left_to_keras():
    import keras

    from training.batch_norm import fuse

    model, _ = layer_of()
    assert "FusedBatchNormV3" not in names_of_operations(model, (2, 5, 4, 3))
    fuse(model)
    assert "FusedBatchNormV3" in names_of_operations(model, (2, 5, 4, 3))
    other, _ = layer_of(axis=1)
    fuse(other)
    assert "FusedBatchNormV3" not in names_of_operations(other, (2, 5, 4, 3))
    model.layers[1].trainable = False
    assert "FusedBatchNormV3" not in names_of_operations(model, (2, 5, 4, 3))
    flat = keras.Sequential([keras.Input((7,)), keras.layers.BatchNormalization()])
    fuse(flat)
    assert "FusedBatchNormV3" not in names_of_operations(flat, (2, 7))


def test_what_is_saved_is_keras_own(tmp_path):
    import keras

    from training.batch_norm import fuse

    model, _ = layer_of()
    fuse(model)
    x = np.random.default_rng(1).standard_normal((2, 5, 4, 3)).astype(np.float32)
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.layers[1]) is keras.layers.BatchNormalization
    np.testing.assert_array_equal(np.array(again(x)), np.array(model(x)))


def test_it_reaches_into_models_inside_a_model():
    import keras

    from training.batch_norm import fuse

    inner, _ = layer_of()
    inputs = keras.Input((5, 4, 3))
    outer = keras.Model(inputs, inner(inputs))
    fuse(outer)
    assert "FusedBatchNormV3" in names_of_operations(outer, (2, 5, 4, 3))
