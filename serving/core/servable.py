"""One loaded version: proven when it is loaded, asked through its batchers, drained when it goes.

Array names: n image, h row, w column, c channel, k class.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from serving.core import engine as engines
from serving.core.batching import Batcher, Batching
from serving.core.checks import check_call
from serving.core.explain import Explainer
from serving.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    LoadError,
    SignatureNotFoundError,
    UnsupportedError,
)
from serving.messages import (
    DEFAULT_SIGNATURE,
    Array,
    ClassifyImagesCall,
    ClassifyImagesReply,
    ExplainCall,
    ExplainReply,
    LabelScore,
    LayersReply,
    ModelMetadata,
    PredictCall,
    PredictReply,
    Timings,
)
from zoo.artifact import (
    Manifest,
    has_manifest,
    read_golden,
    read_preprocessing_arrays,
    verify,
)
from zoo.errors import ArtifactError, ImageError
from zoo.preprocess import Floats, ImageLimits, Pixels, decode

# A batch of one that runs faster than this runs in the event loop: handing it to a thread and
# back costs about as much.
INLINE_BELOW_S = 0.0005

# Images smaller than this are decoded in the event loop, for the same reason.
INLINE_DECODE_BYTES = 8192


class Servable:
    """One version of one model.

    Args:
        model: The model's name.
        version: Its number.
        path: The version's folder.
        engine: The engine asked for; the version's own choice when None.
        batching: The limits of its queue.
        decoders: Where larger images are decoded.

    Raises:
        LoadError: the version is damaged, cannot be loaded, or does not answer as it should.
    """

    def __init__(
        self,
        model: str,
        version: int,
        path: Path,
        *,
        engine: str | None,
        batching: Batching,
        decoders: Executor,
    ) -> None:
        self.model = model
        self.version = version
        self._decoders = decoders
        self._active = 0
        self._is_idle = asyncio.Event()
        self.manifest: Manifest | None = None
        try:
            if has_manifest(path):
                self.manifest = verify(path)
            self._arrays = read_preprocessing_arrays(path)
            self.engine = engines.choose(self.manifest, engine)
            self._loaded = engines.load(self.engine, path, self.manifest)
            try:
                seconds = self._prove(path)
            except BaseException:
                self._loaded.close()
                raise
        except ArtifactError as error:
            raise LoadError(str(error)) from error
        self.signatures = self._loaded.signatures
        self._executor: ThreadPoolExecutor | None = None
        if not self._loaded.is_batchable or seconds > INLINE_BELOW_S:
            self._executor = ThreadPoolExecutor(
                batching.streams, thread_name_prefix=f"{model}-{version}"
            )
        self._batching = batching
        self._batchers: dict[str, Batcher] = {}
        self._explainer = Explainer(model, version, path, self.manifest, self._arrays)

    def _prove(self, path: Path) -> float:
        """Replays the golden records; returns the seconds a batch of one takes.

        Raises:
            LoadError: the engine does not give what Keras gave.
        """
        if self.manifest is None:
            return float("inf")
        inputs, expected = read_golden(path)
        record = self.manifest.engines[self.engine]
        name = "logits" if "logits" in expected else next(iter(expected))
        signature = next(
            key for key, each in self.manifest.signatures.items() if name in each.outputs
        )
        found = self._loaded.run(signature, inputs)[name]
        difference = float(np.abs(found - expected[name]).max()) / max(
            float(expected[name].std()), 1e-12
        )
        if not difference <= record.tolerance:
            raise LoadError(
                f"On {self.engine} the golden records give {name} that differ from Keras's by "
                f"{difference:.2e} standard deviations; at most {record.tolerance:.0e} is accepted."
            )
        one = {key: array[:1] for key, array in inputs.items()}
        times = []
        for _ in range(5):
            started = time.monotonic()
            self._loaded.run(signature, one)
            times.append(time.monotonic() - started)
        return min(times)

    # --- asking

    async def predict(self, call: PredictCall) -> PredictReply:
        """Runs one signature.

        Raises:
            InvalidRequestError: the inputs or outputs do not fit the signature.
            OverloadedError: the queue is full.
            DeadlineExceededError: too late.
        """
        name = call.signature or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise SignatureNotFoundError(name, self.signatures)
        signature = self.signatures[name]
        rows = check_call(call, signature, is_batched=self._loaded.is_batchable)
        if rows == 0:
            raise InvalidRequestError("The batch is empty: its leading dimension is 0.")
        outputs, queue_s, execute_s = await self._submit(name, call.inputs, call.deadline)
        wanted = call.outputs or tuple(signature.outputs)
        return PredictReply(
            model=self.model,
            version=self.version,
            signature=name,
            outputs={key: outputs[key] for key in wanted},
            timings=Timings(queue_s=queue_s, execute_s=execute_s),
            request_id=call.request_id,
        )

    async def _submit(
        self, signature: str, inputs: Mapping[str, Array], deadline: float | None
    ) -> tuple[Mapping[str, Array], float, float]:
        self._active += 1
        try:
            if self._loaded.is_batchable:
                return await self._batcher(signature).submit(inputs, deadline)
            started = time.monotonic()
            run = partial(self._loaded.run, signature, inputs)
            loop = asyncio.get_running_loop()
            left = None if deadline is None else deadline - started
            try:
                async with asyncio.timeout(left):
                    outputs = await loop.run_in_executor(self._executor, run)
            except TimeoutError as error:
                raise DeadlineExceededError("The deadline passed while the model ran.") from error
            return outputs, 0.0, time.monotonic() - started
        finally:
            self._active -= 1
            if not self._active:
                self._is_idle.set()

    def _batcher(self, signature: str) -> Batcher:
        # OpenVINO's signatures share one network, so their requests may share batches.
        key = "" if self.engine == "openvino" else signature
        if key not in self._batchers:
            run = partial(self._loaded.run, signature)
            self._batchers[key] = Batcher(run, self._batching, self._executor)
        return self._batchers[key]

    async def classify_images(self, call: ClassifyImagesCall) -> ClassifyImagesReply:
        """Decodes, preprocesses, runs and ranks.

        Raises:
            InvalidRequestError: an image that is none; its place in the request is named.
            UnsupportedError: the version says nothing of images (it has no manifest).
        """
        if self.manifest is None:
            raise UnsupportedError(
                f"Version {self.version} of {self.model!r} was not published by convzoo, so how "
                "images become its input is not known; send it tensors."
            )
        if not call.images:
            raise InvalidRequestError("There is no image in the request.", field="images")
        k = len(self.manifest.labels)
        if call.top_k < 1:
            raise InvalidRequestError(
                f"top_k is {call.top_k}; this model has {k} classes, so 1 to {k} work.",
                field="top_k",
            )
        started = time.monotonic()
        pixels_nhwc = np.stack(await self._decode_all(call.images))
        inputs = {"image": self.manifest.preprocessing.to_input(pixels_nhwc, self._arrays)}
        decode_s = time.monotonic() - started
        outputs, queue_s, execute_s = await self._submit(DEFAULT_SIGNATURE, inputs, call.deadline)
        return ClassifyImagesReply(
            model=self.model,
            version=self.version,
            results=self._rank(outputs["probabilities"], min(call.top_k, k)),
            timings=Timings(decode_s=decode_s, queue_s=queue_s, execute_s=execute_s),
            request_id=call.request_id,
        )

    async def _decode_all(self, images: tuple[bytes, ...]) -> list[Pixels]:
        if sum(map(len, images)) < INLINE_DECODE_BYTES:
            return [self._decode(index, image) for index, image in enumerate(images)]
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(
                loop.run_in_executor(self._decoders, self._decode, index, image)
                for index, image in enumerate(images)
            )
        )

    def _decode(self, index: int, image: bytes) -> Pixels:
        assert self.manifest is not None  # noqa: S101 - classify_images has looked
        try:
            return self.manifest.preprocessing.to_pixels(decode(image, ImageLimits()))
        except ImageError as error:
            raise InvalidRequestError(
                f"Image {index}: {error}", field=f"images[{index}]"
            ) from error

    def _rank(self, probabilities_nk: Floats, top_k: int) -> tuple[tuple[LabelScore, ...], ...]:
        assert self.manifest is not None  # noqa: S101 - classify_images has looked
        labels = self.manifest.labels
        best_nk = np.argsort(-probabilities_nk, axis=-1, kind="stable")[:, :top_k]
        return tuple(
            tuple(LabelScore(int(k), labels[k], float(row[k])) for k in best)
            for row, best in zip(probabilities_nk, best_nk, strict=True)
        )

    async def explain(self, call: ExplainCall) -> ExplainReply:
        """Looks inside while an image goes through; see `Explainer.explain`."""
        with self._busy():
            return await self._explainer.explain(call)

    async def layers(self, deadline: float | None) -> LayersReply:
        """What of this version can be looked into."""
        with self._busy():
            return await self._explainer.layers(deadline)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._is_idle.set()

    def metadata(self, versions: tuple[int, ...]) -> ModelMetadata:
        """What this version takes and gives."""
        return ModelMetadata(
            model=self.model,
            version=self.version,
            signatures=self.signatures,
            labels=self.manifest.labels if self.manifest else (),
            versions=versions,
        )

    # --- going

    async def drain(self, limit_s: float) -> bool:
        """Waits until nobody is being answered any more; False when the limit came first."""
        if not self._active:
            return True
        self._is_idle.clear()
        try:
            async with asyncio.timeout(limit_s):
                await self._is_idle.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Gives the memory back."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._batchers.clear()
        self._explainer.close()
        self._loaded.close()
