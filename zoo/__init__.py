"""The classical convolutional networks, faithful to their papers.

    import zoo
    model = zoo.create("lenet5")      # images [N, 32, 32, 1] -> logits [N, 10]

Importing this package imports no framework; `create` does. `zoo.weights` is imported when it is
first used.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from zoo.catalog import create, describe, list_models

if TYPE_CHECKING:
    from zoo import weights

__all__ = ["create", "describe", "list_models", "weights"]


def __getattr__(name: str) -> ModuleType:
    if name == "weights":
        return import_module("zoo.weights")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
