"""From a run or others' weights to a published version.

SavedModel, OpenVINO form, golden records, warm-up, manifest. What is written is described in `docs/design.md` and read by `zoo.artifact`.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training import baseline, card, openvino
from training.material import Material, of_run
from training.run import Run
from training.train import library_versions
from training.verify import DefaultEngine, difference
from zoo.artifact import (
    DRIFT,
    KERAS_MODEL,
    LABELS_TXT,
    MODEL_CARD,
    PREPROCESSING_ARRAYS,
    REPORT,
    WARMUP,
    Array,
    Draft,
    EngineRecord,
    Manifest,
    SignatureRecord,
    TensorRecord,
    draft_version,
    list_versions,
    read_golden,
    read_manifest,
    write_atomically,
    write_golden,
)
from zoo.checkout import checkout
from zoo.errors import (
    ArtifactError,
    DataError,
    GateFailedError,
    ParityError,
    VersionExistsError,
)
from zoo.precision import Precision
from zoo.preprocess import Floats
from zoo.url import Url

OPENVINO_FP32 = "assets.extra/convzoo/openvino/fp32.xml"
OPENVINO_INT8 = "assets.extra/convzoo/openvino/int8.xml"
GOLDEN_IMAGES = 16

# Largest |difference of logits| / standard deviation of the logits that fp32 may show. Two fp32
# engines that add in another order differ by about 1e-6 a layer; a wrong padding or a lost bias
# differs by more than 1e-1.
FP32_TOLERANCE = 1e-3

# Below this even a perfect form in fewer bits could be refused on another processor.
LEAST_TOLERANCE = 0.05

# The outputs of each signature; `serving_default` answers what most callers want.
SIGNATURES = {"serving_default": ("probabilities",), "logits": ("logits",)}
OUTPUTS = ("logits", "probabilities")


def publish(
    run: Run,
    base_path: Path | Url,
    *,
    name: str | None = None,
    version: int | None = None,
    precision: Precision = "fp32",
    most_drop: float = 0.005,
    talk: Callable[[str], None] = lambda _: None,
) -> tuple[Manifest, Path | Url]:
    """Writes a complete run as the next (or the given) version of a model.

    Args:
        run: A complete run.
        base_path: The folder or URL a server watches; made when missing.
        name: The model's name; the recipe's `publish_as`, or its network's name, when None.
        version: The next free number when None.
        precision: What the OpenVINO form computes in.
        most_drop: How much accuracy fewer bits may cost on the validation part, a fraction.
        talk: Takes one line for each stage.

    Returns:
        The manifest and the version's place.

    Raises:
        UsageError: the run is not complete, the URL cannot be used, or this processor does not
            have the precision.
        RemoteError: the object store does not answer, or refuses.
        ArtifactError: the base path cannot be written, or the version is taken.
        ParityError: an engine does not agree with Keras; nothing is published.
        GateFailedError: fewer bits cost more accuracy than `most_drop`; nothing is published.
        DataError: the run has no validation images to tell what fewer bits cost.
    """
    run.require_complete()
    openvino.require(precision)
    if precision != "fp32":
        _require_validation(run, precision)
    return publish_material(
        of_run(run),
        base_path,
        name=name,
        version=version,
        precision=precision,
        most_drop=most_drop,
        talk=talk,
    )


def publish_material(
    material: Material,
    base_path: Path | Url,
    *,
    name: str | None = None,
    version: int | None = None,
    precision: Precision = "fp32",
    most_drop: float = 0.005,
    talk: Callable[[str], None] = lambda _: None,
) -> tuple[Manifest, Path | Url]:
    """The same of a run or of other weights; see `publish`."""
    openvino.require(precision)
    model_name = name or material.name
    with checkout(base_path, model_name) as opened:
        if version is not None and version in list_versions(opened.path):
            raise VersionExistsError(
                f"Version {version} of {model_name!r} exists already; "
                "a published version is never overwritten."
            )
        with draft_version(opened.base_path, model_name, version) as draft:
            manifest = _fill(draft, material, model_name, talk)
            if precision != "fp32":
                manifest = _in_fewer_bits(draft, material, manifest, precision, most_drop, talk)
            _add_baseline(draft, material, manifest, talk)
            (draft.path / MODEL_CARD).write_text(card.render(manifest, material.data), "utf-8")
            path = draft.commit(manifest, partial(_verify_in_fresh_process, talk=talk))
        place = opened.publish(path, is_fixed=version is not None)
        return read_manifest(opened.path / place.name), place


def _require_validation(run: Run, precision: Precision) -> None:
    if len(run.sample("validation")) == 0:
        raise DataError(
            f"The run at {run.path} kept no validation images, so nothing tells what {precision} "
            "costs. More images, or a larger data.validation_fraction, give some; fp32 needs none."
        )


def _fill(
    draft: Draft, material: Material, model_name: str, talk: Callable[[str], None]
) -> Manifest:
    model, preprocessing = material.model, material.preprocessing

    talk("SavedModel for TensorFlow Serving")
    export(model, draft.path, SIGNATURES)
    _write_labels(draft.path, material.labels)

    talk("Golden records")
    kept = material.golden()
    some = kept.take(np.arange(min(GOLDEN_IMAGES, len(kept))))
    image = preprocessing.to_input(some.pixels_nhwc, material.arrays)
    golden = outputs_of(model, image)
    finite = int(np.isfinite(golden["logits"]).all(-1).sum())
    if finite < len(some):
        raise ParityError(
            f"The network answers {len(some) - finite} of {len(some)} images with NaN or "
            f"infinity: {material.cause}. Nothing was published."
        )
    write_golden(draft.path, {"image": image}, golden)

    talk("OpenVINO fp32")
    with tempfile.TemporaryDirectory() as scratch:
        layers = export_with_layers(model, Path(scratch))
        openvino.write_ir(Path(scratch), OUTPUTS, draft.path / OPENVINO_FP32, layers)

    engines = {
        "openvino": EngineRecord(
            file=OPENVINO_FP32,
            precision="fp32",
            outputs=OUTPUTS,
            tolerance=FP32_TOLERANCE,
            measured=difference(
                openvino.run_ir(draft.path / OPENVINO_FP32, image)["logits"], golden["logits"]
            ),
        ),
        "tensorflow": EngineRecord(
            file=".",
            precision="fp32",
            outputs=OUTPUTS,
            tolerance=FP32_TOLERANCE,
            measured=difference(_run_saved_model(draft.path, image), golden["logits"]),
        ),
    }
    for engine, each in engines.items():
        talk(f"  {engine} differs from Keras by {each.measured:.1e} standard deviations")
        if not each.measured <= each.tolerance:
            raise ParityError(
                f"{engine}'s logits differ from Keras's by {each.measured:.2e} standard "
                f"deviations; at most {each.tolerance:.0e} is accepted. Nothing was published."
            )

    write_warmup(draft.path / WARMUP, model_name, image)
    material.save_model(draft.path / KERAS_MODEL)
    material.save_reports(draft.path / REPORT)
    if material.arrays:
        with (draft.path / PREPROCESSING_ARRAYS).open("wb") as file:
            np.savez(file, allow_pickle=False, **material.arrays)
    about = dict(material.about)
    libraries = {**about.pop("libraries", {}), **library_versions()}
    return Manifest(
        model=model_name,
        version=1,
        preprocessing=preprocessing,
        labels=material.labels,
        signatures=_signature_records(model),
        engines=engines,
        default_engine="openvino",
        libraries=libraries,
        **about,
    )


def _in_fewer_bits(
    draft: Draft,
    material: Material,
    manifest: Manifest,
    precision: Precision,
    most_drop: float,
    talk: Callable[[str], None],
) -> Manifest:
    """Lets OpenVINO compute in fewer bits, when that costs little.

    Eight bits are a form of their own beside the fp32 one; sixteen are the fp32 form, computed in
    another type.
    """
    from training.quantize import halve, quantize

    talk(f"OpenVINO {precision}")
    golden_inputs, golden = read_golden(draft.path)
    file = OPENVINO_FP32
    validation = material.sample("validation")
    class_ids = validation.class_ids if material.has_classes else None
    report = None
    if len(validation):
        inputs = material.preprocessing.to_input(validation.pixels_nhwc, material.arrays)
    else:
        inputs = golden_inputs["image"]
        talk(f"  What {precision} costs is not known: no images were given")
    if precision == "int8":
        calibration = material.preprocessing.to_input(
            material.sample("calibration").pixels_nhwc, material.arrays
        )
        made = quantize(
            draft.path / OPENVINO_FP32,
            calibration,
            inputs,
            class_ids,
            most_drop=most_drop,
            talk=talk,
        )
        file, report = OPENVINO_INT8, made.report
        openvino.save(made.model, draft.path / file)
    elif len(validation):
        report = halve(
            draft.path / file, precision, inputs, class_ids, most_drop=most_drop, talk=talk
        )
    if report is not None:
        (draft.path / REPORT).mkdir(parents=True, exist_ok=True)
        write_atomically(
            draft.path / REPORT / f"{precision}.json", report.model_dump_json(indent=2).encode()
        )

    def gap(image: Floats, logits: Array) -> float:
        return difference(openvino.run_ir(draft.path / file, image, precision)["logits"], logits)

    # What rounding to fewer bits does differs by image and by processor: three times the most that
    # any validation image shows is still far from what a wrong layer does.
    some = inputs[:256]
    spread = gap(some, outputs_of(material.model, some)["logits"])
    if not np.isfinite(spread):
        raise GateFailedError(
            f"The network leaves the range of {precision}; bf16 has the range of fp32. "
            "Nothing was published."
        )
    record = EngineRecord(
        file=file,
        precision=precision,
        outputs=OUTPUTS,
        tolerance=max(3 * spread, LEAST_TOLERANCE),
        measured=gap(golden_inputs["image"], golden["logits"]),
    )
    return manifest.model_copy(update={"engines": {**manifest.engines, "openvino": record}})


def _add_baseline(
    draft: Draft, material: Material, manifest: Manifest, talk: Callable[[str], None]
) -> None:
    """Writes what the training data look like, and how the form that will serve answers."""
    if material.baseline is None:
        talk(f"No baseline of drift: {material.no_baseline}")
        return
    talk("Baseline of drift")
    found = baseline.with_answers(
        material.baseline,
        material.answered(),
        material.preprocessing,
        material.arrays,
        DefaultEngine(draft.path, manifest),
        len(manifest.labels),
    )
    write_atomically(draft.path / DRIFT, found.model_dump_json().encode() + b"\n")


def _verify_in_fresh_process(path: Path, talk: Callable[[str], None]) -> None:
    """Loads what lies on the disk on each engine, in a process that knows nothing else."""
    talk("Verifying in a fresh process")
    done = subprocess.run(  # noqa: S603 - this interpreter, our own module
        [sys.executable, "-m", "training.verify", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise ParityError(f"{lines[-1]} Nothing was published.")


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Tells a full disk from a defect: TensorFlow's errors are no `OSError`."""
    try:
        yield
    except tf.errors.OpError as error:
        raise ArtifactError(f"TensorFlow cannot write {place}: {error.message}") from error


