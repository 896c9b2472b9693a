"""Learning rates, losses and steps: against closed forms and against Keras's own."""

import math

import numpy as np
import pytest
from pydantic import TypeAdapter

from training.recipe import Loss, Optimizer, Schedule

pytestmark = pytest.mark.tensorflow

EPOCHS, STEPS = 10, 20


def rates(**settings):
    from training.optimizers import Rate

    schedule = TypeAdapter(Schedule).validate_python(settings)
    rate = Rate(0.5, schedule, STEPS, EPOCHS)
    return np.array([float(rate(step)) for step in range(EPOCHS * STEPS)])


EPOCH = np.arange(EPOCHS * STEPS) / STEPS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "constant"}, np.full(200, 0.5)),
        ({"kind": "plateau"}, np.full(200, 0.5)),
        ({"kind": "cosine"}, 0.25 * (1 + np.cos(np.pi * EPOCH / EPOCHS))),
        (
            {"kind": "staircase", "epochs": [3, 7], "factors": [0.1, 0.02]},
            np.where(EPOCH < 3, 0.5, np.where(EPOCH < 7, 0.05, 0.01)),
        ),
        ({"kind": "step", "every_epochs": 4, "factor": 0.1}, 0.5 * 0.1 ** np.floor(EPOCH / 4)),
        ({"kind": "polynomial", "power": 0.5}, 0.5 * np.sqrt(1 - EPOCH / EPOCHS)),
    ],
)
def test_schedules_are_their_formulas(settings, expected):
    np.testing.assert_allclose(rates(**settings), expected, rtol=1e-4, atol=1e-6)


def test_a_warm_up_rises_from_a_hundredth_to_the_rate():
    found = rates(kind="cosine", warmup_epochs=2)
    assert found[0] == pytest.approx(0.005)
    assert found[40] == pytest.approx(0.5)
    assert (np.diff(found[:40]) > 0).all()
    assert (np.diff(found[40:]) < 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_agrees_with_keras(smoothing):
    import keras

    from training.optimizers import make_loss

    rng = np.random.default_rng(1)
    ids, logits = rng.integers(0, 5, 7), rng.normal(size=(7, 5)).astype(np.float32)
    settings = {"kind": "cross_entropy", "label_smoothing": smoothing}
    found = make_loss(TypeAdapter(Loss).validate_python(settings))(ids, logits)
    reference = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    np.testing.assert_allclose(found, reference(np.eye(5)[ids], logits), rtol=1e-5)


def steps(settings, gradients, multiples=None):
    """A kernel and a bias, both at 1, after some steps with given gradients."""
    import keras
    import tensorflow as tf

    from training.optimizers import Rate, make_optimizer
    from training.recipe import Constant

    optimizer_settings = TypeAdapter(Optimizer).validate_python(settings)
    variables = [
        keras.Variable(np.ones(1, np.float32), name="kernel", dtype="float32"),
        keras.Variable(np.ones(1, np.float32), name="bias", dtype="float32"),
    ]
    optimizer = make_optimizer(
        optimizer_settings,
        Rate(optimizer_settings.learning_rate, Constant(), 1, 1),
        variables,
        multiples,
    )
    for each in gradients:
        optimizer.apply([tf.constant([each]), tf.constant([each])], variables)
    return [float(each.numpy()[0]) for each in variables], optimizer


def test_momentum_is_the_papers():
    (kernel, bias), _ = steps(
        {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "bias_rate": 2}, [1.0, 1.0, 0.0]
    )
    # Velocities of -0.1, -0.19 and -0.171.
    assert kernel == pytest.approx(1 - 0.1 - 0.19 - 0.171)
    assert bias == pytest.approx(1 - 2 * (0.1 + 0.19 + 0.171))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_steps_are_keras_own_in_one_operation(nesterov):
    import keras
    import tensorflow as tf

    from training.optimizers import Rate, make_optimizer
    from training.recipe import Constant

    start, *gradients = np.random.default_rng(4).standard_normal((6, 40)).astype(np.float32)
    settings = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": nesterov}
    ours, theirs = (keras.Variable(start, name="kernel") for _ in range(2))
    optimizer = make_optimizer(
        TypeAdapter(Optimizer).validate_python(settings), Rate(0.1, Constant(), 1, 1), [ours]
    )
    reference = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov)
    step = tf.function(lambda gradient: optimizer.apply([gradient], [ours]))
    for each in gradients:
        step(tf.constant(each))
        reference.apply([tf.constant(each)], [theirs])
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6, atol=1e-6)
    graph = step.get_concrete_function(tf.TensorSpec((40,))).graph
    assert "ResourceApplyKerasMomentum" in {each.type for each in graph.get_operations()}


