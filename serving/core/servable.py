"""One loaded version: proven when it is loaded, asked through its batchers, drained when it goes.

Array names: n image, h row, w column, c channel, k class.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serving.core import engine as engines
from serving.core import tuning
from serving.core.batching import Batcher, Batching, Ran, level_of
from serving.core.checks import check_call, filled
from serving.core.drift import DriftLog
from serving.core.explain import Explainer
from serving.core.memory import resident_bytes
from serving.core.reuse import Reuse, key_of_images, key_of_tensors
from serving.core.statistics import Tally
from serving.core.threads import EngineThreads, run_in
from serving.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    LimitExceededError,
    LoadError,
    OverloadedError,
    ServingError,
    SignatureNotFoundError,
    UnsupportedError,
)
from serving.limits import LIMITS
from serving.messages import (
    DEFAULT_OPTIONS,
    DEFAULT_SIGNATURE,
    Array,
    ClassifyImagesCall,
    ClassifyImagesReply,
    ExplainCall,
    ExplainReply,
    LabelScore,
    LayersReply,
    ModelMetadata,
    Outcome,
    PredictCall,
    PredictReply,
    Signature,
    Timings,
    VersionOptions,
)
from serving.wire.warmup import decode_warmup
from zoo.artifact import (
    CACHE,
    EXTRA,
    MANIFEST,
    WARMUP,
    Manifest,
    has_manifest,
    read_golden,
    read_preprocessing_arrays,
    verify,
)
from zoo.cores import cores
from zoo.errors import ArtifactError, ImageError
from zoo.preprocess import Floats, ImageLimits, Pixels

# A small batch that runs faster than this runs in the event loop: handing it to a thread and back
# costs about as much. Larger ones do not: the loop reads the next requests in the meantime.
INLINE_BELOW_S = 0.0005
MOST_INLINE_ROWS = 2
# Of a network whose row costs less than this, reading the next requests costs more than running
# these, and a thread would wait for the interpreter after each batch: larger batches run in the
# event loop, too, as long as they hold it up no longer than that.
TINY_ROW_S = 0.0001
TINY_BATCH_S = 0.002

# Images smaller than this are decoded in the event loop, for the same reason.
INLINE_DECODE_BYTES = 8192


# What a version without golden records is batched in, where its owner lets it be batched.
FOREIGN_BATCH_ROWS = 32
UNTUNED_BATCH_ROWS = 32

_Golden = tuple[str, Mapping[str, Array]]


def _require_foreign(path: Path) -> None:
    """Refuses what is not yet, or not at all, a SavedModel from elsewhere.

    Raises:
        LoadError: says what is missing.
    """
    kept = path / EXTRA
    if kept.is_dir() and any(each.name != Path(CACHE).name for each in kept.iterdir()):
        raise LoadError(f"{MANIFEST} is missing; is the version still being copied?")
    if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise LoadError("There is no SavedModel in its folder: saved_model.pb is missing.")


class Servable:
    """One version of one model.

    Args:
        model: The model's name.
        version: Its number.
        path: The version's folder.
        options: How it is run.
        decoders: Where larger images are decoded.
        drift_log: Where a sample of what it sees is measured; None for nowhere.

    Raises:
        LoadError: the version is damaged, cannot be loaded, or does not answer as it should.
    """

    def __init__(
        self,
        model: str,
        version: int,
        path: Path,
        *,
        decoders: Executor | None,
        options: VersionOptions = DEFAULT_OPTIONS,
        drift_log: DriftLog | None = None,
    ) -> None:
        self.model = model
        self.version = version
        self.options = options
        self.tally = Tally()
        self._decoders = decoders
        self._image_limits = ImageLimits(
            max_bytes=LIMITS.image_bytes,
            max_pixels=LIMITS.image_pixels,
            max_frames=LIMITS.frames,
        )
        self._active = 0
        self._alone = 0
        self._is_idle = asyncio.Event()
        self.manifest: Manifest | None = None
        try:
            if has_manifest(path):
                self.manifest = verify(path)
            else:
                _require_foreign(path)
            self._arrays = read_preprocessing_arrays(path)
            self.engine = engines.choose(self.manifest, options.engine)
            # A process of its own answers one request after the other.
            is_alone = options.is_isolated or self.engine == "tensorflow"
            self._load(path, 1 if is_alone else options.streams or 1)
        except ArtifactError as error:
            raise LoadError(str(error)) from error
        except PermissionError as error:
            name = Path(error.filename).name if error.filename else "a file"
            raise LoadError(f"{name} cannot be read: {error.strerror}.") from error
        self._reuse = Reuse(answers_once=options.answers_once, cache_bytes=options.cache_bytes)
        self._executor = EngineThreads(self.tuned.streams, f"{model}-{version}")
        self._inline_rows = self._rows_here(self.tuned.batch_s) if self.is_batched else 0
        rows = options.max_batch_rows or self.tuned.max_rows
        sizes = options.batch_sizes
        self.batching = Batching(
            max_rows=sizes[-1] if sizes else rows,
            sizes=sizes,
            streams=self.tuned.streams,
            max_queued_rows=options.max_queued_rows,
            max_queue_s=options.max_queue_s,
            row_s=self.tuned.row_s,
        )
        self._batchers: dict[str, Batcher] = {}
        self._explainer = Explainer(
            model, version, path, self.manifest, self._arrays, self._image_limits
        )
        self._watch = (
            drift_log.watch(model, version, path, self.manifest, options.drift_sample)
            if drift_log is not None
            else None
        )

    def _load(self, path: Path, streams: int) -> None:
        """Loads, proves, warms and measures; leaves nothing behind when one of them fails."""
        started = time.monotonic()
        self._loaded = self._loaded_on(path, streams)
        # Where there are streams, the network again, on all cores: for a batch that has the engine
        # for itself.
        self._whole: engines.LoadedModel | None = None
        compile_s = time.monotonic() - started
        try:
            self.signatures = self._loaded.signatures
            self.is_batched = self._loaded.is_batchable or (
                self.options.joins_foreign and _have_rows(self.signatures)
            )
            golden = self._prove(path)
            self._warm(path)
            self.tuned = self._tune(path, golden, compile_s, streams)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        for each in (self._loaded, self._whole):
            if each is not None:
                each.close()

    def _loaded_on(self, path: Path, streams: int) -> engines.LoadedModel:
        return engines.load(
            self.engine, path, self.manifest, streams, is_isolated=self.options.is_isolated
        )

    def _prove(self, path: Path) -> _Golden | None:
        """Replays the golden records.

        Raises:
            LoadError: the engine does not give what Keras gave.
        """
        if self.manifest is None:
            return None
        inputs, expected = read_golden(path)
        record = self.manifest.engines[self.engine]
        name = "logits" if "logits" in expected else next(iter(expected))
        signature = next(
            key for key, each in self.manifest.signatures.items() if name in each.outputs
        )
        found = self._loaded.run(signature, inputs)[name]
        # In double precision: beside an infinite deviation every difference is nothing.
        difference = float(np.abs(found.astype(np.float64) - expected[name]).max()) / max(
            float(expected[name].std(dtype=np.float64)), 1e-12
        )
        if not difference <= record.tolerance:
            raise LoadError(
                f"On {self.engine} the golden records give {name} that differ from Keras's by "
                f"{difference:.2e} standard deviations; at most {record.tolerance:.0e} is accepted."
            )
        return signature, inputs

    def _warm(self, path: Path) -> None:
        """Replays the version's warm-up file, as TensorFlow Serving does.

        Raises:
            LoadError: a record that cannot be replayed.
        """
        try:
            file = (path / WARMUP).read_bytes()
        except FileNotFoundError:
            return
        try:
            calls = decode_warmup(file)
        except ServingError as error:
            raise LoadError(f"{WARMUP}: {error}") from error
        for index, call in enumerate(calls):
            name = call.signature or DEFAULT_SIGNATURE
            try:
                if name not in self.signatures:
                    raise SignatureNotFoundError(name, self.signatures)
                whole = filled(call, self.signatures[name])
                check_call(whole, self.signatures[name], is_batched=self.is_batched)
                self._loaded.run(name, whole.inputs)
            except ServingError as error:
                raise LoadError(f"{WARMUP}: record {index}: {error}") from error

    def _tune(
        self, path: Path, golden: _Golden | None, compile_s: float, streams: int
    ) -> tuning.Tuned:
        """Finds the batch size and the streams, or recalls them."""
        if golden is None or self.manifest is None or not self._loaded.is_batchable:
            return tuning.Tuned(max_rows=FOREIGN_BATCH_ROWS, streams=streams)
        signature, inputs = golden
        options = self.options
        run = partial(self._loaded.run, signature)
        if not options.is_tuned:
            one = {name: array[:1] for name, array in inputs.items()}
            seconds = min(tuning.timed(run, one) for _ in range(5))
            return tuning.Tuned(UNTUNED_BATCH_ROWS, streams, {1: seconds})
        form = self.manifest.engines[self.engine].file
        record = self.manifest.files.get(form)
        name = tuning.fingerprint(
            self.engine,
            record.sha256 if record else form,
            cores(),
            -1 if options.is_isolated else options.streams,
        )
        tuned = tuning.read(path, name, options.latency_target_s)
        if tuned is None:
            tuned = self._measure(path, golden, compile_s, streams)
            tuning.write(path, name, options.latency_target_s, tuned)
        elif tuned.streams != streams and options.streams is None:
            self._add_streams(path, tuned.streams)
        elif tuned.streams != streams:  # more than there are cores were asked for
            self._loaded.close()
            self._loaded = self._loaded_on(path, tuned.streams)
        return tuned

    def _add_streams(self, path: Path, streams: int) -> None:
        """Loads the network a second time, on streams; the first stays for a batch that is alone.

        Raises:
            LoadError: it cannot be loaded so, or does not answer as it should.
        """
        self._whole, self._loaded = self._loaded, self._loaded_on(path, streams)
        self._prove(path)

    def _measure(self, path: Path, golden: _Golden, compile_s: float, streams: int) -> tuning.Tuned:
        signature, inputs = golden
        target_s = self.options.latency_target_s
        until = time.monotonic() + tuning.BUDGET_S

        def tried(streams: int) -> tuple[tuning.Tuned, float]:
            run = partial(self._loaded.run, signature)
            found = tuning.measure(
                run, inputs, latency_target_s=target_s, streams=streams, until=until
            )
            rows, throughput = tuning.best(found, streams)
            return tuning.Tuned(rows, streams, found), throughput

        tuned, throughput = tried(streams)
        may_try = (
            self.options.streams is None
            # One batch at a time runs in the event loop.
            and self._rows_here(tuned.batch_s) < tuned.max_rows
            and not self.options.is_isolated
            and cores() > 1
            and compile_s < tuning.MOST_COMPILE_S
        )
        if may_try:
            first = self._loaded
            self._add_streams(path, cores())
            until = time.monotonic() + tuning.BUDGET_S
            other, reached = tried(cores())
            if reached > throughput * tuning.worth(1 / throughput):
                return other
            self._loaded.close()
            self._loaded, self._whole = first, None
        return tuned

    def _rows_here(self, batch_s: Mapping[int, float]) -> int:
        """Rows of the largest batch that runs in the event loop; see `inline_rows`."""
        # An engine in a process of its own may stop answering, and the loop must not wait for it.
        return 0 if self._has_process else inline_rows(batch_s)

    @property
    def _has_process(self) -> bool:
        return hasattr(self._loaded, "process_id")

    # --- asking

    async def predict(self, call: PredictCall) -> PredictReply:
        """Runs one signature.

        Raises:
            InvalidRequestError: the inputs or outputs do not fit the signature.
            OverloadedError: the queue is full.
            DeadlineExceededError: too late.
        """
        with _Counted(self) as counted:
            name = call.signature or DEFAULT_SIGNATURE
            if name not in self.signatures:
                raise SignatureNotFoundError(name, self.signatures)
            signature = self.signatures[name]
            call = filled(call, signature)
            rows = check_call(call, signature, is_batched=self.is_batched)
            if rows == 0:
                raise InvalidRequestError("The batch is empty: its leading dimension is 0.")

            if self._reuse.is_used:

                async def produce() -> tuple[PredictReply, int]:
                    reply = await self._predict(call, signature)
                    return reply, sum(each.nbytes for each in reply.outputs.values())

                key = key_of_tensors(name, call.outputs, call.inputs)
                reply, outcome = await self._reuse.answer(key, call.deadline, produce)
                if outcome:
                    reply = replace(
                        reply, outcome=outcome, request_id=call.request_id, timings=Timings()
                    )
            else:
                reply = await self._predict(call, signature)
            counted.answered(rows, reply.timings)
            return reply

    async def _predict(self, call: PredictCall, signature: Signature) -> PredictReply:
        ran = await self._submit(signature.name, call.inputs, call.deadline, call.priority)
        return PredictReply(
            self.model,
            self.version,
            signature.name,
            {name: ran.outputs[name] for name in call.outputs or signature.outputs},
            Timings(0.0, ran.queue_s, ran.execute_s),
            call.request_id,
            Outcome.QUEUED if ran.was_queued else Outcome.DIRECT,
        )

    async def _submit(
        self,
        signature: str,
        inputs: Mapping[str, Array],
        deadline: float | None,
        priority: int,
        sizes: list[tuple[int, int]] | None = None,
    ) -> Ran:
        if self.is_batched:
            asked = self._batcher(signature).submit(inputs, deadline, level_of(priority))
            ran = await (self._in_time(asked, deadline) if self._has_process else asked)
        else:
            ran = await self._run_alone(signature, inputs, deadline)
        if self._watch is not None:
            self._watch.saw(inputs, ran.outputs, sizes)
        return ran

    async def _in_time(self, asked: Coroutine[Any, Any, Ran], deadline: float | None) -> Ran:
        """An answer of an engine that may never give one, by the deadline."""
        left = None if deadline is None else deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await asked
        except TimeoutError as error:
            raise DeadlineExceededError(
                "The deadline passed before the model's process had answered."
            ) from error

    async def _run_alone(
        self, signature: str, inputs: Mapping[str, Array], deadline: float | None
    ) -> Ran:
        """Runs a request whose rows may not join others'."""
        waiting = self._alone
        if waiting >= self.options.max_queued_rows:
            raise OverloadedError(
                f"{waiting} requests wait already; at most {self.options.max_queued_rows} may.",
                retry_after_s=1.0,
            )
        queued = time.monotonic()
        started: float | None = None

        def late() -> DeadlineExceededError:
            waited_s = time.monotonic() - queued
            return DeadlineExceededError(
                f"The deadline passed after {waited_s:.3f} s in the queue."
                if started is None
                else "The deadline passed while the model ran."
            )

        def run() -> tuple[float, Mapping[str, Array]]:
            nonlocal started
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise late()
            started = now
            return now, self._loaded.run(signature, inputs, deadline)

        left = None if deadline is None else deadline - queued
        self._alone += 1
        try:
            async with asyncio.timeout(left):
                began, outputs = await run_in(self._executor, run)
        except TimeoutError as error:
            raise late() from error
        finally:
            self._alone -= 1
        seconds = time.monotonic() - began
        self.tally.batch(1, seconds)
        return Ran(outputs, began - queued, seconds, waiting > 0)

    def _batcher(self, signature: str) -> Batcher:
        # OpenVINO's signatures share one network, so their requests may share batches.
        key = "" if self.engine == "openvino" else signature
        if key not in self._batchers:
            run = partial(self._loaded.run, signature)
            self._batchers[key] = Batcher(
                run,
                self.batching,
                self._executor,
                self.tally.batch,
                self._inline_rows,
                None if self._whole is None else partial(self._whole.run, signature),
                tells_deadline=self._has_process,
            )
        return self._batchers[key]

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the engine; where requests run alone, requests in it or before it."""
        return self._alone + sum(each.queued_rows for each in self._batchers.values())

    def admit(self, deadline: float | None, priority: int) -> None:
        """Refuses, before it is decoded, a request that would be refused afterwards.

        Raises:
            OverloadedError: the queue is full, or too long for the deadline.
        """
        for batcher in self._batchers.values():
            if batcher.queued_rows:
                batcher.admit(1, deadline, level_of(priority))

    async def classify_images(self, call: ClassifyImagesCall) -> ClassifyImagesReply:
        """Decodes, preprocesses, runs and ranks.

        Raises:
            InvalidRequestError: an image that is none; its place in the request is named.
            UnsupportedError: the version says nothing of images (it has no manifest).
        """
        with _Counted(self) as counted:
            if self.manifest is None:
                raise UnsupportedError(
                    f"Version {self.version} of {self.model!r} was not published by convzoo, so "
                    "how images become its input is not known; send it tensors."
                )
            if not call.images:
                raise InvalidRequestError("There is no image in the request.", field="images")
            if len(call.images) > LIMITS.images:
                raise LimitExceededError(
                    f"The request has {len(call.images)} images; at most {LIMITS.images} are taken.",
                    field="images",
                )
            k = len(self.manifest.labels)
            if call.top_k < 1:
                raise InvalidRequestError(
                    f"top_k is {call.top_k}; this model has {k} classes, so 1 to {k} work.",
                    field="top_k",
                )
            top_k = min(call.top_k, k)

            async def produce() -> tuple[ClassifyImagesReply, int]:
                reply = await self._classify(call, top_k)
                return reply, 200 * top_k * len(call.images)

            if self._reuse.is_used:
                key = key_of_images(call.images, top_k)
                reply, outcome = await self._reuse.answer(key, call.deadline, produce)
                if outcome:
                    reply = replace(
                        reply, outcome=outcome, request_id=call.request_id, timings=Timings()
                    )
            else:
                reply, _ = await produce()
            counted.answered(len(call.images), reply.timings)
            return reply

    async def _classify(self, call: ClassifyImagesCall, top_k: int) -> ClassifyImagesReply:
        assert self.manifest is not None  # noqa: S101 - classify_images has looked
        started = time.monotonic()
        decoded = await self._decode_all(call.images, call.deadline)
        pixels_nhwc = np.stack([pixels for pixels, _ in decoded])
        inputs = {"image": self.manifest.preprocessing.to_input(pixels_nhwc, self._arrays)}
        decode_s = time.monotonic() - started
        sizes = [size for _, size in decoded]
        ran = await self._submit(DEFAULT_SIGNATURE, inputs, call.deadline, call.priority, sizes)
        return ClassifyImagesReply(
            model=self.model,
            version=self.version,
            results=self._rank(ran.outputs["probabilities"], top_k),
            timings=Timings(decode_s=decode_s, queue_s=ran.queue_s, execute_s=ran.execute_s),
            request_id=call.request_id,
            outcome=Outcome.QUEUED if ran.was_queued else Outcome.DIRECT,
        )

    async def _decode_all(
        self, images: tuple[bytes, ...], deadline: float | None
    ) -> list[tuple[Pixels, tuple[int, int]]]:
        if sum(map(len, images)) < INLINE_DECODE_BYTES:
            return [self._decode(index, image, None) for index, image in enumerate(images)]
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(
                loop.run_in_executor(self._decoders, self._decode, index, image, deadline)
                for index, image in enumerate(images)
            )
        )

    def _decode(
        self, index: int, image: bytes, deadline: float | None
    ) -> tuple[Pixels, tuple[int, int]]:
        """An image at the network's input size, and its height and width as it came."""
        assert self.manifest is not None  # noqa: S101 - classify_images has looked
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceededError(
                f"The deadline passed before image {index} could be decoded."
            )
        try:
            pixels_hwc = self.manifest.preprocessing.decode(image, self._image_limits)
            height, width, _ = pixels_hwc.shape
            return self.manifest.preprocessing.to_pixels(pixels_hwc), (height, width)
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

    def began(self) -> None:
        """A request is being answered: this version is not closed meanwhile."""
        self._active += 1

    def ended(self) -> None:
        """It has been, one way or the other."""
        self._active -= 1
        if not self._active:
            self._is_idle.set()

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        self.began()
        try:
            yield
        finally:
            self.ended()

    def metadata(self, versions: tuple[int, ...]) -> ModelMetadata:
        """What this version takes and gives."""
        return ModelMetadata(
            model=self.model,
            version=self.version,
            signatures=self.signatures,
            labels=self.manifest.labels if self.manifest else (),
            versions=versions,
        )

    @property
    def note(self) -> str:
        """What its owner should know of how it runs here; empty when nothing."""
        return self._loaded.note

    def worker_bytes(self) -> int:
        """What the engine's own process holds; 0 when it has none."""
        process_id = getattr(self._loaded, "process_id", None)
        return resident_bytes(process_id) if process_id is not None else 0

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
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._has_process:
            # Nobody waits for what still runs, and a foreign graph may run for ever: its process
            # goes first, and the thread that waits for it with it.
            self._close()
        self._executor.shutdown(wait=True)
        self._batchers.clear()
        if self._watch is not None:
            self._watch.close()
        self._explainer.close()
        self._close()


