"""Explanations of one version: its probes, a bounded queue, and the deadline of every request.

Feature maps and weights come from OpenVINO, on the network that is served; gradients from a Keras
probe in a worker process, which the first request for one starts. Each has one thread, so an
explanation never holds up a prediction's batch, nor a gradient the maps.

Array names: n image, h row, w column, c channel.
"""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from serving.core.threads import EngineThreads, run_in
from serving.errors import (
    CancelledError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    LimitExceededError,
    LoadError,
    OverloadedError,
    UnsupportedError,
)
from serving.messages import (
    ExplainCall,
    ExplainReply,
    Framing,
    LayerRecord,
    LayersReply,
    MethodRecord,
    Timings,
)
from zoo.artifact import KERAS_MODEL, Manifest
from zoo.errors import ExplainError, ImageError
from zoo.explain import methods
from zoo.explain.keras_file import KerasFile
from zoo.explain.methods import METHODS, Method, Subject
from zoo.explain.probe import Floats, Layer, Probe, Rule
from zoo.explain.remote import RemoteProbe, WorkerError
from zoo.preprocess import ImageLimits, Pad, Pixels, Preprocessing

T = TypeVar("T")

FULL_PRECISION = "fp32.xml"
OPENVINO_PROBE = "serving.engines.openvino_probe:OpenVINOProbe"

# Explanations cost many times what a prediction costs: few may wait.
MOST_WAITING = 8
MOST_NAME = 256

# How the digits of a data set were framed, by the name that recipes have for it. MNIST: 20 pixels
# of 28, by the centre of mass [lecun1998, section III.A]; scikit-learn's fill their 8 x 8 pixels.
FRAMINGS = {
    "mnist": Framing(field=28, box=20, is_by_mass=True),
    "digits": Framing(field=8, box=8, is_by_mass=False),
}


@dataclass(slots=True, eq=False)
class _Watch:
    """Says when nobody waits for an explanation any more."""

    deadline: float | None
    is_gone: threading.Event = field(default_factory=threading.Event)

    def should_stop(self) -> bool:
        return self.is_gone.is_set() or (
            self.deadline is not None and time.monotonic() >= self.deadline
        )

    def check(self) -> None:
        if self.is_gone.is_set():
            raise CancelledError("The caller has gone.")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceededError("The deadline passed while the explanation was made.")


class _WatchedProbe:
    """A probe that stops between two calls when nobody waits any more."""

    def __init__(self, probe: Probe, watch: _Watch) -> None:
        self._probe = probe
        self._watch = watch

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._probe.layers

    @property
    def output(self) -> str:
        return self._probe.output

    def feature_maps(self, images_nhwc: Floats, layers: Sequence[str]) -> Mapping[str, Floats]:
        self._watch.check()
        return self._probe.feature_maps(images_nhwc, layers)

    def pull_back(
        self,
        images_nhwc: Floats,
        layer: str,
        seed: Floats,
        *,
        at: str | None = None,
        rule: Rule = "relu",
    ) -> Floats:
        self._watch.check()
        return self._probe.pull_back(images_nhwc, layer, seed, at=at, rule=rule)

    def weights(self, layer: str) -> Mapping[str, Floats]:
        self._watch.check()
        return self._probe.weights(layer)


