"""A live Keras model as a `Probe`: the one place where explanations meet Keras.

The network is run layer by layer, so that every output can be taken, a signal can be put in
anywhere, and a ReLU can follow another rule on the way back, wherever it stands (inside a layer or
as a layer of its own). It runs on Keras's TensorFlow and JAX backends.

Array names: n image, h row, w column, c channel.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from zoo.errors import ExplainError
from zoo.explain.probe import (
    Floats,
    Layer,
    Rule,
    ancestors,
    layers_from_config,
    require_layer,
    rows_at_once,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Layers that a signal passes unchanged on its way back through a deconvnet [zeiler2014].
NORMALISATIONS = ("LocalResponseNormalization",)


class KerasProbe:
    """Looks into a flat functional model.

    Args:
        model: From images to logits, or to a dict with "logits".

    Raises:
        ExplainError: a model that is not functional.
    """

    def __init__(self, model: keras.Model) -> None:
        layers, self.output = layers_from_config(json.loads(model.to_json()))
        self.model = model
        self._keras = {layer.name: layer for layer in model.layers}
        self.layers = tuple(
            layer.model_copy(
                update={"output_shape": tuple(self._keras[layer.name].output.shape[1:])}
            )
            for layer in layers
        )
        self._rows = rows_at_once(self.layers)
        # A rule stands in for a layer's activation while it runs, so one call runs at a time.
        self._lock = threading.RLock()

    def feature_maps(self, images_nhwc: Floats, layers: Sequence[str]) -> Mapping[str, Floats]:
        """The outputs of some layers, [N, ...] each."""
        for name in layers:
            require_layer(self, name)
        images = self._checked(images_nhwc)
        parts: list[dict[str, Floats]] = []
        with self._lock:
            for start in range(0, len(images), self._rows):
                found = self._forward(_tensor(images[start : start + self._rows]), layers, "relu")
                parts.append({name: _array(found[name]) for name in layers})
        return {name: np.concatenate([part[name] for part in parts]) for name in layers}

    def pull_back(
        self,
        images_nhwc: Floats,
        layer: str,
        seed: Floats,
        *,
        at: str | None = None,
        rule: Rule = "relu",
    ) -> Floats:
        """Sends a signal back from a layer's output; see `Probe`."""
        end = at or self.layers[0].name
        reached = {each.name for each in ancestors(self.layers, require_layer(self, layer).name)}
        require_layer(self, end)
        if end not in reached:
            raise ExplainError(f"{layer!r} does not depend on {end!r}; nothing comes back to it.")
        images, signal = self._checked(images_nhwc), np.asarray(seed, np.float32)
        parts = []
        with self._lock:
            for start in range(0, len(images), self._rows):
                rows = slice(start, start + self._rows)
                parts.append(self._pulled(images[rows], layer, signal[rows], end, rule))
        return np.concatenate(parts)

    def _pulled(
        self, images_nhwc: Floats, layer: str, seed: Floats, end: str, rule: Rule
    ) -> Floats:
        image = _tensor(images_nhwc)
        shape = (len(images_nhwc), *require_layer(self, end).output_shape)

        def outputs(shift: Any) -> Any:
            return self._forward(image, [layer], rule, shifts={end: shift})[layer]

        # The gradient by a shift of zero is the gradient by what is shifted.
        return _pull(outputs, np.zeros(shape, np.float32), seed)

    def weights(self, layer: str) -> Mapping[str, Floats]:
        """A layer's weights by their Keras names."""
        require_layer(self, layer)
        return {
            each.name: np.asarray(_array(each), np.float32) for each in self._keras[layer].weights
        }

    def randomised(self, layers: Sequence[str], seed: int = 0) -> "KerasProbe":
        """The same network with the weights of some layers drawn anew, the others kept.

        They are drawn by the layers' own initialisers, as before training.

        Args:
            layers: Whose weights to draw.
            seed: Of the draws.
        """
        for name in layers:
            require_layer(self, name)
        keras.utils.set_random_seed(seed)
        fresh = keras.models.clone_model(self.model)
        for layer in fresh.layers:
            if layer.name not in layers:
                layer.set_weights(self._keras[layer.name].get_weights())
        return KerasProbe(fresh)

    def with_weights(self, weights: Mapping[str, Any]) -> "KerasProbe":
        """The same network with other weights, by the paths of its variables ("conv1/kernel").

        Raises:
            ExplainError: a variable has no weights, or of another shape.
        """
        fresh = keras.models.clone_model(self.model)
        for variable in fresh.variables:
            found = weights.get(variable.path)
            if found is None or found.shape != tuple(variable.shape):
                have = "none" if found is None else list(found.shape)
                raise ExplainError(
                    f"{variable.path} has the shape {list(variable.shape)}; the weights given for "
                    f"it: {have}."
                )
            variable.assign(found)
        return KerasProbe(fresh)

    def _checked(self, images_nhwc: Floats) -> Floats:
        shape = self.layers[0].output_shape
        if images_nhwc.ndim != 4 or images_nhwc.shape[1:] != shape or not len(images_nhwc):
            raise ExplainError(
                f"The network takes images [N, {', '.join(map(str, shape))}]; "
                f"found {list(images_nhwc.shape)}."
            )
        return np.asarray(images_nhwc, np.float32)

    def _forward(
        self,
        image: Any,
        until: Sequence[str],
        rule: Rule,
        shifts: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Runs what `until` depends on; `shifts` are added to the outputs they name."""
        needed = {each.name for name in until for each in ancestors(self.layers, name)}
        values: dict[str, Any] = {}
        for layer in self.layers:
            if layer.name not in needed:
                continue
            if layer.parents:
                taken = [values[parent] for parent in layer.parents]
                value = self._run(layer, taken[0] if len(taken) == 1 else taken, rule)
            else:
                value = image
            if shifts and layer.name in shifts:
                value = value + shifts[layer.name]
            values[layer.name] = value
        return values

    def _run(self, layer: Layer, taken: Any, rule: Rule) -> Any:
        kind = self._keras[layer.name]
        if rule == "relu":
            return kind(taken)
        if rule == "deconvnet" and layer.kind in NORMALISATIONS:
            return _passing_back(kind)(taken)
        slope = _slope(kind)
        if slope is None:
            return kind(taken)
        if not hasattr(kind, "activation"):
            return _ruled(rule, slope)(taken)
        with _activation(kind, _ruled(rule, slope)):
            return kind(taken)


def _slope(layer: keras.layers.Layer) -> float | None:
    """The slope of a layer's rectifier below zero; None when it has no rectifier."""
    if isinstance(layer, keras.layers.ReLU):
        return None if layer.max_value or layer.threshold else float(layer.negative_slope)
    if isinstance(layer, keras.layers.LeakyReLU):
        return float(layer.negative_slope)
    return 0.0 if getattr(layer, "activation", None) is keras.activations.relu else None


@contextmanager
def _activation(layer: keras.layers.Layer, function: Callable[[Any], Any]) -> "Iterator[None]":
    kept = layer.activation
    layer.activation = function
    try:
        yield
    finally:
        layer.activation = kept


@cache
def _ruled(rule: Rule, slope: float) -> Callable[[Any], Any]:
    """A rectifier with another way back; `slope` is what it does below zero, both ways."""

    @ops.custom_gradient
    def rectifier(x: Any) -> Any:
        def back(*args: Any, upstream: Any = None) -> Any:
            signal = args[0] if upstream is None else upstream
            ruled = ops.where(signal > 0, signal, slope * signal)
            return ops.where(x > 0, ruled, slope * ruled) if rule == "guided" else ruled

        return ops.where(x > 0, x, slope * x), back

    function: Callable[[Any], Any] = rectifier
    return function


def _passing_back(layer: keras.layers.Layer) -> Callable[[Any], Any]:
    """A layer that runs forward and lets everything pass on the way back."""

    @ops.custom_gradient
    def run(x: Any) -> Any:
        def back(*args: Any, upstream: Any = None) -> Any:
            return args[0] if upstream is None else upstream

        return layer(x), back

    function: Callable[[Any], Any] = run
    return function


def _pull(function: Callable[[Any], Any], place: Floats, seed: Floats) -> Floats:
    """The vector-Jacobian product of a function at a place."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        start = tf.constant(place)
        with tf.GradientTape() as tape:
            tape.watch(start)
            outputs = function(start)
        found = tape.gradient(outputs, start, tf.reshape(tf.constant(seed), tf.shape(outputs)))
        return np.zeros_like(place) if found is None else _array(found)
    if backend == "jax":
        import jax

        outputs, pull = jax.vjp(function, place)
        return _array(pull(seed.reshape(outputs.shape))[0])
    raise ExplainError(f"Gradients run on Keras's TensorFlow and JAX backends, not on {backend}.")


def _tensor(array: Floats) -> Any:
    return ops.convert_to_tensor(array)


def _array(tensor: Any) -> Floats:
    array: Floats = np.asarray(ops.convert_to_numpy(tensor))
    return array


def load_probe(path: "Path") -> KerasProbe:
    """A probe of a `.keras` file that the zoo's training wrote.

    Raises:
        ExplainError: Keras cannot read it.
    """
    import zoo.layers
    import zoo.losses  # noqa: F401 - these register what such files name

    try:
        return KerasProbe(keras.models.load_model(path, compile=False))
    except (OSError, ValueError, TypeError) as error:
        raise ExplainError(f"Keras cannot read {path.name}: {str(error)[:300]}") from error
