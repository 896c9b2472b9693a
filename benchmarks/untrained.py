"""Publishes networks with fresh weights: as fast as trained ones, and there in minutes.

python -m benchmarks.untrained BASE_PATH lenet5_modern alexnet googlenet
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from training import openvino
from training.publish import (
    FP32_TOLERANCE,
    OPENVINO_FP32,
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


def publish_untrained(base_path: Path, name: str) -> Path:
    """Publishes a network of the catalog as version 1, unless it is there already."""
    if 1 in list_versions(base_path / name):
        return base_path / name / "1"
    model = create(name)
    height, width, channels = model.input_shape[1:]
    classes = int(model.output_shape[-1])
    rng = np.random.default_rng(0)
    image = rng.standard_normal((4, height, width, channels)).astype(np.float32)
    golden = outputs_of(model, image)
    with draft_version(base_path, name) as draft:
        export(model, draft.path, SIGNATURES)
        write_golden(draft.path, {"image": image}, golden)
        with tempfile.TemporaryDirectory() as scratch:
            export(model, Path(scratch), {"serving_default": OUTPUTS})
            openvino.write_ir(Path(scratch), OUTPUTS, draft.path / OPENVINO_FP32)
        found = openvino.run_ir(draft.path / OPENVINO_FP32, image)
        tensor = TensorRecord(dtype="float32", shape=(-1, classes))
        taken = {"image": TensorRecord(dtype="float32", shape=(-1, height, width, channels))}
        engine = EngineRecord(
            file=OPENVINO_FP32,
            precision="fp32",
            outputs=OUTPUTS,
            tolerance=FP32_TOLERANCE,
            measured=difference(found["logits"], golden["logits"]),
        )
        return draft.commit(
            Manifest(
                model=name,
                version=1,
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
                    "tensorflow": engine.model_copy(update={"file": "."}),
                },
                default_engine="openvino",
            )
        )


if __name__ == "__main__":
    base_path, *names = sys.argv[1:]
    for each in names:
        print(publish_untrained(Path(base_path), each), flush=True)
    shutil.rmtree(Path(base_path) / ".draft", ignore_errors=True)