def test_adam_agrees_with_keras_and_adamw_decays_kernels_alone():
    import keras

    (kernel, bias), _ = steps({"kind": "adam", "learning_rate": 0.1}, [1.0, -0.5, 2.0])
    reference = keras.optimizers.Adam(0.1)
    variable = keras.Variable(np.ones(1, np.float32))
    for each in (1.0, -0.5, 2.0):
        reference.apply([keras.ops.convert_to_tensor([each])], [variable])
    assert kernel == bias == pytest.approx(float(variable.numpy()[0]))
    (kernel, bias), _ = steps({"kind": "adam", "learning_rate": 0.1, "weight_decay": 0.5}, [0.0])
    assert kernel == pytest.approx(0.95)
    assert bias == pytest.approx(1.0)


def test_weight_decay_goes_through_the_momentum_as_in_the_papers():
    """100 steps without gradient, rate .01, momentum .9, decay 5e-4 leave .99546 of a weight."""
    weight, velocity = 1.0, 0.0
    for _ in range(100):
        velocity = 0.9 * velocity - 0.01 * 5e-4 * weight
        weight += velocity
    assert weight == pytest.approx(0.99546, abs=1e-5)
    loop = small_loop(
        [
            *("optimizer.kind=sgd", "optimizer.weight_decay=5e-4"),
            *("optimizer.learning_rate=0.01", "schedule.kind=constant"),
        ]
    )
    (variable,) = [each for each in loop.model.trainable_variables if each.name == "kernel"][:1]
    before = variable.numpy().copy()
    for _ in range(100):
        variables = loop.model.trainable_variables
        zero = [each * 0.0 for each in variables]
        loop._optimizer.apply(loop._regularised(zero, variables), variables)
    np.testing.assert_allclose(variable.numpy(), before * 0.99546, rtol=1e-4, atol=1e-7)


def small_loop(overrides=()):
    from training import recipe as recipes
    from training.data.dataset import Dataset
    from training.loop import Loop
    from training.run import Run
    from zoo.catalog import create
    from zoo.preprocess import Preprocessing, Scale
    from zoo.spec import ImageInput

    recipe = recipes.read("digits_lenet5_modern", ["model.name=convnet", *overrides])
    whole = recipe.data.load()
    few = whole.train.take(np.arange(32))
    model = create("convnet", input_shape=(8, 8, 1), num_classes=10)
    preprocessing = Preprocessing(
        input=ImageInput(height=8, width=8, channels=1, colour="gray"),
        input_steps=(Scale(scale=1 / 255),),
    )
    from pathlib import Path

    dataset = Dataset("few", few, few, few, whole.labels)
    return Loop(recipe, model, dataset, preprocessing, {}, Run(Path("/nonexistent")))


def test_clipping_bounds_the_norm_of_all_gradients_together():
    import tensorflow as tf

    loop = small_loop(["optimizer.clip_norm=0.5"])
    variables = loop.model.trainable_variables
    clipped = loop._regularised([tf.ones_like(each) for each in variables], variables)
    norm = math.sqrt(sum(float(tf.reduce_sum(each**2)) for each in clipped))
    assert norm == pytest.approx(0.5, rel=1e-4)


def test_averaged_weights_are_the_running_mean():
    (kernel, _), optimizer = steps(
        {"kind": "sgd", "learning_rate": 0.1, "momentum": 0, "average": 0.5}, [1.0, 1.0, 1.0]
    )
    assert kernel == pytest.approx(0.7)
    # After the first step the average is the weight itself: .9, then (.9 + .8) / 2, ...
    average = float(optimizer._model_variables_moving_average[0].numpy()[0])
    assert average == pytest.approx(0.775)
