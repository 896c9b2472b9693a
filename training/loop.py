"""The training loop: steps, epochs, checkpoints. The same code trains again from where it stopped.

A checkpoint holds every number that decides what comes next: weights, optimizer slots, random
states, the place in the epoch. The order of the images and what is random about them follow from
seed, epoch and place alone, so a run that was stopped, even inside an epoch and even by force, goes
on as if it had not been.
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

from training import batch_norm, fine_tune
from training.checkpoint import Checkpoints, Place
from training.data.dataset import Dataset, Images
from training.data.fit import colour_axes
from training.data.pipeline import Batch, Changes, Slices, batches, order_of_epoch, slices_of
from training.fine_tune import Reused
from training.optimizers import Rate, is_bias, make_loss, make_optimizer
from training.recipe import Plateau, Recipe, Sgd
from training.run import Epoch, Run
from training.strategy import LOST, Devices, lost_worker
from zoo.errors import DataError, InterruptedRunError
from zoo.models.googlenet import AUXILIARY_WEIGHT
from zoo.preprocess import Floats, Preprocessing

# Steps between two looks at the clock, the signals and the progress bar.
STEPS_PER_CALL = 50

# What makes TensorBoard draw a number as a curve; `tf.summary.scalar` needs TensorBoard installed.
SCALAR = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"})
SCALAR.data_class = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; losses and accuracies are means over this epoch so far.

    Attributes:
        images_per_s: Over the last steps.
        waiting: The share of the last steps' time that was spent waiting for data, 0..1.
    """

    epoch: int
    epochs: int
    images: int
    images_per_epoch: int
    loss: float
    accuracy: float
    validation_accuracy: float | None = None
    images_per_s: float = 0.0
    waiting: float = 0.0