def export(model: keras.Model, place: Path, signatures: Mapping[str, tuple[str, ...]]) -> None:
    """Writes a SavedModel whose signatures take `image` and give the outputs they name."""
    module = tf.Module()
    # Keras's own ExportArchive (3.15) writes every variable twice; a module that holds the
    # TensorFlow variables themselves writes them once.
    module.weights = [variable.value for variable in model.variables]

    def signature(names: tuple[str, ...]) -> Any:
        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="image")])
        def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = model(image, training=False)
            every = {"logits": logits, "probabilities": tf.nn.softmax(logits)}
            return {name: every[name] for name in names}

        return answer

    shape = (None, *model.input_shape[1:])
    with _writing(place):
        tf.saved_model.save(
            module, str(place), {name: signature(outputs) for name, outputs in signatures.items()}
        )


def export_with_layers(model: keras.Model, place: Path) -> tuple[str, ...]:
    """Writes a SavedModel that gives every layer's output too, as "layer/<name>".

    Returns:
        Those names. Layers before the first and behind the logits' own are left out.
    """
    inner = {f"layer/{layer.name}": layer.output for layer in model.layers[1:]}
    whole = keras.Model(model.input, {**inner, "logits": model.output})
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), name="image")])
    def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        every = dict(whole(image, training=False))
        return {**every, "probabilities": tf.nn.softmax(every["logits"])}

    with _writing(place):
        tf.saved_model.save(module, str(place), {"serving_default": answer})
    return tuple(inner)


