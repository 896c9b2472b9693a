"""A recipe's loss, learning rate and optimizer, as Keras objects."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from training.recipe import (
    Adam,
    Constant,
    Cosine,
    CrossEntropy,
    Loss,
    MaximumAPosteriori,
    Optimizer,
    Plateau,
    Polynomial,
    Schedule,
    Sgd,
    Staircase,
    Step,
)


def make_loss(settings: Loss) -> Callable[[Any, Any], Any]:
    """A function of class ids [N] and logits [N, K] that gives each image's loss, float32 [N]."""
    match settings:
        case MaximumAPosteriori():
            from zoo.losses import MaximumAPosteriori as MapLoss

            return MapLoss(j=settings.j, reduction="none").call
        case CrossEntropy(label_smoothing=smoothing):

            def cross_entropy(ids: Any, logits: Any) -> Any:
                # Softmax in half precision loses what the loss is made of.
                logits = tf.cast(logits, tf.float32)
                if not smoothing:
                    return tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)
                classes = logits.shape[-1]
                targets = tf.one_hot(ids, classes) * (1 - smoothing) + smoothing / classes
                return tf.nn.softmax_cross_entropy_with_logits(targets, logits)

            return cross_entropy


@keras.saving.register_keras_serializable(package="convzoo")
class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of a step.

    Args:
        base: The optimizer's learning rate.
        settings: How it falls.
        steps_per_epoch: Steps in an epoch.
        epochs: Epochs of the whole run.

    Attributes:
        scale: What a plateau multiplies the rate with; a variable, so that a compiled step sees it.
    """

    def __init__(self, base: float, settings: Schedule, steps_per_epoch: int, epochs: int) -> None:
        self._base = base
        self._settings = settings
        self._steps_per_epoch = steps_per_epoch
        self._steps = max(1, epochs * steps_per_epoch)
        self.scale = keras.Variable(1.0, trainable=False, name="rate_scale")

    def __call__(self, step: Any) -> Any:
        """The rate at a step, counted from 0."""
        return self._base * self._factor(tf.cast(step, tf.float32)) * self.scale

    def _factor(self, step: Any) -> Any:
        epoch = step / self._steps_per_epoch
        match self._settings:
            case Constant() | Plateau():
                return tf.constant(1.0)
            case Cosine(warmup_epochs=warmup_epochs):
                warmup = float(round(warmup_epochs * self._steps_per_epoch))
                progress = (step - warmup) / max(1.0, self._steps - warmup)
                falling = 0.5 * (1 + tf.cos(tf.constant(3.14159265358979) * progress))
                rising = 0.01 + 0.99 * step / max(1.0, warmup)
                return tf.where(step < warmup, rising, falling)
            case Staircase(epochs=epochs, factors=factors):
                factor = tf.constant(1.0)
                for start, each in zip(epochs, factors, strict=True):
                    factor = tf.where(epoch >= start, tf.constant(each), factor)
                return factor
            case Step(every_epochs=every, factor=factor):
                return tf.pow(factor, tf.floor(epoch / every))
            case Polynomial(power=power):
                return tf.pow(tf.maximum(0.0, 1 - step / self._steps), power)

    def get_config(self) -> dict[str, Any]:
        """Nothing: a run's recipe is what rebuilds it."""
        return {}


class _Multiplied:
    """An optimizer mixed with this steps each variable at a multiple of the learning rate.

    It leaves summing over workers to the loop, which has more to do with the sum than step.
    """

    multiples: Sequence[float] = ()

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step."""
        multiple = self.multiples[self._get_variable_index(variable)]  # type: ignore[attr-defined]
        super().update_step(gradient, variable, learning_rate * multiple)  # type: ignore[misc]

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


class _OnePassSgd(keras.optimizers.SGD):
    """Steps a variable with TensorFlow's own operation, where there is one device.

    Keras makes the same step of five operations that each go through the whole variable. AlexNet's
    largest dense layer, trained alone, takes a quarter less time in one.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step."""
        if not self.momentum or tf.distribute.has_strategy():
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self.momentums[self._get_variable_index(variable)].value
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=momentum.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
        )


class _Sgd(_Multiplied, _OnePassSgd):
    pass


class _Adam(_Multiplied, keras.optimizers.Adam):
    pass


def make_optimizer(
    settings: Optimizer,
    rate: Rate,
    variables: Sequence[Any],
    multiples: Mapping[str, float] | None = None,
) -> Any:
    """The optimizer of a recipe, built.

    Args:
        settings: The recipe's.
        rate: Its learning rate.
        variables: All that it may ever step.
        multiples: Path of a variable to its own multiple of the rate; 1 for the others.
    """
    average = {"use_ema": True, "ema_momentum": settings.average} if settings.average else {}
    match settings:
        case Adam():
            decay = settings.weight_decay or None
            optimizer: Any = _Adam(rate, weight_decay=decay, name="adam", **average)
            if settings.weight_decay and not settings.bias_decay:
                optimizer.exclude_from_weight_decay([each for each in variables if is_bias(each)])
        case Sgd():
            optimizer = _Sgd(
                rate,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                name="sgd",
                **average,
            )
    optimizer.multiples = tuple(
        (settings.bias_rate if is_bias(each) else 1.0) * (multiples or {}).get(each.path, 1.0)
        for each in variables
    )
    optimizer.build(variables)
    return optimizer


def is_bias(variable: Any) -> bool:
    """Whether a variable is no kernel: biases, the scales and shifts of normalisation."""
    return "kernel" not in variable.name