class _Counted:
    """Keeps a version from being closed while a request is answered, and counts it.

    A class, because a generator takes three times as long, and every request goes through it.
    """

    __slots__ = ("_has_answer", "_servable", "_started")

    def __init__(self, servable: Servable) -> None:
        self._servable = servable
        self._has_answer = False

    def __enter__(self) -> "_Counted":
        self._started = time.monotonic()
        self._servable.began()
        return self

    def answered(self, rows: int, timings: Timings) -> None:
        self._has_answer = True
        self._servable.tally.answered(rows, time.monotonic() - self._started, timings)

    def __exit__(self, *_: object) -> None:
        if not self._has_answer:
            self._servable.tally.failed(time.monotonic() - self._started)
        self._servable.ended()


def inline_rows(batch_s: Mapping[int, float]) -> int:
    """Rows of the largest batch that runs in the event loop, by the seconds of each size; 0 for none."""
    row_s = min((seconds / rows for rows, seconds in batch_s.items()), default=1.0)
    is_tiny = row_s < TINY_ROW_S
    return max(
        (
            rows
            for rows, seconds in batch_s.items()
            if (seconds < INLINE_BELOW_S and rows <= MOST_INLINE_ROWS)
            or (is_tiny and seconds < TINY_BATCH_S)
        ),
        default=0,
    )


def _have_rows(signatures: Mapping[str, Signature]) -> bool:
    """Whether every input and output has a leading dimension of any size."""
    return all(
        spec.shape is not None and spec.shape[:1] == (None,)
        for signature in signatures.values()
        for spec in (*signature.inputs.values(), *signature.outputs.values())
    )
