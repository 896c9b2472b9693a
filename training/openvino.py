"""The OpenVINO form of a network: the one file of `training` that imports OpenVINO."""

from collections.abc import Sequence
from pathlib import Path

import openvino as ov

from zoo.artifact import Array
from zoo.preprocess import Floats


def write_ir(saved_model: Path, outputs: Sequence[str], place: Path) -> None:
    """Converts a SavedModel into OpenVINO's IR, in fp32, with a batch of any size.

    Args:
        saved_model: A SavedModel whose `serving_default` takes `image`.
        outputs: The outputs' names, as the signature has them.
        place: Where `<name>.xml` goes; `<name>.bin` lies beside it.
    """
    model = ov.Core().read_model(saved_model)
    _name_ports(model, outputs)
    place.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, place, compress_to_fp16=False)


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


def run_ir(path: Path, image_nhwc: Floats) -> dict[str, Array]:
    """Runs an IR on the CPU, in fp32: its outputs by name."""
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled({"image": image_nhwc})
    return {port.get_any_name(): results[port] for port in compiled.outputs}
