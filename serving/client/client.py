"""The client for threads, derived from `async_client.py` by `scripts/derive_client.py`."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar, overload

from serving.client import address as addresses
from serving.client.batches import (
    Batch,
    check_streaming,
    gather,
    is_alike,
    join,
    number_of,
    rows_of,
)
from serving.client.core import Core, Send, Steps
from serving.client.errors import ClientError
from serving.client.exchange import Reply
from serving.client.hedging import send_hedged
from serving.client.identity import headers_of
from serving.client.images import Image, listed
from serving.client.inputs import Inputs
from serving.client.results import (
    Classification,
    Explanation,
    Layers,
    Metadata,
    ModelStatus,
    Outcome,
    Prediction,
)
from serving.client.settings import DEFAULT_TIMEOUT_S, Hedge, Retries, Tls
from serving.client.streaming import stream
from serving.client.transports import Transport, open_transport
from serving.messages import ExplainCall, Target

T = TypeVar("T")


class Client:
    """Asks a server, from any number of threads.

        with Client("grpc://localhost:8500") as client:
            print(client.classify("lenet5", "digit.png", top_k=3))

    Args:
        url: `http(s)://host[:port][/prefix]` or `grpc(s)://host[:port]`.
        protocol: "native" for this project's server, "tfs" for TensorFlow Serving, "oip" for Triton
            and other Open Inference servers; "auto" asks the server once.
        timeout_s: How long a call may take, retries and waits included; None for no limit.
        retries: When a failed call is made again; see `Retries`.
        tls: Whom to believe over https and grpcs.
        hedge: When a call that is slow gets a second attempt beside it; never when None.
        token: Sent as a bearer token.
        api_key: Sent as x-api-key.
        headers: Sent with every call; a function is called for each, for tokens that change. The
            trace context of OpenTelemetry goes with them where the program has loaded it.
        transport: Carries the calls instead of a connection; see `serving.client.testing`.

    Raises:
        UsageError: a URL or setting that cannot work.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: addresses.Protocol = "auto",
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        retries: Retries | None = None,
        tls: Tls | None = None,
        hedge: Hedge | None = None,
        token: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        transport: Transport | None = None,
    ) -> None:
        address = addresses.parse(url)
        named = headers_of(token, api_key, headers)
        self._core = Core(address, protocol, retries or Retries(), timeout_s, named, hedge)
        self._transport: Transport = transport or open_transport(address, tls or Tls())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> object:
        raise TypeError(
            "A client holds connections, so it cannot be pickled or copied: make one in the "
            "process that uses it."
        )

    def close(self) -> None:
        """Closes the connections; the client cannot be used after."""
        self._transport.close()

    def _send(self, step: Send) -> Reply:
        if step.hedge is None:
            return self._transport.send(step)
        return send_hedged(self._transport.send, step)

    def _run(self, steps: Steps[T]) -> T:
        reply: Reply | None = None
        failure: ClientError | None = None
        try:
            while True:
                step = steps.send(reply) if failure is None else steps.throw(failure)
                reply = failure = None
                if isinstance(step, Send):
                    try:
                        reply = self._send(step)
                    except ClientError as error:
                        failure = error
                else:
                    time.sleep(step.seconds)
        except StopIteration as end:
            result: T = end.value
            return result

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Runs a signature of a model on arrays.

        Args:
            model: The model's name.
            inputs: The array, when the model takes one; else a mapping from names to arrays.
                Types and shapes are held against the model's before anything is sent.
            version: Its version; the newest when neither this nor `label` is given.
            label: A version label, e.g. "stable".
            signature: "serving_default" when None.
            outputs: Which outputs to return, in this order; all when None.
            timeout_s: Instead of the client's.

        Raises:
            UsageError: both a version and a label.
            InvalidInputError: the inputs do not fit; `field` names the one at fault.
            ModelNotFoundError: no such model, version or label.
            ClientError: see `serving.client.errors`.
        """
        target = self._core.target(model, version, label)
        return self._run(
            self._core.predict(
                target, inputs, signature=signature, outputs=outputs, timeout_s=timeout_s
            )
        )

    @overload
    def classify(  # type: ignore[overload-overlap]  # a str is a path here, not a sequence
        self,
        model: str,
        images: Image,
        *,
        top_k: int = ...,
        version: int | None = ...,
        label: str | None = ...,
        timeout_s: float | None = ...,
    ) -> Classification: ...

    @overload
    def classify(
        self,
        model: str,
        images: Sequence[Image],
        *,
        top_k: int = ...,
        version: int | None = ...,
        label: str | None = ...,
        timeout_s: float | None = ...,
    ) -> list[Classification]: ...

    def classify(
        self,
        model: str,
        images: Image | Sequence[Image],
        *,
        top_k: int = 5,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> Classification | list[Classification]:
        """Names what images show; the server decodes and preprocesses them.

        Args:
            model: The model's name.
            images: One image, or a sequence: a path, bytes of a JPEG, PNG, WebP or BMP file, an
                open file, a PIL image, or a uint8 array [h, w], [h, w, 1], [h, w, 3], [h, w, 4].
            top_k: How many labels, best first; at most all of the model's.
            version: Its version; the newest when neither this nor `label` is given.
            label: A version label, e.g. "stable".
            timeout_s: Instead of the client's.

        Returns:
            One result, or a list of them when a sequence was given.

        Raises:
            ImageError: an image that cannot be read.
            ClientError: see `serving.client.errors`.
        """
        target = self._core.target(model, version, label)
        several, is_one = listed(images)
        found = self._run(self._core.classify(target, several, top_k=top_k, timeout_s=timeout_s))
        return found[0] if is_one else found

    def predict_many(
        self,
        model: str,
        items: Iterable[Inputs],
        *,
        batch_size: int = 32,
        concurrency: int = 4,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> Iterator[Outcome[Prediction]]:
        """Runs a model on a stream of examples, in order, with bounded memory.

        Args:
            model: The model's name.
            items: Examples without a batch axis, or mappings from input names to them; of them at
                most `batch_size * (concurrency + 1)` are held.
            batch_size: Examples that travel together.
            concurrency: Batches under way at the same time.
            version: Its version; the newest when neither this nor `label` is given.
            label: A version label.
            signature: "serving_default" when None.
            outputs: Which outputs to return; all when None.
            timeout_s: For each batch, instead of the client's.
            progress: Show a progress bar on standard error.

        Returns:
            One outcome an example, in order: its answer, or its own error. An example that is
            refused takes no other with it.
        """

        def ask(batch: Batch[Inputs]) -> list[Prediction]:
            answer = self.predict(
                model,
                join(batch.items),
                version=version,
                label=label,
                signature=signature,
                outputs=outputs,
                timeout_s=timeout_s,
            )
            return rows_of(answer, len(batch.items))

        check_streaming(batch_size, concurrency)
        self._core.target(model, version, label)  # refused here, and not item by item
        batches, total = gather(items, batch_size, is_alike), number_of(items)
        return stream(batches, ask, concurrency=concurrency, progress=progress, total=total)

    def classify_many(
        self,
        model: str,
        images: Iterable[Image],
        *,
        top_k: int = 5,
        batch_size: int = 8,
        concurrency: int = 4,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> Iterator[Outcome[Classification]]:
        """Names what a stream of images shows, as `predict_many` does for arrays."""

        def ask(batch: Batch[Image]) -> list[Classification]:
            return self.classify(
                model,
                list(batch.items),
                top_k=top_k,
                version=version,
                label=label,
                timeout_s=timeout_s,
            )

        check_streaming(batch_size, concurrency)
        self._core.target(model, version, label)  # refused here, and not item by item
        batches, total = gather(images, batch_size), number_of(images)
        return stream(batches, ask, concurrency=concurrency, progress=progress, total=total)

    def layers(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> Layers:
        """What of a version can be looked into: its layers, and the methods for each."""
        return self._run(self._core.layers(self._core.target(model, version, label), timeout_s))

    def explain(
        self,
        model: str,
        image: Image | None,
        *,
        method: str,
        layer: str | None = None,
        target: str | int | None = None,
        options: Mapping[str, object] | None = None,
        as_picture: bool = False,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> Explanation:
        """Looks inside a network while an image goes through it.

        Args:
            model: The model's name.
            image: As in `classify`; None for the methods that need none (filters, class_model).
            method: A name of `layers(model).methods`.
            layer: The layer to look at; the method's own choice when None.
            target: The class to explain, by label or class id; the network's best when None.
            options: The method's own, e.g. {"patch": 8}.
            as_picture: A PNG in place of arrays.
            version: A version; the newest when None.
            label: A version label, e.g. "stable".
            timeout_s: In place of the client's.

        Raises:
            InvalidInputError: no such method, layer, class or option.
            UnsupportedError: this server, or this version, cannot.
        """
        call = ExplainCall(
            target=self._core.target(model, version, label),
            method=method,
            layer=layer,
            explained=target,
            options=options or {},
            is_picture=as_picture,
        )
        return self._run(self._core.explain(call, image, timeout_s))

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> Metadata:
        """What a version takes and gives: its signatures, with names, types and shapes.

        Raises:
            ModelNotFoundError: the server has no such model, version or label.
            NotReadyError: it is loading.
        """
        return self._run(self._core.metadata(self._core.target(model, version, label), timeout_s))

    def status(self, model: str, *, timeout_s: float | None = None) -> ModelStatus:
        """The states of a model's versions, newest first, and the reasons of those that failed.

        Raises:
            ModelNotFoundError: the server has no such model.
        """
        return self._run(self._core.status(Target(model), timeout_s))

    def models(self, *, timeout_s: float | None = None) -> tuple[str, ...]:
        """The names of all models.

        Raises:
            UnsupportedError: TensorFlow Serving, which has no such list.
        """
        return self._run(self._core.models(timeout_s))

    def load(self, model: str, *, timeout_s: float | None = None) -> None:
        """Loads a model from the server's repository, where the server takes such orders.

        Raises:
            UnsupportedError: the server loads what is published, and takes no orders.
        """
        self._run(self._core.load(model, timeout_s))

    def unload(self, model: str, *, timeout_s: float | None = None) -> None:
        """Unloads a model; see `load`."""
        self._run(self._core.unload(model, timeout_s))

    def wait_until_ready(self, model: str | None = None, *, timeout_s: float | None = None) -> None:
        """Returns when the server, or the model if one is named, takes requests.

        Raises:
            DeadlineError: they did not in time.
            ModelNotFoundError: the server has no such model.
        """
        self._run(self._core.wait_until_ready(model, timeout_s))
