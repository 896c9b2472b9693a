"""The 3x3 convolutions that a network begins with, by Winograd's algorithm, on ncnn.

OpenVINO multiplies each weight with each pixel. Winograd's minimal filtering (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016, section 4) takes 36 multiplications in place of
144 for 4x4 outputs of a 3x3 filter. VGG is made of such layers, one behind the other; what comes
after them stays with OpenVINO.

Array names: n image, h row, w column, c channel.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset14 as ops

from serving.errors import EngineError, InvalidRequestError
from zoo.preprocess import Floats

log = logging.getLogger(__name__)

# The filters become four times as many numbers, which have to come from memory for each image. Of
# images of 32x32 pixels, on which VGG multiplies 0.3 billion times, that takes longer than it saves;
# of 224x224 pixels, 7 to 20 billion times, nearly twice as many images are answered.
LEAST_MULTIPLICATIONS = 1_000_000_000

# The tensor at which OpenVINO takes over.
SEAM = "after_winograd"


@dataclass(frozen=True, slots=True)
class Convolution:
    """A 3x3 convolution with stride 1 that keeps its size, and what was folded into it.

    Attributes:
        weights: (outputs, inputs, 3, 3).
        bias: (outputs,).
        has_relu: Whether a ReLU follows.
    """

    weights: Floats
    bias: Floats
    has_relu: bool


@dataclass(frozen=True, slots=True)
class MaxPool:
    """A maximum over windows that lie inside; rows first."""

    kernel: tuple[int, int]
    strides: tuple[int, int]


Layer = Convolution | MaxPool


class Trunk:
    """The layers a network begins with.

    Args:
        layers: They, in order.
        shape: (h, w, c) of an image.
        threads: Threads of one call.

    Raises:
        ImportError: ncnn is not installed, or not for this machine.
        OSError: there is no place for a temporary file.
        EngineError: ncnn refuses the layers.
    """

    def __init__(self, layers: Sequence[Layer], shape: tuple[int, int, int], threads: int) -> None:
        import ncnn

        self._shape = shape
        self._new_image: Callable[[Floats], Any] = ncnn.Mat
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        # Everything in fp32: each of these would be taken where the processor has it.
        for kind in ("fp16", "bf16"):
            for use in ("packed", "storage", "arithmetic"):
                if hasattr(options, f"use_{kind}_{use}"):
                    setattr(options, f"use_{kind}_{use}", False)
        text, weights = _written(layers, shape)
        with tempfile.TemporaryDirectory() as place:
            # Read from memory, ncnn would point into it for as long as it lives.
            file = Path(place) / "weights"
            with file.open("wb") as out:
                out.writelines(weights)
            if self._net.load_param_mem(text) or self._net.load_model(str(file)):
                raise EngineError("ncnn refused the convolutions.")
        self._last = f"b{len(layers)}"

    def run(self, images: Floats) -> Floats:
        """What the last layer gives, (n, c, h, w), for images (n, h, w, c).

        Raises:
            InvalidRequestError: the images have another shape.
            EngineError: ncnn failed.
        """
        if images.shape[1:] != self._shape or not len(images):
            raise InvalidRequestError(
                f"The images have shape {list(images.shape)}; wanted is {[-1, *self._shape]}."
            )
        found = []
        for image in images:
            # The array has to live until the layers have run: ncnn works on its memory.
            planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
            extractor = self._net.create_extractor()
            extractor.input("b0", self._new_image(planes))
            failed, out = extractor.extract(self._last)
            if failed:
                raise EngineError(f"ncnn failed with code {failed}.")
            found.append(np.array(out))
        return np.stack(found)

    def close(self) -> None:
        """Gives its memory back."""
        self._net.clear()


def take_trunk(network: ov.Model, threads: int) -> Trunk | None:
    """Takes the layers it begins with out of a network when they are worth it.

    Afterwards the network begins at an input named `SEAM`.

    Returns:
        The layers; None where there are none, or too few, or ncnn cannot run them. The network is
        then as it was.
    """
    found = _chain(network)
    if found is None:
        return None
    shape, layers, seam = found
    if _multiplications(layers, shape) < LEAST_MULTIPLICATIONS:
        return None
    try:
        trunk = Trunk(layers, shape, threads)
    except (ImportError, OSError, EngineError) as error:
        # Slower, and no reason not to serve.
        log.warning("the convolutions stay with OpenVINO, where they are slower: %s", error)
        return None
    number = sum(isinstance(each, Convolution) for each in layers)
    log.info("%d convolutions run by Winograd's algorithm, on ncnn", number)
    (parameter,) = network.get_parameters()
    begin = ops.parameter(seam.get_partial_shape(), seam.get_element_type(), SEAM)
    begin.output(0).get_tensor().set_names({SEAM})
    for target in seam.get_target_inputs():
        target.replace_source_output(begin.output(0))
    network.add_parameters([begin])
    network.remove_parameter(parameter)
    network.validate_nodes_and_infer_types()
    return trunk


def _chain(network: ov.Model) -> tuple[tuple[int, int, int], list[Layer], Any] | None:
    """The image's shape, the layers that a network begins with, and what the last one gives."""
    if len(network.inputs) != 1:
        return None
    (image,) = network.get_parameters()
    shape = image.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4:
        return None
    sizes = list(shape)[1:]
    turn = _only_user(image.output(0))
    if any(size.is_dynamic for size in sizes) or turn is None:
        return None
    order = _constant(turn, 1) if turn.get_type_name() == "Transpose" else None
    if order is None or order.tolist() != [0, 3, 1, 2]:
        return None
    layers: list[Layer] = []
    seam = turn.output(0)
    while (node := _only_user(seam)) is not None and _append(layers, node, seam):
        seam = node.output(0)
    h, w, c = (size.get_length() for size in sizes)
    return (h, w, c), layers, seam