class Explainer:
    """Explains one published version.

    Args:
        model: The model's name.
        version: Its number.
        path: The version's folder.
        manifest: What it says of itself; None for a SavedModel from elsewhere.
        arrays: What its preprocessing needs.
        image_limits: What an image may cost.
    """

    def __init__(
        self,
        model: str,
        version: int,
        path: Path,
        manifest: Manifest | None,
        arrays: Mapping[str, Floats],
        image_limits: ImageLimits,
    ) -> None:
        self._model = model
        self._version = version
        self._path = path
        self._manifest = manifest
        self._arrays = arrays
        self._image_limits = image_limits
        self._maps: Probe | None = None
        self._gradients: RemoteProbe | None = None
        self._executors = {
            kind: EngineThreads(1, f"explain-{model}-{version}") for kind in ("maps", "gradients")
        }
        self._waiting = 0

    async def layers(self, deadline: float | None) -> LayersReply:
        """What of this version can be looked into.

        Raises:
            UnsupportedError: it says nothing of its layers.
        """
        return await self._in_thread("maps", deadline, self._layers)

    async def explain(self, call: ExplainCall) -> ExplainReply:
        """Runs one method.

        Raises:
            InvalidRequestError: no such method, layer, class or option, or an image that is none.
            UnsupportedError: this version, or what is installed here, cannot.
            OverloadedError: too many wait.
            DeadlineExceededError: too late.
        """
        for name in (call.method, call.layer or "", str(call.explained or "")):
            if len(name) > MOST_NAME:
                raise LimitExceededError(f"{name[:40]!r}... is too long for a name.")
        try:
            method = methods.find(call.method)
        except ExplainError as error:
            raise InvalidRequestError(str(error), field="method") from error
        kind = "gradients" if method.need == "gradients" else "maps"

        def run(watch: _Watch) -> ExplainReply:
            return self._explain(call, method, watch)

        return await self._in_thread(kind, call.deadline, run)

    async def _in_thread(self, kind: str, deadline: float | None, run: Callable[[_Watch], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise OverloadedError(
                f"{self._waiting} explanations wait already; at most {MOST_WAITING} may.",
                retry_after_s=1.0,
            )
        watch = _Watch(deadline)

        def guarded() -> T:
            watch.check()  # what came too late while it waited is never begun
            try:
                return run(watch)
            except ImageError as error:
                raise InvalidRequestError(str(error), field="image") from error
            except ExplainError as error:
                raise InvalidRequestError(str(error)) from error
            except WorkerError as error:
                raise EngineError(str(error)) from error

        self._waiting += 1
        try:
            left = None if deadline is None else deadline - time.monotonic()
            async with asyncio.timeout(left):
                return await run_in(self._executors[kind], guarded)
        except TimeoutError as error:
            text = "The deadline passed while the explanation was made."
            if kind == "gradients":
                text += " The worker for gradients takes some seconds to start the first time."
            raise DeadlineExceededError(text) from error
        finally:
            watch.is_gone.set()
            self._waiting -= 1

    # --- in a thread

    def _layers(self, watch: _Watch) -> LayersReply:
        manifest, probe = self._require_manifest(), self._maps_probe()
        watch.check()
        problem = self._gradient_problem()
        return LayersReply(
            model=self._model,
            version=self._version,
            labels=manifest.labels,
            input_shape=manifest.preprocessing.input.shape,
            colour=manifest.preprocessing.input.colour,
            image_size=_image_size(manifest.preprocessing),
            layers=tuple(
                LayerRecord(
                    name=layer.name,
                    kind=layer.kind,
                    shape=layer.output_shape,
                    parents=layer.parents,
                    methods=methods.methods_of(probe, layer),
                )
                for layer in probe.layers
            ),
            methods=tuple(
                MethodRecord(
                    name=each.name,
                    title=each.title,
                    paper=each.paper,
                    takes_layer=each.takes_layer,
                    needs_layer=each.needs_layer,
                    takes_target=each.takes_target,
                    needs_image=each.needs_image,
                    options=each.options.model_json_schema(),
                    problem=problem if each.need == "gradients" else "",
                )
                for each in METHODS.values()
            ),
            framing=FRAMINGS.get(_source(manifest)),
        )

    def _explain(self, call: ExplainCall, method: Method, watch: _Watch) -> ExplainReply:
        manifest = self._require_manifest()
        started = time.monotonic()
        pixels = self._pixels(call, method, manifest)
        image_nhwc = manifest.preprocessing.to_input(pixels[None], self._arrays)
        decoded = time.monotonic()
        if method.need == "gradients":
            if problem := self._gradient_problem():
                raise UnsupportedError(problem)
            probe: Probe = self._gradient_probe()
        else:
            probe = self._maps_probe()
        subject = Subject(
            probe=_WatchedProbe(probe, watch),
            pixels_hwc=pixels,
            image_hwc=image_nhwc[0],
            input=manifest.preprocessing.input,
            labels=manifest.labels,
            should_stop=watch.should_stop,
        )
        found = methods.explain(
            subject,
            call.method,
            layer=call.layer,
            target=_class_id(call.explained, manifest.labels),
            options=call.options,
        )
        watch.check()
        executed = time.monotonic()
        picture = b""
        if call.is_picture:
            from zoo.explain.render import picture as draw

            buffer = io.BytesIO()
            draw(found, subject).save(buffer, "PNG")
            picture = buffer.getvalue()
        return ExplainReply(
            model=self._model,
            version=self._version,
            method=found.method,
            layer=found.layer,
            class_id=found.target,
            label=None if found.target is None else subject.label(found.target),
            arrays={} if call.is_picture else found.arrays,
            facts=found.facts,
            picture=picture,
            timings=Timings(
                decode_s=decoded - started,
                execute_s=executed - decoded,
                encode_s=time.monotonic() - executed,
            ),
            request_id=call.request_id,
        )

    def _pixels(self, call: ExplainCall, method: Method, manifest: Manifest) -> Pixels:
        if call.image:
            preprocessing = manifest.preprocessing
            return preprocessing.to_pixels(preprocessing.decode(call.image, self._image_limits))
        if method.needs_image:
            raise InvalidRequestError(f"{method.name} looks at an image; send one.", field="image")
        return np.full(manifest.preprocessing.input.shape, 127, np.uint8)

    def _require_manifest(self) -> Manifest:
        if self._manifest is None or not (self._path / KERAS_MODEL).is_file():
            raise UnsupportedError(
                f"Version {self._version} of {self._model!r} says nothing of its layers; versions "
                "that convzoo publishes do."
            )
        return self._manifest

    def _maps_probe(self) -> Probe:
        """OpenVINO's, where the version has a form for it; else the worker's."""
        if self._maps is not None:
            return self._maps
        manifest = self._require_manifest()
        record = manifest.engines.get("openvino")
        if record is None:
            if problem := self._gradient_problem():
                raise UnsupportedError(problem)
            return self._gradient_probe()
        module, name = OPENVINO_PROBE.split(":")
        try:
            kind: Any = getattr(import_module(module), name)
            network = _full_precision(self._path / record.file)
            self._maps = kind(network, KerasFile(self._path / KERAS_MODEL))
        except LoadError as error:
            raise UnsupportedError(str(error)) from error
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                f"Looking into a version needs {error.name}: pip install 'convzoo[serve]'."
            ) from error
        return self._maps

    def _gradient_problem(self) -> str:
        """Why there are no gradients here; empty when there are."""
        if find_spec("tensorflow") is None or find_spec("keras") is None:
            return (
                "Gradients need TensorFlow, which is not installed on this server: "
                "pip install 'convzoo[train]'. Feature maps, units and occlusion work without."
            )
        return ""

    def _gradient_probe(self) -> RemoteProbe:
        if self._gradients is None:
            path = self._path / KERAS_MODEL
            keras_file = KerasFile(path)
            layers = self._maps.layers if self._maps is not None else keras_file.layers
            self._gradients = RemoteProbe(path, layers, keras_file.output)
        return self._gradients

    def close(self) -> None:
        """Ends the worker and gives the memory back."""
        if self._gradients is not None:
            self._gradients.close()
        for executor in self._executors.values():
            executor.shutdown(wait=True, cancel_futures=True)
        self._maps = None


def _full_precision(network: Path) -> Path:
    """The fp32 form beside an eight-bit one.

    A unit is its patch times the weights of the Keras file: rounded to eight bits it is not.
    """
    beside = network.with_name(FULL_PRECISION)
    return beside if beside.is_file() else network


def _source(manifest: Manifest) -> str:
    """The data that it learned, as its recipe names it; empty when it names none."""
    data = manifest.recipe.get("data")
    return str(data.get("source", "")) if isinstance(data, dict) else ""


def _image_size(preprocessing: Preprocessing) -> tuple[int, int] | None:
    """The size images must have, where no step changes it but padding."""
    height, width, _ = preprocessing.input.shape
    for step in preprocessing.pixel_steps:
        if not isinstance(step, Pad):
            return None
        height, width = height - step.top - step.bottom, width - step.left - step.right
    return height, width


def _class_id(explained: str | int | None, labels: tuple[str, ...]) -> int | None:
    """A class by its label, else by its number: the labels of digits are digits too."""
    if explained is None or isinstance(explained, int):
        return explained
    if explained in labels:
        return labels.index(explained)
    if explained.isascii() and explained.isdigit():
        return int(explained[:9])
    known = ", ".join(labels[:30])
    raise InvalidRequestError(f"No label {explained!r}; there are {known}.", field="target")
