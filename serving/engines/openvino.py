"""The OpenVINO engine: runs the IR of a published version on the CPU."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino as ov

from serving.errors import EngineError, InvalidRequestError, LoadError
from serving.messages import Array, Signature, TensorSpec
from zoo.artifact import Manifest, SignatureRecord, TensorRecord


class OpenVINOModel:
    """A compiled network with one inference request a thread.

    Args:
        version_path: The version's folder.
        manifest: What was published.
        streams: Batches that run at the same time, each on its share of the cores.
    """

    is_batchable = True

    def __init__(self, version_path: Path, manifest: Manifest | None, streams: int = 1) -> None:
        if manifest is None:
            raise LoadError("OpenVINO runs published versions only; this one has no manifest.")
        record = manifest.engines["openvino"]
        core = ov.Core()
        try:
            network = core.read_model(version_path / record.file)
            self._compiled: Any = core.compile_model(
                network,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32",
                    "NUM_STREAMS": str(streams),
                },
            )
        except RuntimeError as error:
            raise LoadError(f"OpenVINO cannot load {record.file}: {_first_line(error)}") from error
        self._outputs = [(port.get_any_name(), port) for port in self._compiled.outputs]
        self._local = threading.local()
        self.signatures: Mapping[str, Signature] = {
            name: signature_of(name, each) for name, each in manifest.signatures.items()
        }

    def run(self, signature: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Runs one batch; every output of the network comes back, whatever the signature."""
        del signature  # all of them take the same input and choose among the outputs
        try:
            request = self._local.request
        except AttributeError:
            request = self._local.request = self._compiled.create_infer_request()
        try:
            results = request.infer(dict(inputs), share_inputs=True)
        except RuntimeError as error:
            text = _first_line(error)
            if "shape" in text or "incompatible" in text:
                raise InvalidRequestError(f"OpenVINO refused the input: {text}") from error
            raise EngineError(f"OpenVINO failed: {text}") from error
        return {name: results[port] for name, port in self._outputs}

    def close(self) -> None:
        """Drops the network; OpenVINO frees it with its last request."""
        self._local = threading.local()
        self._compiled = None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO begins with the place in its own source; the reason stands last.
    return lines[-1][:300] if lines else type(error).__name__


def signature_of(name: str, record: SignatureRecord) -> Signature:
    """A published signature as the protocols tell it."""
    return Signature(
        name=name,
        inputs={
            each: _spec(each, tensor, f"{name}_{each}:0") for each, tensor in record.inputs.items()
        },
        outputs={
            each: _spec(each, tensor, f"StatefulPartitionedCall:{index}")
            for index, (each, tensor) in enumerate(record.outputs.items())
        },
        method_name=record.method_name,
    )


def _spec(name: str, record: TensorRecord, tensor_name: str) -> TensorSpec:
    shape = tuple(None if size < 0 else size for size in record.shape)
    return TensorSpec(name=name, dtype=record.dtype, shape=shape, tensor_name=tensor_name)