def _append(layers: list[Layer], node: ov.Node, data: Any) -> bool:
    """Takes a node's work into the layers; False when it is none that they can do."""
    kind = node.get_type_name()
    if kind in ("Convolution", "MaxPool"):
        layer = _convolution(node) if kind == "Convolution" else _max_pool(node)
        if layer is not None:
            layers.append(layer)
        return layer is not None
    last = layers[-1] if layers else None
    if not isinstance(last, Convolution) or last.has_relu:
        return False
    weights, bias = last.weights, last.bias
    if kind == "Relu":
        layers[-1] = Convolution(weights, bias, has_relu=True)
        return True
    if kind not in ("Add", "Multiply"):
        return False
    other = _constant(node, 1 if node.input_value(0) == data else 0)
    if other is None or (other.size != 1 and other.shape[-3:] != (len(bias), 1, 1)):
        return False
    each = np.broadcast_to(other.reshape(-1), bias.shape)
    if kind == "Add":
        bias = bias + each
    else:
        weights, bias = weights * each[:, None, None, None], bias * each
    layers[-1] = Convolution(weights, bias, has_relu=False)
    return True


def _convolution(node: ov.Node) -> Convolution | None:
    weights, has = _constant(node, 1), node.get_attributes()
    is_same = has["auto_pad"] in ("same_upper", "same_lower") or (
        has["auto_pad"] == "explicit" and has["pads_begin"] == has["pads_end"] == [1, 1]
    )
    if (
        weights is None
        or weights.dtype != np.float32
        or weights.shape[2:] != (3, 3)
        or has["strides"] != [1, 1]
        or has["dilations"] != [1, 1]
        or not is_same
    ):
        return None
    return Convolution(weights, np.zeros(len(weights), np.float32), has_relu=False)


def _max_pool(node: ov.Node) -> MaxPool | None:
    has = node.get_attributes()
    is_inside = has["auto_pad"] == "valid" or (
        has["auto_pad"] == "explicit" and not any((*has["pads_begin"], *has["pads_end"]))
    )
    if (
        not is_inside
        or has["rounding_type"] != "floor"
        or has["dilations"] != [1, 1]
        or node.output(1).get_target_inputs()
    ):
        return None
    (kh, kw), (sh, sw) = has["kernel"], has["strides"]
    return MaxPool((kh, kw), (sh, sw))


def _only_user(output: Any) -> ov.Node | None:
    users = output.get_target_inputs()
    return next(iter(users)).get_node() if len(users) == 1 else None


def _constant(node: ov.Node, port: int) -> Any:
    """What a constant input holds; None when it is computed."""
    source = node.input_value(port).get_node()
    return source.get_data() if source.get_type_name() == "Constant" else None


def _multiplications(layers: Sequence[Layer], shape: tuple[int, int, int]) -> int:
    """Multiplications of the convolutions, done directly, for one image (h, w, c)."""
    h, w, _ = shape
    number = 0
    for layer in layers:
        if isinstance(layer, Convolution):
            number += h * w * layer.weights.size
        else:
            (kh, kw), (sh, sw) = layer.kernel, layer.strides
            h, w = (h - kh) // sh + 1, (w - kw) // sw + 1
    return number


def _written(layers: Sequence[Layer], shape: tuple[int, int, int]) -> tuple[str, list[bytes]]:
    """The layers as ncnn reads them: its text form, and the weights in the layers' order.

    Each number before "=" is one of the parameters that ncnn's documents list for the operation.
    """
    h, w, c = shape
    lines = [f"Input image 0 1 b0 0={w} 1={h} 2={c}"]
    weights = []
    for index, layer in enumerate(layers):
        blobs = f"1 1 b{index} b{index + 1}"
        if isinstance(layer, Convolution):
            size = layer.weights.size
            text = f"0={len(layer.bias)} 1=3 4=1 5=1 6={size} 9={int(layer.has_relu)}"
            lines.append(f"Convolution conv{index} {blobs} {text}")
            # Four zeros say that floats follow.
            weights += [bytes(4), layer.weights.tobytes(), layer.bias.tobytes()]
        else:
            (kh, kw), (sh, sw) = layer.kernel, layer.strides
            text = f"0=0 1={kw} 11={kh} 2={sw} 12={sh} 5=1"
            lines.append(f"Pooling pool{index} {blobs} {text}")
    return "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""]), weights
