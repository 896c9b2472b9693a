"""The OpenVINO engine: runs the IR of a published version on the CPU."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino as ov
from openvino import opset14 as ops

from serving.engines.winograd import SEAM, take_trunk
from serving.errors import EngineError, InvalidRequestError, LoadError
from serving.messages import Array, Signature, TensorSpec
from zoo.artifact import Manifest, SignatureRecord, TensorRecord
from zoo.cores import cores, has_fewer
from zoo.precision import HINTS, lacking
from zoo.signal_stack import keeps_signal_stack

# Weights of a network that is worth compiling a second time for a batch of one.
MOST_TINY_BYTES = 4 << 20


class OpenVINOModel:
    """A compiled network with an inference request for each batch that runs.

    Args:
        version_path: The version's folder.
        manifest: What was published.
        streams: Batches that run at the same time, each on its share of the cores.

    Attributes:
        note: Why it does not compute in the precision it was published in; empty when it does.

    Raises:
        LoadError: there is no manifest, its precision is unknown, or OpenVINO refuses the network.
    """

    is_batchable = True

    @keeps_signal_stack()
    def __init__(self, version_path: Path, manifest: Manifest | None, streams: int = 1) -> None:
        if manifest is None:
            raise LoadError("OpenVINO runs published versions only; this one has no manifest.")
        record = manifest.engines["openvino"]
        core = ov.Core()
        self.note = _shortfall(core, record.precision)
        self._precision = "fp32" if self.note else record.precision
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[self._precision],
        } | threads()
        try:
            network = self._network(core, version_path / record.file)
            # What it computes in other precisions is faster as it stands.
            self._trunk = (
                take_trunk(network, max(cores() // streams, 1))
                if self._precision == "fp32"
                else None
            )
            self._compiled: Any = core.compile_model(
                network,
                "CPU",
                self._settings | {"NUM_STREAMS": str(streams)},
            )
        except RuntimeError as error:
            raise LoadError(f"OpenVINO cannot load {record.file}: {_first_line(error)}") from error
        self._outputs = [port.get_any_name() for port in self._compiled.outputs]
        self._single = self._compiled_for_one(core, version_path / record.file)
        # Requests that run nothing now, for a batch of any size and of one. They belong to no thread:
        # what a thread holds dies when it ends, and these have to die with the network.
        self._idle: tuple[deque[Any], deque[Any]] = (deque(), deque())
        self.signatures: Mapping[str, Signature] = {
            name: signature_of(name, each) for name, each in manifest.signatures.items()
        }

    def _network(self, core: Any, path: Path) -> ov.Model:
        network = core.read_model(path)
        if self._precision == "fp32":
            part_dense_from_relu(network)
        return network

    def _compiled_for_one(self, core: Any, path: Path) -> Any:
        """A tiny network again, for a batch of one alone; None for the others.

        A shape that is known and one thread save a quarter of its time, and it costs little memory.
        """
        if self._trunk is not None or path.with_suffix(".bin").stat().st_size > MOST_TINY_BYTES:
            return None
        network = self._network(core, path)
        (port,) = network.inputs if len(network.inputs) == 1 else (None,)
        if (
            port is None
            or port.partial_shape.rank.is_dynamic
            or not port.partial_shape[0].is_dynamic
        ):
            return None
        shape = port.partial_shape
        shape[0] = 1
        try:
            network.reshape(shape)
            return core.compile_model(
                network, "CPU", self._settings | {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
            )
        except RuntimeError:
            # A network that fixes its batch inside; the general form serves it.
            return None

    def run(
        self, signature: str, inputs: Mapping[str, Array], deadline: float | None = None
    ) -> Mapping[str, Array]:
        """Runs one batch; every output of the network comes back, whatever the signature."""
        # All signatures take the same input and choose among the outputs, and every run ends.
        del signature, deadline
        is_single = self._single is not None and all(len(each) == 1 for each in inputs.values())
        idle = self._idle[is_single]
        if self._trunk is not None:
            (images,) = inputs.values()
            inputs = {SEAM: self._trunk.run(images)}
        try:
            request = idle.pop()
        except IndexError:
            request = self._new_request(is_single=is_single)
        try:
            results = request.infer(dict(inputs), share_inputs=True)
        except RuntimeError as error:
            text = _first_line(error)
            if "shape" in text or "incompatible" in text:
                raise InvalidRequestError(f"OpenVINO refused the input: {text}") from error
            raise EngineError(f"OpenVINO failed: {text}") from error
        finally:
            idle.append(request)
        return dict(zip(self._outputs, results.values(), strict=True))

    def _new_request(self, *, is_single: bool) -> Any:
        return (self._single if is_single else self._compiled).create_infer_request()

    def close(self) -> None:
        """Drops the network and its requests; nothing runs any more."""
        for idle in self._idle:
            idle.clear()
        self._compiled = self._single = None
        if self._trunk is not None:
            self._trunk.close()


def part_dense_from_relu(network: ov.Model) -> None:
    """Keeps OpenVINO from joining dense layers with the ReLU behind them, by calling it a maximum.

    Alone, a dense layer in fp32 runs on the kernels of MLAS, which bring weights from memory a
    quarter faster than those that can do more; with a batch of one nothing else counts. The
    answers are the same.
    """
    for relu in network.get_ordered_ops():
        if relu.get_type_name() != "Relu":
            continue
        dense = relu.input_value(0).get_node()
        if dense.get_type_name() == "Add":
            dense = dense.input_value(0).get_node()
        if dense.get_type_name() == "MatMul":
            zero = ops.constant(0, relu.get_output_element_type(0))
            relu.output(0).replace(ops.maximum(relu.input_value(0), zero).output(0))


def _shortfall(core: Any, precision: str) -> str:
    """Why a version computes in fp32 and not as it was published; empty when it does.

    The network on the disk is the fp32 one, so its answers are closer to Keras's, and slower: no
    reason to stop serving because a replica was started on an older machine.
    """
    if precision not in HINTS:
        raise LoadError(
            f"The manifest says precision {precision!r}; this release knows {', '.join(HINTS)}."
        )
    why = lacking(
        precision,
        core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
        core.get_property("CPU", "FULL_DEVICE_NAME"),
    )
    return f"Computes in fp32: {why}." if why else ""


def threads() -> dict[str, str]:
    """How many threads OpenVINO is told to take, where it would count too many cores."""
    # Without a quota it knows better: it leaves out hyperthreads.
    return {"INFERENCE_NUM_THREADS": str(cores())} if has_fewer() else {}


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
