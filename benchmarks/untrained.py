"""Publishes networks with fresh weights: as fast as trained ones, and there in minutes.

    python -m benchmarks.untrained BASE_PATH lenet5_modern alexnet googlenet

Version 1 is in fp32. Other precisions are made by `publish_untrained` as further versions.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from training import openvino, quantize
from training.publish import (
    FP32_TOLERANCE,
    OPENVINO_FP32,
    OPENVINO_INT8,
    OUTPUTS,
    SIGNATURES,
    export,
    outputs_of,
)
from training.verify import difference
from zoo.artifact import (
    Architecture,
    EngineRecord,
    Manifest,
    SignatureRecord,
    TensorRecord,
    draft_version,
    list_versions,
    write_golden,
)
from zoo.catalog import create
from zoo.preprocess import ImageInput, Preprocessing, Resize, Scale

# What a precision is published as.
VERSIONS = {"fp32": 1, "int8": 2, "bf16": 3}
CALIBRATION_IMAGES = 32


def publish_untrained(base_path: Path, name: str, precision: str = "fp32") -> Path:
    """Publishes a network of the catalog in a precision, unless it is there already.

    Args:
        base_path: The folder a server watches.
        name: The network's name in the catalog.
        precision: One of `VERSIONS`. int8 is calibrated on noise: for speed that is all the same.

    Returns:
        The version's folder.
    """
    version = VERSIONS[precision]
    if version in list_versions(base_path / name):
        return base_path / name / str(version)
    model = create(name)
    height, width, channels = model.input_shape[1:]
    classes = int(model.output_shape[-1])
    rng = np.random.default_rng(0)
    image = rng.standard_normal((4, height, width, channels)).astype(np.float32)
    golden = outputs_of(model, image)
    with draft_version(base_path, name, version) as draft:
        export(model, draft.path, SIGNATURES)
        write_golden(draft.path, {"image": image}, golden)
        with tempfile.TemporaryDirectory() as scratch:
            export(model, Path(scratch), {"serving_default": OUTPUTS})
            openvino.write_ir(Path(scratch), OUTPUTS, draft.path / OPENVINO_FP32)
        file = OPENVINO_FP32
        if precision == "int8":
            shape = (CALIBRATION_IMAGES, height, width, channels)
            some = rng.standard_normal(shape).astype(np.float32)
            fp32 = draft.path / OPENVINO_FP32
            large = quantize.large_dense(fp32)
            eight_bits = quantize.calibrated(fp32, some, four_bit=large)
            file = OPENVINO_INT8
            openvino.save(eight_bits, draft.path / file)
        found = openvino.run_ir(draft.path / file, image, precision)
        measured = difference(found["logits"], golden["logits"])
        tensor = TensorRecord(dtype="float32", shape=(-1, classes))
        taken = {"image": TensorRecord(dtype="float32", shape=(-1, height, width, channels))}
        engine = EngineRecord(
            file=file,
            precision=precision,
            outputs=OUTPUTS,
            tolerance=FP32_TOLERANCE if precision == "fp32" else 3 * measured,
            measured=measured,
        )
        return draft.commit(
            Manifest(
                model=name,
                version=version,
                architecture=Architecture(name=name),
                preprocessing=Preprocessing(
                    input=ImageInput(
                        height=height,
                        width=width,
                        channels=channels,
                        colour="gray" if channels == 1 else "rgb",
                        value_range=(0, 1),
                    ),
                    pixel_steps=(Resize(height=height, width=width),),
                    input_steps=(Scale(scale=1 / 255),),
                ),
                labels=tuple(f"class {index}" for index in range(classes)),
                signatures={
                    signature: SignatureRecord(inputs=taken, outputs=dict.fromkeys(names, tensor))
                    for signature, names in SIGNATURES.items()
                },
                engines={
                    "openvino": engine,
                    "tensorflow": engine.model_copy(
                        update={"file": ".", "precision": "fp32", "tolerance": FP32_TOLERANCE}
                    ),
                },
                default_engine="openvino",
            )
        )


if __name__ == "__main__":
    base_path, *wanted = sys.argv[1:]
    for each in wanted:
        network, _, bits = each.partition(":")
        print(publish_untrained(Path(base_path), network, bits or "fp32"), flush=True)
    shutil.rmtree(Path(base_path) / ".draft", ignore_errors=True)
