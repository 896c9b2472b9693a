"""The TensorFlow engine: runs any SavedModel. Imported in a worker process only."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.errors import EngineError, InvalidRequestError, LoadError
from serving.messages import Array, Signature, TensorSpec
from serving.wire.tensors import DTYPE_NUMBERS

_TAG = "serve"

# A line of Python's stack has the line of code below it; the number of a function is of no use.
_STACK = re.compile(
    r"^(?:Graph execution error:|Detected at node .*|<stack traces unavailable>"
    r'|\s*File ".*(?:\n {4}.*)?)$| \[Op:[^\]]*\]',
    re.MULTILINE,
)


class SavedModel:
    """A loaded SavedModel, from TensorFlow 1 or 2.

    Attributes:
        signatures: Those whose tensors can be sent.
        note: Which cannot, and why; see `serving.core.engine`.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._loaded: Any = tf.saved_model.load(str(path), tags=[_TAG])
            definitions = _signature_definitions(path)
        except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
            reason = _brief(error).replace(str(path), path.name)
            raise LoadError(f"TensorFlow cannot load this SavedModel: {reason}") from error
        self._functions = dict(self._loaded.signatures)
        signatures = [_signature(name, definitions[name]) for name in self._functions]
        self.signatures: Mapping[str, Signature] = {
            each.name: each for each in signatures if not _unsendable(each)
        }
        left_out = [
            f"{each.name} ({_unsendable(each)})"
            for each in signatures
            if each.name not in self.signatures
        ]
        self.note = (
            f"Left out are signatures whose tensors cannot be sent: {', '.join(left_out)}."
            if left_out
            else ""
        )
        if not self.signatures:
            raise LoadError(self.note or "This SavedModel has no signatures.")

    def run(self, signature: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Runs a signature.

        Raises:
            InvalidRequestError: the graph refused the inputs.
            EngineError: it failed.
        """
        specs = self.signatures[signature].inputs
        try:
            tensors = {
                name: tf.constant(
                    array.tolist() if specs[name].dtype == "bytes" else array,
                    dtype=tf.dtypes.as_dtype(DTYPE_NUMBERS[specs[name].dtype]),
                    shape=array.shape,
                )
                for name, array in inputs.items()
            }
            outputs = self._functions[signature](**tensors)
            return {name: _array(tensor) for name, tensor in outputs.items()}
        except (
            tf.errors.InvalidArgumentError,
            tf.errors.FailedPreconditionError,
            TypeError,
            ValueError,
        ) as error:
            raise InvalidRequestError(f"TensorFlow refused the input: {_brief(error)}") from error
        except tf.errors.OpError as error:
            raise EngineError(f"TensorFlow failed: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    """The reason alone: where a node was made is long, and names files of this machine."""
    text, _, _ = str(getattr(error, "message", error)).partition("Original stack trace for")
    lines = _STACK.sub("", text).splitlines()
    return "\n".join(filter(str.strip, lines)).strip()[:500] or type(error).__name__


def _array(tensor: Any) -> Array:
    # NumPy's own type for bytes forgets those at the end that are zero.
    array: Array = np.asarray(tensor.numpy(), np.object_ if tensor.dtype == tf.string else None)
    return array


def _signature_definitions(path: Path) -> Mapping[str, Any]:
    """The SignatureDefs as they stand in the file: a loaded function has lost some of them."""
    file = tf.__internal__.saved_model.parse_saved_model(str(path))
    (definitions,) = (
        graph.signature_def for graph in file.meta_graphs if set(graph.meta_info_def.tags) == {_TAG}
    )
    return dict(definitions)


def _signature(name: str, definition: Any) -> Signature:
    return Signature(
        name=name,
        inputs={key: _spec(key, info) for key, info in sorted(definition.inputs.items())},
        outputs={key: _spec(key, info) for key, info in sorted(definition.outputs.items())},
        method_name=definition.method_name,
        defaults={key: tf.make_ndarray(each) for key, each in sorted(definition.defaults.items())},
    )


def _unsendable(signature: Signature) -> str:
    """The tensors of a type that TensorProto has no field for; empty when there are none."""
    return ", ".join(
        f"{spec.name!r} is of {spec.dtype}"
        for spec in (*signature.inputs.values(), *signature.outputs.values())
        if spec.dtype not in DTYPE_NUMBERS
    )


def _spec(name: str, info: Any) -> TensorSpec:
    sizes = info.tensor_shape
    is_known = info.HasField("tensor_shape") and not sizes.unknown_rank
    # Variables of TensorFlow 1 are told as references to their type.
    dtype = tf.dtypes.as_dtype(info.dtype).base_dtype
    return TensorSpec(
        name=name,
        dtype="bytes" if dtype == tf.string else dtype.name,
        shape=tuple(None if each.size < 0 else each.size for each in sizes.dim)
        if is_known
        else None,
        tensor_name=info.name,
    )
