"""What a protocol has no word for, told in the same words everywhere."""

from serving.client.errors import UnsupportedError
from serving.messages import Target


def no_images(server: str, target: Target) -> UnsupportedError:
    """The error of servers that do not decode images."""
    return UnsupportedError(
        f"{server} takes tensors, not images: decode and scale them as {target.model!r} was "
        "trained, and use predict()."
    )


def no_list() -> UnsupportedError:
    """The error of TensorFlow Serving, which tells of models only by name."""
    return UnsupportedError(
        "TensorFlow Serving has no list of models; ask for one by name with status()."
    )


def no_loading(model: str) -> UnsupportedError:
    """The error of TensorFlow Serving, which is told by its configuration what to load."""
    return UnsupportedError(
        f"TensorFlow Serving loads and unloads {model!r} by its configuration and base path."
    )


def no_label(target: Target) -> None:
    """Refuses a version label where the protocol is Open Inference's.

    Raises:
        UnsupportedError: the target has one.
    """
    if target.label is not None:
        raise UnsupportedError(
            f"The Open Inference Protocol has no version labels (label={target.label!r}); "
            "name a version, or speak to the server in another protocol."
        )
