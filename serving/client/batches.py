"""Many items in batches: joined on the way out, taken apart on the way back, in order.

Nothing here waits or sends: `gather` reads the caller's items, `outcomes` gives each its part.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.client.errors import AnswerError, ClientError, UsageError
from serving.client.results import Outcome, Prediction

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighbouring items of one shape and type.

    Attributes:
        first: The place of its first item.
        items: Arrays without a batch axis.
    """

    first: int
    items: tuple[Array, ...]

    @property
    def inputs(self) -> Array:
        """The items with a batch axis in front."""
        return np.stack(self.items)


def gather(items: Iterable[Any], batch_size: int) -> Iterator[Batch]:
    """Joins neighbouring items of the same shape and type.

    Args:
        items: One example each, without a batch axis; read only as far as is asked for.
        batch_size: The most items of a batch.

    Raises:
        UsageError: `batch_size` is not above zero.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; 1 or more works.")
    held: list[Array] = []
    first = 0
    for index, item in enumerate(items):
        array = item if isinstance(item, np.ndarray) else np.asarray(item)
        fits = not held or (array.shape, array.dtype) == (held[0].shape, held[0].dtype)
        if held and (not fits or len(held) == batch_size):
            yield Batch(first, tuple(held))
            held, first = [], index
        held.append(array)
    if held:
        yield Batch(first, tuple(held))


def outcomes(batch: Batch, answer: Prediction) -> Sequence[Outcome[Prediction]]:
    """Each item's part of a batch's answer; the same error for all where it has no rows."""
    shapes = {name: array.shape for name, array in answer.outputs.items()}
    if any(not shape or shape[0] != len(batch.items) for shape in shapes.values()):
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        error = AnswerError(
            f"{answer.name} answered a batch of {len(batch.items)} with {told}: one row for each "
            "example is needed. Ask with predict()."
        )
        return failures(batch, error)
    return [
        Outcome(
            index=batch.first + row,
            value=answer.model_copy(
                update={"outputs": {name: array[row] for name, array in answer.outputs.items()}}
            ),
        )
        for row in range(len(batch.items))
    ]


def failures(batch: Batch, error: ClientError) -> Sequence[Outcome[Prediction]]:
    """The same error for every item of a batch."""
    return [Outcome(index=batch.first + row, error=error) for row in range(len(batch.items))]


def alone(batch: Batch) -> Sequence[Batch]:
    """The items of a batch as batches of their own, to find the one that is at fault."""
    return [Batch(batch.first + row, (item,)) for row, item in enumerate(batch.items)]
