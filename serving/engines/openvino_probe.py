"""A published version looked into on OpenVINO: every layer's output, on the IR that is served."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from serving.engines.openvino import threads
from serving.errors import LoadError
from zoo.errors import ExplainError
from zoo.explain.keras_file import KerasFile
from zoo.explain.probe import Floats, Layer, Rule, require_layer, rows_at_once
from zoo.signal_stack import keeps_signal_stack

PREFIX, CHANNELS_FIRST = "layer/", "/nchw"


class OpenVINOProbe:
    """Feature maps and weights of one version; gradients are not to be had here.

    Args:
        network: The IR, whose tensors carry the layers' names.
        keras_file: What the version says of its layers.

    Raises:
        LoadError: OpenVINO cannot read it, or its tensors have no layer's name.
    """

    @keeps_signal_stack()
    def __init__(self, network: Path, keras_file: KerasFile) -> None:
        self._keras = keras_file
        self.output = keras_file.output
        core = ov.Core()
        try:
            model = core.read_model(network)
            names = _layer_tensors(model)
            if not names:
                raise LoadError(
                    f"{network.name} does not name its layers: it was published before "
                    "explanations were. Publish the run again."
                )
            for port in model.outputs:
                if "logits" in port.get_names():
                    names[self.output] = "logits"
            model.add_outputs([each for each in names.values() if each != "logits"])
            self._compiled: Any = core.compile_model(
                model,
                "CPU",
                {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"} | threads(),
            )
        except RuntimeError as error:
            raise LoadError(f"OpenVINO cannot look into {network.name}: {error}") from error
        self._names = names
        self._ports = {name: port for port in self._compiled.outputs for name in port.get_names()}
        self.layers = tuple(self._with_shape(layer) for layer in keras_file.layers)
        self._rows = rows_at_once(self.layers)
        self._lock = threading.Lock()
        self._request: Any = self._compiled.create_infer_request()

    def _with_shape(self, layer: Layer) -> Layer:
        """A layer whose output nobody takes does not say its shape in the file."""
        if layer.output_shape or layer.name not in self._names:
            return layer
        tensor = self._names[layer.name]
        sizes = [size.get_length() for size in list(self._ports[tensor].get_partial_shape())[1:]]
        if tensor.endswith(CHANNELS_FIRST):
            sizes = [*sizes[1:], sizes[0]]
        return layer.model_copy(update={"output_shape": tuple(sizes)})

    def feature_maps(self, images_nhwc: Floats, layers: Sequence[str]) -> Mapping[str, Floats]:
        """The outputs of some layers, [N, ...] each."""
        for name in layers:
            require_layer(self, name)
            if name not in self._names and name != self.layers[0].name:
                raise ExplainError(
                    f"OpenVINO has merged {name!r} with its neighbours; it has "
                    f"{', '.join(each.name for each in self.layers if each.name in self._names)}."
                )
        shape = self.layers[0].output_shape
        if images_nhwc.shape[1:] != shape or not len(images_nhwc):
            raise ExplainError(
                f"The network takes images [N, {', '.join(map(str, shape))}]; "
                f"found {list(images_nhwc.shape)}."
            )
        image = np.ascontiguousarray(images_nhwc, np.float32)
        parts = []
        with self._lock:
            # Every layer is an output here, so a batch is cut to what memory may hold.
            for start in range(0, len(image), self._rows):
                rows = image[start : start + self._rows]
                results = self._request.infer({"image": rows}, share_inputs=True)
                parts.append(
                    {
                        name: rows if name == self.layers[0].name else self._array(results, name)
                        for name in layers
                    }
                )
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in layers}

    def _array(self, results: Any, name: str) -> Floats:
        tensor = self._names[name]
        found: Floats = results[self._ports[tensor]]
        if tensor.endswith(CHANNELS_FIRST):
            found = found.transpose(0, 2, 3, 1)
        # A copy: the request's memory is written again by the next call.
        return np.array(found, np.float32, order="C")

    def pull_back(
        self,
        images_nhwc: Floats,
        layer: str,
        seed: Floats,
        *,
        at: str | None = None,
        rule: Rule = "relu",
    ) -> Floats:
        """OpenVINO only goes forward."""
        del images_nhwc, layer, seed, at, rule
        raise ExplainError("OpenVINO computes no gradients; a Keras probe does.")

    def weights(self, layer: str) -> Mapping[str, Floats]:
        """A layer's weights, out of the version's Keras file."""
        return self._keras.weights(layer)


def _layer_tensors(model: ov.Model) -> dict[str, str]:
    """The tensor that holds each layer's output, by the layer's name."""
    found = {}
    for node in model.get_ordered_ops():
        for port in node.outputs():
            for tensor in port.get_names():
                if tensor.startswith(PREFIX):
                    name = tensor.removeprefix(PREFIX).removesuffix(CHANNELS_FIRST)
                    found[name] = tensor
    return found
