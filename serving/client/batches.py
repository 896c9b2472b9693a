"""Many items in batches: joined on the way out, taken apart on the way back.

Nothing here waits or sends: `gather` reads the caller's items, `rows_of` gives each its part.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from serving.client.errors import AnswerError, UsageError
from serving.client.inputs import ArrayLike, Inputs
from serving.client.results import Prediction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Neighbouring items that travel together.

    Attributes:
        first: The place of its first item.
        items: The items; those of `predict_many` have no batch axis.
    """

    first: int
    items: tuple[T, ...]

    def alone(self) -> Iterator["Batch[T]"]:
        """The items as batches of their own, to find the one that is at fault."""
        for row, item in enumerate(self.items):
            yield Batch(self.first + row, (item,))


def gather(
    items: Iterable[T], batch_size: int, fits: Callable[[T, T], bool] = lambda _, __: True
) -> Iterator[Batch[T]]:
    """Joins neighbours.

    Args:
        items: Read only as far as is asked for.
        batch_size: The most items of a batch.
        fits: Whether an item can travel with another.
    """
    held: list[T] = []
    first = 0
    for index, item in enumerate(items):
        if held and (len(held) == batch_size or not fits(held[0], item)):
            yield Batch(first, tuple(held))
            held, first = [], index
        held.append(item)
    if held:
        yield Batch(first, tuple(held))


def number_of(items: Iterable[Any]) -> int | None:
    """How many items there are, where they say."""
    return len(items) if isinstance(items, Sized) else None


def check_streaming(batch_size: int, concurrency: int) -> None:
    """Refuses sizes that cannot work.

    Raises:
        UsageError: one is not above zero.
    """
    for name, value in (("batch_size", batch_size), ("concurrency", concurrency)):
        if value < 1:
            raise UsageError(f"{name} is {value}; 1 or more works.")


def is_alike(one: Inputs, other: Inputs) -> bool:
    """Whether two examples can be rows of one array: lists take the model's type, arrays agree."""
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        return (
            isinstance(one, Mapping)
            and isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(is_alike(value, other[name]) for name, value in one.items())
        )
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.shape, one.dtype) == (other.shape, other.dtype)
    return not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray)


def join(items: Sequence[Inputs]) -> Inputs:
    """Examples that are alike, with a batch axis in front."""
    first = items[0]
    if isinstance(first, Mapping):
        return {name: _stack([each[name] for each in items]) for name in first}  # type: ignore[call-overload,index]  # is_alike has looked
    return _stack(items)  # type: ignore[arg-type]  # likewise


def _stack(rows: Sequence[ArrayLike]) -> ArrayLike:
    return np.stack(rows) if isinstance(rows[0], np.ndarray) else list(rows)


def rows_of(answer: Prediction, number: int) -> list[Prediction]:
    """Each example's part of a batch's answer.

    Raises:
        AnswerError: an output has not one row for each example.
    """
    shapes: dict[str, Any] = {name: array.shape for name, array in answer.outputs.items()}
    if any(not shape or shape[0] != number for shape in shapes.values()):
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise AnswerError(
            f"{answer.name} answered a batch of {number} with {told}: one row for each example is "
            "needed. Ask with predict()."
        )
    return [
        answer.model_copy(
            update={"outputs": {name: array[row] for name, array in answer.outputs.items()}}
        )
        for row in range(number)
    ]
