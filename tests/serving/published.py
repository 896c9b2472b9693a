"""A published version without training or TensorFlow: a tiny network written for OpenVINO alone.

y = softmax(flatten(x) @ W) for images of 2x2 pixels and three labels; real enough for every part
of the server, small enough to be made in a test.
"""

from pathlib import Path

import numpy as np

from training import baseline
from training.data.dataset import Images
from zoo.artifact import (
    DRIFT,
    Architecture,
    EngineRecord,
    Manifest,
    SignatureRecord,
    TensorRecord,
    draft_version,
    write_golden,
)
from zoo.preprocess import Preprocessing, Resize, Scale
from zoo.spec import ImageInput

LABELS = ("ant", "bee", "cat")
WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
FP32 = "assets.extra/convzoo/openvino/fp32.xml"


def logits_of(image, scale=1.0):
    flat = image.reshape(len(image), -1)
    return flat @ np.resize(WEIGHTS * np.float32(scale), (flat.shape[1], 3))


def softmax(logits):
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def baseline_of(pixels, preprocessing, scale=1.0):
    """What training on these images would leave, the answers being the network's own."""
    images = Images(pixels, np.zeros(len(pixels), np.int64))
    sizes = np.full((len(pixels), 2), pixels.shape[1])
    return baseline.with_answers(
        baseline.of_inputs(images, sizes, preprocessing, {}),
        [images],
        preprocessing,
        {},
        lambda image: logits_of(image, scale),
        len(LABELS),
    )


def publish_tiny(
    base_path: Path,
    model: str = "tiny",
    *,
    scale: float = 1.0,
    golden_scale: float | None = None,
    side: int = 2,
    precision: str = "fp32",
    trained_on: np.ndarray | None = None,
    upright: bool = False,
) -> Path:
    """Publishes the network with its weights times `scale`; another golden scale is a lie.

    Images are `side` x `side` pixels; the weights are repeated to fit them. With `trained_on`,
    uint8 [N, side, side, 1], the version has a baseline of drift.
    """
    import openvino as ov
    from openvino import opset13 as ops

    weights = np.resize(WEIGHTS * np.float32(scale), (side * side, 3))
    image = ops.parameter([-1, side, side, 1], np.float32, name="image")
    flat = ops.reshape(image, np.array([-1, side * side]), special_zero=False)
    logits = ops.matmul(flat, weights, transpose_a=False, transpose_b=False)
    probabilities = ops.softmax(logits, axis=1)
    image.output(0).get_tensor().set_names({"image"})
    logits.output(0).get_tensor().set_names({"logits"})
    probabilities.output(0).get_tensor().set_names({"probabilities"})
    network = ov.Model([logits, probabilities], [image], "tiny")

    preprocessing = Preprocessing(
        input=ImageInput(height=side, width=side, channels=1, colour="gray", value_range=(0, 1)),
        upright=upright,
        pixel_steps=(Resize(height=side, width=side),),
        input_steps=(Scale(scale=1 / 255),),
    )
    golden = np.random.default_rng(0).uniform(-1, 1, (8, side, side, 1)).astype(np.float32)
    expected = logits_of(golden, scale if golden_scale is None else golden_scale)
    tensor = TensorRecord(dtype="float32", shape=(-1, 3))
    taken = {"image": TensorRecord(dtype="float32", shape=(-1, side, side, 1))}
    with draft_version(base_path, model) as draft:
        (draft.path / FP32).parent.mkdir(parents=True)
        ov.save_model(network, draft.path / FP32, compress_to_fp16=False)
        write_golden(
            draft.path, {"image": golden}, {"logits": expected, "probabilities": softmax(expected)}
        )
        if trained_on is not None:
            told = baseline_of(trained_on, preprocessing, scale)
            (draft.path / DRIFT).write_text(told.model_dump_json())
        return draft.commit(
            Manifest(
                model=model,
                version=1,
                architecture=Architecture(name="tiny"),
                preprocessing=preprocessing,
                labels=LABELS,
                signatures={
                    "serving_default": SignatureRecord(
                        inputs=taken, outputs={"probabilities": tensor}
                    ),
                    "logits": SignatureRecord(inputs=taken, outputs={"logits": tensor}),
                },
                engines={
                    "openvino": EngineRecord(
                        file=FP32,
                        precision=precision,
                        outputs=("logits", "probabilities"),
                        tolerance=1e-3 if precision == "fp32" else 0.1,
                        measured=0,
                    )
                },
                default_engine="openvino",
            )
        )
