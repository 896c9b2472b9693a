"""The classical convolutional networks, faithful to their papers.

    import zoo
    model = zoo.create("lenet5")      # images [N, 32, 32, 1] -> logits [N, 10]

Importing this package imports no framework; `create` does.
"""

from zoo.catalog import create, describe, list_models

__all__ = ["create", "describe", "list_models"]
