"""The training loop: steps, epochs, checkpoints. The same code trains again from where it stopped.

A checkpoint holds every number that decides what comes next: weights, optimizer slots, random
states, the place in the epoch. The order of the images follows from seed and epoch alone, so a run
that was stopped, even inside an epoch, goes on as if it had not been.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.data.augment import transforms
from training.data.dataset import Dataset, Images
from training.data.pipeline import batches, order_of_epoch
from training.recipe import (
    Adam,
    Constant,
    Cosine,
    CrossEntropy,
    Loss,
    MaximumAPosteriori,
    Optimizer,
    Recipe,
    Schedule,
    Sgd,
    Staircase,
)
from training.run import Epoch, Run
from zoo.artifact import write_atomically
from zoo.errors import DataError, InterruptedRunError
from zoo.models.googlenet import AUXILIARY_WEIGHT
from zoo.preprocess import Floats, Preprocessing

# Steps between two looks at the clock, the signals and the progress bar.
STEPS_PER_CALL = 50

CHECKPOINT_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; losses and accuracies are means over this epoch so far."""

    epoch: int
    epochs: int
    images: int
    images_per_epoch: int
    loss: float
    accuracy: float
    validation_accuracy: float | None = None


class Loop:
    """Trains one network.

    Args:
        recipe: What to do.
        model: From inputs [N, H, W, C] to logits [N, K].
        dataset: Its images already at the network's input size.
        preprocessing: Its input steps run in the pipeline.
        arrays: What the fitted steps name.
        run: Where checkpoints and metrics go.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: keras.Model,
        dataset: Dataset,
        preprocessing: Preprocessing,
        arrays: Mapping[str, Floats],
        run: Run,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.dataset = dataset
        self.run = run
        self._preprocessing = preprocessing
        self._arrays = arrays
        self._loss = make_loss(recipe.loss)
        steps = -(-len(dataset.train) // recipe.batch_size)
        self._optimizer = make_optimizer(recipe.optimizer, recipe.schedule, steps, recipe.epochs)
        self._optimizer.build(model.trainable_variables)
        self._train_steps = tf.function(self._train_steps_in_graph)
        self._logits = tf.function(lambda images: _main(model(images, training=False))[0])

    # --- one step

    def _train_steps_in_graph(
        self, iterator: Any, number: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Takes `number` batches; returns the sums of losses, of right answers and of images."""
        loss_sum, right, seen = tf.constant(0.0), tf.constant(0, tf.int64), tf.constant(0, tf.int64)
        for _ in tf.range(number):
            images, class_ids = next(iterator)
            with tf.GradientTape() as tape:
                logits, others = _main(self.model(images, training=True))
                loss = self._loss(class_ids, logits)
                total = loss + tf.add_n(self.model.losses) if self.model.losses else loss
                for other in others:
                    total += AUXILIARY_WEIGHT * self._loss(class_ids, other)
            variables = self.model.trainable_variables
            self._optimizer.apply(tape.gradient(total, variables), variables)
            count = tf.shape(class_ids, tf.int64)[0]
            hits = tf.math.equal(tf.argmax(logits, -1), class_ids)
            loss_sum += loss * tf.cast(count, tf.float32)
            right += tf.math.count_nonzero(hits)
            seen += count
        return loss_sum, right, seen

    # --- the whole

    def fit(self, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Trains to the end, from the run's checkpoint when there is one.

        Raises:
            InterruptedRunError: SIGINT or SIGTERM came; a checkpoint was written.
            DataError: the loss is no longer a number.
        """
        place = self._restore()
        with _signals() as interrupted:
            while place.epoch <= self.recipe.epochs:
                self._fit_epoch(place, on_progress, interrupted)
                place = Place(epoch=place.epoch + 1)
                self._save(place)

    def _fit_epoch(
        self, place: "Place", on_progress: Callable[[Progress], None], interrupted: threading.Event
    ) -> None:
        images = self.dataset.train
        rows = order_of_epoch(len(images), place.epoch, self.recipe.seed)
        iterator = iter(
            batches(
                images,
                rows[place.images :],
                self.recipe.batch_size,
                self._preprocessing,
                self._arrays,
                self._transforms(place.epoch),
            )
        )
        started, before, saved = time.monotonic(), place.images, time.monotonic()
        while place.images < len(images):
            left = -(-(len(images) - place.images) // self.recipe.batch_size)
            loss_sum, right, seen = self._train_steps(
                iterator, tf.constant(min(STEPS_PER_CALL, left))
            )
            place.loss_sum += float(loss_sum)
            place.right += int(right)
            place.images += int(seen)
            if not np.isfinite(place.loss_sum):
                raise DataError(
                    f"The loss is {place.loss_sum} in epoch {place.epoch} after {place.images} "
                    "images: training diverged. A smaller optimizer.learning_rate helps."
                )
            on_progress(self._progress(place))
            if interrupted.is_set():
                self._save(place)
                raise InterruptedRunError(
                    f"Stopped in epoch {place.epoch} after {place.images} images. The same "
                    "command goes on from there."
                )
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                self._save(place)
                saved = time.monotonic()
        self._end_epoch(place, on_progress, time.monotonic() - started, before)

    def _end_epoch(
        self,
        place: "Place",
        on_progress: Callable[[Progress], None],
        seconds: float,
        before: int,
    ) -> None:
        validation = self.dataset.validation
        loss = accuracy = None
        if len(validation):
            logits = self.logits(validation)
            loss = float(self._loss(validation.class_ids, logits))
            accuracy = float(np.mean(logits.argmax(-1) == validation.class_ids))
        progress = self._progress(place, accuracy)
        on_progress(progress)
        self.run.append_epoch(
            Epoch(
                epoch=place.epoch,
                loss=progress.loss,
                accuracy=progress.accuracy,
                validation_loss=loss,
                validation_accuracy=accuracy,
                learning_rate=float(keras.ops.convert_to_numpy(self._optimizer.learning_rate)),
                seconds=round(seconds, 3),
                images_per_s=round((place.images - before) / max(seconds, 1e-9), 1),
            )
        )

    def logits(self, images: Images) -> Floats:
        """The network's logits [N, K] for images at its input size."""
        rows = np.arange(len(images))
        parts = batches(images, rows, 256, self._preprocessing, self._arrays)
        return np.concatenate([self._logits(batch).numpy() for batch, _ in parts])

    def _transforms(self, epoch: int) -> tuple[Floats, float] | None:
        affine = self.recipe.augmentation.affine
        if affine is None:
            return None
        images = self.dataset.train
        size = images.pixels_nhwc.shape[1:3]
        return transforms(affine, len(images), size, self.recipe.seed, epoch), affine.fill

    def _progress(self, place: "Place", validation_accuracy: float | None = None) -> Progress:
        return Progress(
            place.epoch,
            self.recipe.epochs,
            place.images,
            len(self.dataset.train),
            place.loss_sum / place.images,
            place.right / place.images,
            validation_accuracy,
        )

    # --- checkpoints

    def _state(self) -> list[Any]:
        return [*self.model.variables, *self._optimizer.variables]

    def _save(self, place: "Place") -> None:
        arrays = {
            f"{index:04d}": keras.ops.convert_to_numpy(variable)
            for index, variable in enumerate(self._state())
        }
        place_array = np.array([place.epoch, place.images, place.right, place.loss_sum])
        write_atomically(
            self.run.checkpoint,
            npz(arrays | {"place": place_array, "recipe": np.array(self.recipe.sha256())}),
        )

    def _restore(self) -> "Place":
        if not self.run.checkpoint.exists():
            return Place(epoch=1)
        with np.load(self.run.checkpoint, allow_pickle=False) as file:
            if str(file["recipe"]) != self.recipe.sha256():
                raise DataError(
                    f"The checkpoint at {self.run.checkpoint} belongs to another recipe; "
                    "remove it, or choose another --out."
                )
            for index, variable in enumerate(self._state()):
                variable.assign(file[f"{index:04d}"])
            epoch, images, right, loss_sum = file["place"]
        return Place(int(epoch), int(images), int(right), float(loss_sum))


def _main(outputs: Any) -> tuple[Any, list[Any]]:
    """A network's logits, and those of its auxiliary classifiers."""
    if not isinstance(outputs, dict):
        return outputs, []
    return outputs["logits"], [each for name, each in outputs.items() if name != "logits"]


@dataclass(slots=True)
class Place:
    """Where in the run: the epoch (from 1), and what it has seen and summed so far."""

    epoch: int
    images: int = 0
    right: int = 0
    loss_sum: float = 0.0


def npz(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as the bytes of an .npz file."""
    import io

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that a step is never torn in two."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(name, lambda *_: event.set()) for name in names]
    try:
        yield event
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def make_loss(settings: Loss) -> Any:
    """A function of class ids [N] and logits [N, K] that gives the mean loss."""
    match settings:
        case MaximumAPosteriori():
            from zoo.losses import MaximumAPosteriori as MapLoss

            loss: Callable[[Any, Any], Any] = MapLoss(j=settings.j)
            return loss
        case CrossEntropy(label_smoothing=0.0):
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        case CrossEntropy():
            smoothed: Callable[[Any, Any], Any] = keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=settings.label_smoothing
            )

            def loss_of(ids: Any, logits: Any) -> Any:
                return smoothed(keras.ops.one_hot(ids, logits.shape[-1]), logits)

            return loss_of


def make_optimizer(
    settings: Optimizer, schedule: Schedule, steps_per_epoch: int, epochs: int
) -> keras.optimizers.Optimizer:
    """The Keras optimizer of a recipe."""
    rate = make_schedule(settings.learning_rate, schedule, steps_per_epoch, epochs)
    match settings:
        case Adam():
            return keras.optimizers.Adam(rate, weight_decay=settings.weight_decay or None)
        case Sgd():
            return keras.optimizers.SGD(
                rate,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                weight_decay=settings.weight_decay or None,
            )


def make_schedule(rate: float, settings: Schedule, steps_per_epoch: int, epochs: int) -> Any:
    """A learning rate, or a Keras schedule over steps."""
    match settings:
        case Constant():
            return rate
        case Cosine():
            warmup = round(settings.warmup_epochs * steps_per_epoch)
            return keras.optimizers.schedules.CosineDecay(
                initial_learning_rate=rate / 100 if warmup else rate,
                decay_steps=max(1, epochs * steps_per_epoch - warmup),
                warmup_target=rate if warmup else None,
                warmup_steps=warmup,
            )
        case Staircase():
            return keras.optimizers.schedules.PiecewiseConstantDecay(
                [epoch * steps_per_epoch for epoch in settings.epochs],
                [rate, *(rate * factor for factor in settings.factors)],
            )