class Loop:
    """Trains one network.

    Args:
        recipe: What to do.
        model: From inputs [N, H, W, C] to logits [N, K].
        dataset: Its images as stored: at the network's input size, or larger where crops are cut.
        preprocessing: Its input steps run in the pipeline.
        arrays: What the fitted steps name.
        run: Where checkpoints and metrics go.
        devices: What it trains on.
        reused: What came from trained weights.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: keras.Model,
        dataset: Dataset[Images],
        preprocessing: Preprocessing,
        arrays: Mapping[str, Floats],
        run: Run,
        devices: Devices | None = None,
        reused: Reused | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = model
        batch_norm.fuse(model)
        self.dataset = dataset
        self.run = run
        self._preprocessing = preprocessing
        self._arrays = arrays
        self._devices = devices or Devices("single")
        self._devices.check(recipe)
        self._reused = reused
        self._checkpoints = Checkpoints(run.path, recipe.sha256(), recipe.checkpoints.keep)
        self._loss = make_loss(recipe.loss)
        lighting = recipe.augmentation.lighting
        self._axes = colour_axes(dataset.train) if lighting is not None else None
        steps = len(self._slices(np.arange(len(dataset.train))).starts) // self._devices.replicas
        tuning = recipe.fine_tuning
        multiples = fine_tune.multiples(model, tuning, reused) if tuning is not None else {}
        with self._devices.scope():
            # All that may ever be trained has its slots, also what is still frozen.
            self._trained = list(model.trainable_variables)
            self._rate = Rate(recipe.optimizer.learning_rate, recipe.schedule, steps, recipe.epochs)
            self._optimizer = make_optimizer(recipe.optimizer, self._rate, self._trained, multiples)
            self._loss_scale = (
                keras.Variable(2.0**15, trainable=False, name="loss_scale")
                if recipe.precision == "float16"
                else None
            )
        self._averages = dict(
            zip(
                (each.path for each in self._trained),
                getattr(self._optimizer, "_model_variables_moving_average", ()),
                strict=False,
            )
        )
        self._writer: Any = None
        self._compile()

    def _compile(self) -> None:
        self._train_steps = tf.function(self._train_steps_in_graph)
        self._logits = tf.function(
            lambda images: tf.cast(_main(self.model(images, training=False))[0], tf.float32)
        )

    # --- one step

    def _step(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Takes one batch; gives sums over its images: loss, right answers, images, faults."""
        variables = self.model.trainable_variables
        whole = tf.cast(batch.images, tf.float32)
        with tf.GradientTape() as tape:
            logits, others = _main(self.model(batch.inputs, training=True))
            loss = self._sum_of_losses(batch, logits)
            total = loss / whole
            for other in others:
                total += AUXILIARY_WEIGHT * self._sum_of_losses(batch, other) / whole
            if self.model.losses:
                total += tf.add_n(self.model.losses) / self._devices.replicas
            if self._loss_scale is not None:
                total *= tf.convert_to_tensor(self._loss_scale)
        gradients = self._devices.sum_gradients(tape.gradient(total, variables))
        gradients, is_finite = self._unscaled(gradients)
        if is_finite is None:
            self._optimizer.apply(self._regularised(gradients, variables), variables)
        else:
            tf.cond(
                is_finite,
                lambda: self._apply(gradients, variables),
                lambda: tf.constant(value=False),
            )
        hits = tf.math.equal(tf.argmax(logits, -1), batch.class_ids)
        return (
            loss,
            tf.reduce_sum(tf.cast(hits, tf.float32) * batch.shares),
            tf.cast(tf.shape(batch.class_ids)[0], tf.float32),
            tf.constant(0.0) if is_finite is None else 1.0 - tf.cast(is_finite, tf.float32),
        )

    def _apply(self, gradients: list[Any], variables: list[Any]) -> Any:
        self._optimizer.apply(self._regularised(gradients, variables), variables)
        return tf.constant(value=True)

    def _sum_of_losses(self, batch: Batch, logits: Any) -> Any:
        loss = self._loss(batch.class_ids, logits)
        if self.recipe.augmentation.mixup is not None:
            loss = batch.shares * loss + (1 - batch.shares) * self._loss(batch.partners, logits)
        return tf.reduce_sum(loss)

    def _unscaled(self, gradients: list[Any]) -> tuple[list[Any], Any]:
        """Takes the loss scale out of half-precision gradients, and sets the next one.

        It halves where a gradient has overflowed (the step is left out) and grows slowly again.
        """
        if self._loss_scale is None:
            return gradients, None
        scale = tf.convert_to_tensor(self._loss_scale)
        finite = [tf.reduce_all(tf.math.is_finite(each)) for each in gradients if each is not None]
        is_finite = tf.reduce_all(finite)
        self._loss_scale.assign(
            tf.where(is_finite, tf.minimum(scale * 1.0003, 2.0**24), tf.maximum(scale / 2, 1.0))
        )
        return [None if each is None else each / scale for each in gradients], is_finite

    def _regularised(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """Weight decay through the gradient, the pull to the initial weights, and clipping."""
        settings, tuning = self.recipe.optimizer, self.recipe.fine_tuning
        initial = self._reused.initial if self._reused is not None else {}
        l2_sp = tuning.l2_sp if tuning is not None else 0.0
        found = []
        for gradient, variable in zip(gradients, variables, strict=True):
            decay = settings.weight_decay if isinstance(settings, Sgd) else 0.0
            decay *= settings.bias_decay if is_bias(variable) else 1.0
            each = gradient
            if gradient is not None and l2_sp and variable.path in initial:
                each += fine_tune.pull(variable, initial, l2_sp)
            elif gradient is not None and decay:
                each += decay * variable
            found.append(each)
        if settings.clip_norm is not None:
            found = tf.clip_by_global_norm(found, settings.clip_norm)[0]
        return found

    def _train_steps_in_graph(self, iterator: Any, number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Takes `number` batches; the sums of `_step`, and the seconds spent waiting for data."""
        loss, right, seen, faults = (tf.constant(0.0) for _ in range(4))
        waited = tf.constant(0.0, tf.float64)
        for _ in tf.range(number):
            started = tf.timestamp()
            with tf.control_dependencies([started]):
                batch = next(iterator)
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                waited += tf.timestamp() - started
            sums = self._devices.run(self._step, batch)
            loss += sums[0]
            right += sums[1]
            seen += sums[2]
            faults += sums[3]
        return loss, right, seen, faults, waited

    # --- the whole

    def fit(self, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Trains to the end, from the run's newest checkpoint when there is one.

        Raises:
            InterruptedRunError: SIGINT or SIGTERM came, here or in another worker, or another
                worker was lost; a checkpoint was written, or an earlier one is whole.
            DataError: the loss is no longer a number, or a checkpoint cannot be written.
        """
        try:
            place = self._restore()
            with _signals() as interrupted:
                while place.epoch <= self.recipe.epochs and not place.ended:
                    tuning = self.recipe.fine_tuning
                    if tuning is not None and fine_tune.freeze(self.model, tuning, place.epoch):
                        self._compile()
                    self._fit_epoch(place, on_progress, interrupted)
                    place = place.next_epoch()
                    self._save(place)
        except LOST as error:
            if self._devices.workers == 1:
                raise
            raise lost_worker(error, str(self.run.path)) from error
        self._finish()

    def _slices(self, rows: Any) -> Slices:
        return slices_of(len(rows), self.recipe.batch_size, self._devices.replicas)

    def _iterator(self, place: Place) -> tuple[Any, int]:
        """This epoch's batches from `place` on, and how many steps they are."""
        images, recipe = self.dataset.train, self.recipe
        rows = order_of_epoch(len(images), place.epoch, recipe.seed)[place.images :]
        slices = self._slices(rows)
        changes = None
        if recipe.augmentation != type(recipe.augmentation)():
            changes = Changes(
                recipe.augmentation,
                len(images),
                images.pixels_nhwc.shape[1:3],
                self._preprocessing.input.shape[:2],
                recipe.seed,
                place.epoch,
                self._axes,
            )
        replicas = self._devices.replicas

        def dataset(mine: slice) -> Any:
            def pick(edges: Any) -> Any:
                return edges.reshape(-1, replicas)[:, mine].reshape(-1)

            chosen = Slices(pick(slices.starts), pick(slices.stops), pick(slices.images))
            return batches(images, rows, chosen, self._preprocessing, self._arrays, changes)

        return self._devices.distribute(dataset), len(slices.starts) // replicas

    def _fit_epoch(
        self, place: Place, on_progress: Callable[[Progress], None], interrupted: threading.Event
    ) -> None:
        iterator, steps = self._iterator(place)
        started, before, saved = time.monotonic(), place.images, time.monotonic()
        waited_in_all = 0.0
        while steps:
            number = min(STEPS_PER_CALL, steps)
            call_started = time.monotonic()
            loss, right, seen, faults, waited = (
                float(each) for each in self._train_steps(iterator, tf.constant(number))
            )
            steps -= number
            place.loss_sum += loss
            place.right += right
            place.images += round(seen)
            waited_in_all += waited
            self._check_loss(place, faults=faults, steps=number)
            seconds = time.monotonic() - call_started
            on_progress(
                self._progress(place, images_per_s=seen / seconds, waiting=waited / seconds)
            )
            if self._devices.any(here=interrupted.is_set()):
                self._save(place)
                raise InterruptedRunError(
                    f"Stopped in epoch {place.epoch} after {place.images} images. The same "
                    "command goes on from there."
                )
            if time.monotonic() - saved > self.recipe.checkpoints.every_s:
                self._save(place)
                saved = time.monotonic()
        seconds = time.monotonic() - started
        self._end_epoch(
            place,
            on_progress,
            seconds=seconds,
            images=place.images - before,
            waiting=waited_in_all / max(seconds, 1e-9),
        )

    def _check_loss(self, place: Place, *, faults: float, steps: int) -> None:
        if self._loss_scale is not None and faults < steps * self._devices.replicas:
            return  # In half precision a step that overflowed is left out; all of them is too many.
        if np.isfinite(place.loss_sum) and not faults:
            return
        raise DataError(
            f"The loss is {place.loss_sum} in epoch {place.epoch} after {place.images} "
            "images: training diverged. A smaller optimizer.learning_rate helps."
        )

    def _end_epoch(
        self,
        place: Place,
        on_progress: Callable[[Progress], None],
        *,
        seconds: float,
        images: int,
        waiting: float,
    ) -> None:
        loss, accuracy = self._validate()
        images_per_s = images / max(seconds, 1e-9)
        progress = self._progress(place, accuracy, images_per_s=images_per_s, waiting=waiting)
        on_progress(progress)
        rate = float(keras.ops.convert_to_numpy(self._optimizer.learning_rate))
        if self._devices.is_chief:
            self.run.append_epoch(
                Epoch(
                    epoch=place.epoch,
                    loss=progress.loss,
                    accuracy=progress.accuracy,
                    validation_loss=loss,
                    validation_accuracy=accuracy,
                    learning_rate=rate,
                    seconds=round(seconds, 3),
                    images_per_s=round(images_per_s, 1),
                    waiting=round(waiting, 4),
                )
            )
            self._log(place, progress, loss, accuracy, rate)
            if place.epoch in self.recipe.checkpoints.snapshots:
                with self._averaged():
                    self._checkpoints.save_snapshot(place.epoch, self._weights())
        if accuracy is not None:
            self._learn_from(place, accuracy)

    def _log(
        self,
        place: Place,
        progress: Progress,
        validation_loss: float | None,
        validation_accuracy: float | None,
        rate: float,
    ) -> None:
        """The epoch's figures for TensorBoard."""
        figures = {
            "training/loss": progress.loss,
            "training/accuracy": progress.accuracy,
            "validation/loss": validation_loss,
            "validation/accuracy": validation_accuracy,
            "learning_rate": rate,
            "images_per_s": progress.images_per_s,
            "waiting": progress.waiting,
        }
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.run.path / "tensorboard"))
        with self._writer.as_default(step=place.epoch):
            for name, value in figures.items():
                if value is not None:
                    tf.summary.write(name, tf.constant(value), metadata=SCALAR)
        self._writer.flush()

    def _validate(self) -> tuple[float | None, float | None]:
        """Loss and accuracy on the validation part, as the chief measures them."""
        validation = self.dataset.validation
        if not len(validation):
            return None, None
        measured = np.zeros(2)
        if self._devices.is_chief:
            with self._averaged():
                logits = self.logits(validation)
            losses = self._loss(validation.class_ids, tf.constant(logits))
            measured[:] = (
                float(tf.reduce_mean(losses)),
                float(np.mean(logits.argmax(-1) == validation.class_ids)),
            )
        loss, accuracy = (float(each) for each in self._devices.agree(measured))
        return loss, accuracy

    def _learn_from(self, place: Place, accuracy: float) -> None:
        """What a rise or a standstill of the validation accuracy leads to."""
        if accuracy > place.best_accuracy:
            place.best_accuracy, place.best_epoch = accuracy, place.epoch
            place.waited = place.plateau_waited = 0
            if self._devices.is_chief and self.recipe.select == "best":
                with self._averaged():
                    self._checkpoints.save_best(self._weights())
            return
        place.waited += 1
        place.plateau_waited += 1
        schedule, stopping = self.recipe.schedule, self.recipe.early_stopping
        if (
            isinstance(schedule, Plateau)
            and place.plateau_waited >= schedule.patience
            and place.drops < schedule.most_drops
        ):
            place.scale *= schedule.factor
            place.drops += 1
            place.plateau_waited = 0
            self._rate.scale.assign(place.scale)
        if stopping is not None and place.waited >= stopping.patience:
            place.ended = True

    def _finish(self) -> None:
        """Leaves the model with the weights that the run ends with."""
        best = self._checkpoints.best() if self.recipe.select == "best" else None
        if best is not None and self._devices.is_chief:
            for variable in self.model.variables:
                variable.assign(best[variable.path])
        elif best is None:
            for variable in self._trained:
                if variable.path in self._averages:
                    variable.assign(self._averages[variable.path])

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within, the model has its averaged weights, when the recipe averages them."""
        if not self._averages:
            yield
            return
        before = [keras.ops.convert_to_numpy(each) for each in self._trained]
        for variable in self._trained:
            variable.assign(self._averages[variable.path])
        try:
            yield
        finally:
            for variable, value in zip(self._trained, before, strict=True):
                variable.assign(value)

    def logits(self, images: Images) -> Floats:
        """The network's logits [N, K], float32, for the centre of stored images."""
        rows = np.arange(len(images))
        parts = batches(images, rows, slices_of(len(rows), 256), self._preprocessing, self._arrays)
        return np.concatenate([self._logits(batch.inputs).numpy() for batch in parts])

    def _progress(
        self,
        place: Place,
        validation_accuracy: float | None = None,
        *,
        images_per_s: float,
        waiting: float,
    ) -> Progress:
        return Progress(
            place.epoch,
            self.recipe.epochs,
            place.images,
            len(self.dataset.train),
            place.loss_sum / max(place.images, 1),
            place.right / max(place.images, 1),
            validation_accuracy,
            images_per_s,
            waiting,
        )

    # --- checkpoints

    def _state(self) -> list[Any]:
        own = [self._rate.scale, *([self._loss_scale] if self._loss_scale is not None else [])]
        return [*self.model.variables, *self._optimizer.variables, *own]

    def _weights(self) -> dict[str, Any]:
        return {each.path: keras.ops.convert_to_numpy(each) for each in self.model.variables}

    def _save(self, place: Place) -> None:
        if self._devices.is_chief:
            state = {
                f"{index:04d}": keras.ops.convert_to_numpy(variable)
                for index, variable in enumerate(self._state())
            }
            self._checkpoints.save(place, state)

    def _restore(self) -> Place:
        found = self._checkpoints.load() if self._devices.is_chief else None
        if not self._devices.any(here=found is not None):
            # A worker may be lost before the first epoch ends.
            self._save(Place())
            return Place()
        place, state = found if found is not None else (Place(), {})
        for index, variable in enumerate(self._state()):
            value = state.get(f"{index:04d}", np.zeros(variable.shape))
            variable.assign(self._devices.agree(value).astype(value.dtype))
        fields = ("epoch", "images", "right", "loss_sum", "best_accuracy", "best_epoch")
        more = ("waited", "plateau_waited", "drops", "scale", "ended")
        agreed = self._devices.agree([float(getattr(place, name)) for name in (*fields, *more)])
        return Place(
            **{
                name: type(getattr(Place(), name))(value)
                for name, value in zip((*fields, *more), agreed, strict=True)
            }
        )

    def end(self) -> None:
        """Removes the checkpoints of a run that is complete."""
        if self._devices.is_chief:
            self._checkpoints.remove()


def _main(outputs: Any) -> tuple[Any, list[Any]]:
    """A network's logits, and those of its auxiliary classifiers."""
    if not isinstance(outputs, dict):
        return outputs, []
    return outputs["logits"], [each for name, each in outputs.items() if name != "logits"]


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
