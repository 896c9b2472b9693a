"""The OpenVINO form of a network; `training.quantize` makes the eight-bit one of it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from zoo.artifact import Array
from zoo.errors import ArtifactError, UsageError
from zoo.precision import HINTS, lacking, working
from zoo.preprocess import Floats
from zoo.signal_stack import keeps_signal_stack

CHANNELS_LAST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def write_ir(
    saved_model: Path, outputs: Sequence[str], place: Path, layers: Sequence[str] = ()
) -> None:
    """Converts a SavedModel into OpenVINO's IR, in fp32, with a batch of any size.

    Args:
        saved_model: A SavedModel whose `serving_default` takes `image`.
        outputs: The outputs' names, as the signature has them.
        place: Where `<name>.xml` goes; `<name>.bin` lies beside it.
        layers: More outputs of the signature, "layer/<name>" each. They become names of tensors
            inside the network, so that explanations find them, and no outputs of it.
    """
    model = ov.Core().read_model(saved_model)
    _name_ports(model, outputs)
    _keep_names(model, layers)
    _pad_in_pools(model)
    save(model, place)


def save(model: ov.Model, place: Path) -> None:
    """Writes an IR; `<name>.bin` lies beside `place`.

    Raises:
        ArtifactError: it cannot be written, e.g. because the disk is full.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        ov.save_model(model, place, compress_to_fp16=False)
    except RuntimeError as error:
        # OpenVINO keeps neither the system's number nor its words.
        reason = str(error).strip().splitlines()[-1]
        free = shutil.disk_usage(place.parent).free
        raise ArtifactError(
            f"OpenVINO cannot write {place.name} ({reason}); {place.parent} has "
            f"{free / 1e6:,.1f} MB free."
        ) from error


def _name_ports(model: ov.Model, outputs: Sequence[str]) -> None:
    """Gives the ports their signature's names; conversion may keep others or several."""
    (image,) = model.inputs
    image.get_tensor().set_names({"image"})
    for name in outputs:
        port = next(
            (port for port in model.outputs if any(name in known for known in port.get_names())),
            None,
        )
        if port is None:
            known = [sorted(port.get_names()) for port in model.outputs]
            raise ValueError(f"No output {name!r} after conversion; there are {known}.")
        port.get_tensor().set_names({name})


def _keep_names(model: ov.Model, layers: Sequence[str]) -> None:
    """Moves the layers' names from outputs of the network to the tensors inside it.

    The converter computes with channels first and turns what leaves the network. The name goes to
    the tensor before that turn, as "layer/<name>/nchw"; what is not turned is "layer/<name>".
    """
    for layer in layers:
        result = next(
            (each for each in model.get_results() if layer in each.output(0).get_names()), None
        )
        if result is None:
            continue  # the same tensor as an output's, e.g. the logits
        source = result.input_value(0)
        names = set(source.get_names())
        if _turns(source.get_node()) == CHANNELS_LAST:
            inner = source.get_node().input_value(0)
            inner.get_tensor().add_names({f"{layer}/nchw"})
            source.get_tensor().set_names(names - {layer})
        else:
            source.get_tensor().add_names({layer})
        model.remove_result(result)
    for node in model.get_ordered_ops():
        if _turns(node) == CHANNELS_LAST:
            # Turned only to be given out, and turned back for what comes next.
            for target in list(node.output(0).get_target_inputs()):
                if _turns(target.get_node()) == CHANNELS_FIRST:
                    target.get_node().output(0).replace(node.input_value(0))
    model.validate_nodes_and_infer_types()


def _pad_in_pools(model: ov.Model) -> None:
    """Lets a pool of maxima hang over the edge by itself, where minus infinity was padded before it.

    The answers are the same to the bit: neither ever wins. As an operation of its own the padding
    has no eight-bit form, and takes the layers behind the pool with it into floating point.
    """
    for pool in model.get_ordered_ops():
        pad = pool.input_value(0).get_node() if pool.get_type_name() == "MaxPool" else None
        if pad is None or pad.get_type_name() != "Pad":
            continue
        settings = pool.get_attributes()
        begin, end, *fill = (_constant(pad, port) for port in range(1, pad.get_input_size()))
        if (
            pad.get_attributes()["pad_mode"] != "constant"
            or begin is None
            or end is None
            or not fill
            or fill[0] is None
            or not np.isneginf(fill[0])
            or any((*begin[:2], *end[:2]))  # only rows and columns
            or min(*begin, *end) < 0
            or max(*begin, *end) >= min(settings["kernel"])
            or settings["auto_pad"] not in ("valid", "explicit")
            or settings["rounding_type"] != "floor"
        ):
            continue
        pool.input(0).replace_source_output(pad.input_value(0))
        pool.set_attribute("auto_pad", "explicit")
        for name, more in (("pads_begin", begin[2:]), ("pads_end", end[2:])):
            own = settings[name]
            pool.set_attribute(name, [int(a + b) for a, b in zip(own, more, strict=True)])
    model.validate_nodes_and_infer_types()


def _constant(node: ov.Node, port: int) -> Array | None:
    """What a constant input holds; None when it is computed."""
    source = node.input_value(port).get_node()
    return source.get_data() if source.get_type_name() == "Constant" else None


def _turns(node: ov.Node) -> list[int] | None:
    """The order into which a node brings its axes; None when it does not."""
    if node.get_type_name() != "Transpose":
        return None
    order = node.input_value(1).get_node()
    return [int(axis) for axis in order.get_data()] if order.get_type_name() == "Constant" else None


@keeps_signal_stack()
def require(precision: str) -> None:
    """Makes sure that this processor computes in a precision by itself.

    Raises:
        UsageError: it does not; says what it has, and what works.
    """
    capabilities, processor = _device(ov.Core())
    if why := lacking(precision, capabilities, processor):
        raise UsageError(
            f"{why}. {', '.join(working(capabilities))} work here; a network is published in "
            f"{precision} on a machine that has it, because its accuracy is measured there."
        )


@keeps_signal_stack()
def compile_ir(model: Path | ov.Model, precision: str) -> Any:
    """A network, compiled for one caller on the CPU: from {"image": array} to outputs by name.

    As on the server, a precision that this processor does not have becomes fp32.
    """
    core = ov.Core()
    if lacking(precision, *_device(core)):
        precision = "fp32"
    settings = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    return core.compile_model(model, "CPU", settings)


def run_ir(
    model: Path | ov.Model, image_nhwc: Floats, precision: str = "fp32", batch: int = 64
) -> dict[str, Array]:
    """A network's outputs by name, float32 [N, ...], computed on the CPU."""
    compiled = compile_ir(model, precision)
    parts: dict[str, list[Array]] = {}
    for start in range(0, len(image_nhwc), batch):
        results = compiled({"image": image_nhwc[start : start + batch]})
        for port in compiled.outputs:
            parts.setdefault(port.get_any_name(), []).append(np.array(results[port]))
    return {name: np.concatenate(each) for name, each in parts.items()}


def _device(core: ov.Core) -> tuple[list[str], str]:
    """What the CPU device tells of itself: its capabilities and its name."""
    return (
        core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
        core.get_property("CPU", "FULL_DEVICE_NAME"),
    )
