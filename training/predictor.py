"""A trained network with all that turns images into its answers: for evaluation and features."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from training.data.views import check, views
from training.run import Run
from zoo.artifact import KERAS_MODEL, read_manifest, read_preprocessing_arrays
from zoo.errors import DataError
from zoo.preprocess import Floats, Pixels, Preprocessing

BATCH = 128


class Predictor:
    """Answers for decoded images of any size.

    Args:
        model: From inputs [N, H, W, C] to logits [N, K].
        preprocessing: With all its numbers.
        arrays: What the fitted steps name.
        labels: The class names.
    """

    def __init__(
        self,
        model: Any,
        preprocessing: Preprocessing,
        arrays: Mapping[str, Floats],
        labels: tuple[str, ...] = (),
    ) -> None:
        self.model = model
        self.preprocessing = preprocessing
        self.labels = labels
        self._arrays = arrays
        self._functions: dict[int, Callable[[Any], Any]] = {}

    def logits(self, images: Iterable[Pixels]) -> Floats:
        """Logits [N, K] of images at the network's input size, uint8 [H, W, C] each."""
        return self._in_batches(self.model, images)

    def of_layer(self, images: Iterable[Pixels], layer: str) -> Floats:
        """The outputs of a layer, float32 [N, ...], for images at the input size."""
        import keras

        part = keras.Model(self.model.input, self.model.get_layer(layer).output)
        return self._in_batches(part, images)

    def logits_of_views(self, images: Iterable[Pixels], kind: str) -> Floats:
        """The logarithm of the mean probabilities over each image's views, [N, K].

        Args:
            images: As decoded, uint8 [h, w, c] each.
            kind: "ten_crop", "multi_crop" or "dense".

        Raises:
            UsageError: the preprocessing leaves nothing for such views.
        """
        check(self.preprocessing, kind)
        model = self.model
        if kind == "dense":
            from zoo.convert import to_fully_convolutional

            model = to_fully_convolutional(model)
        found = []
        for image in images:
            inputs = self.preprocessing.to_input(
                views(image, self.preprocessing, kind), self._arrays
            )
            logits = np.asarray(self._call(model, inputs))
            flat = logits.reshape(-1, logits.shape[-1])
            shifted = np.exp(flat - flat.max(-1, keepdims=True))
            mean = (shifted / shifted.sum(-1, keepdims=True)).mean(0)
            found.append(np.log(np.maximum(mean, 1e-30)))
        return np.array(found, dtype=np.float32)

    def _in_batches(self, model: Any, images: Iterable[Pixels]) -> Floats:
        found = []
        remaining = iter(images)
        while block := list(islice(remaining, BATCH)):
            inputs = self.preprocessing.to_input(np.stack(block), self._arrays)
            found.append(np.asarray(self._call(model, inputs)))
        return np.concatenate(found)

    def _call(self, model: Any, inputs: Floats) -> Any:
        import tensorflow as tf

        if id(model) not in self._functions:
            self._functions[id(model)] = tf.function(
                lambda batch: tf.cast(model(batch, training=False), tf.float32),
                reduce_retracing=True,
            )
        return self._functions[id(model)](tf.constant(inputs)).numpy()


def load(path: Path) -> Predictor:
    """The network of a run or of a published version.

    Raises:
        DataError: `path` is neither.
        CorruptVersionError: the version's manifest is not valid.
    """
    if (path / KERAS_MODEL).is_file():
        manifest = read_manifest(path)
        model = load_keras(path / KERAS_MODEL)
        arrays = read_preprocessing_arrays(path)
        return Predictor(model, manifest.preprocessing, arrays, manifest.labels)
    run = Run(path)
    if not run.model.is_file():
        raise DataError(
            f"{path} is no complete run and no published version: expected model.keras or "
            f"{KERAS_MODEL} in it."
        )
    preprocessing, arrays = run.preprocessing()
    return Predictor(load_keras(run.model), preprocessing, arrays, run.record().labels)


def load_keras(path: Path) -> Any:
    """A network as it answers: without auxiliary classifiers.

    The zoo's own layers are known once their modules are imported.
    """
    from zoo.quiet import import_tensorflow

    import_tensorflow()
    import keras

    import zoo.layers
    import zoo.losses  # noqa: F401 - these register what the file names
    from zoo.models.googlenet import without_auxiliary

    return without_auxiliary(keras.models.load_model(path, compile=False))