def outputs_of(model: keras.Model, image_nhwc: Floats) -> dict[str, Array]:
    """What Keras answers: logits and probabilities, float32 [N, K]."""
    logits = model(image_nhwc, training=False)
    return {
        "logits": keras.ops.convert_to_numpy(logits),
        "probabilities": keras.ops.convert_to_numpy(keras.ops.softmax(logits)),
    }


def _run_saved_model(place: Path, image_nhwc: Floats) -> Array:
    loaded = tf.saved_model.load(str(place))
    answer: Array = loaded.signatures["logits"](image=tf.constant(image_nhwc))["logits"].numpy()
    return answer


def _write_labels(place: Path, labels: tuple[str, ...]) -> None:
    path = place / LABELS_TXT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def _signature_records(model: keras.Model) -> dict[str, SignatureRecord]:
    image = TensorRecord(dtype="float32", shape=(-1, *model.input_shape[1:]))
    output = TensorRecord(dtype="float32", shape=(-1, int(model.output_shape[-1])))
    return {
        name: SignatureRecord(inputs={"image": image}, outputs=dict.fromkeys(names, output))
        for name, names in SIGNATURES.items()
    }


def write_warmup(path: Path, model_name: str, image_nhwc: Floats) -> None:
    """Writes requests that TensorFlow Serving (and this server) replay before a version serves.

    Two batch sizes, one image and all of them, so that both are compiled for.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    path.parent.mkdir(parents=True, exist_ok=True)
    with _writing(path), tf.io.TFRecordWriter(str(path)) as writer:
        for rows in (1, len(image_nhwc)):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = "serving_default"
            request.inputs["image"].CopyFrom(tf.make_tensor_proto(image_nhwc[:rows]))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
