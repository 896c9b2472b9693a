"""Bilinear resizing of float maps."""

import numpy as np

from zoo.explain.probe import Floats


def resize_bilinear(map_hw: Floats, height: int, width: int) -> Floats:
    """A map brought to another size; pixel centres lie at halves, edges are held."""
    rows = _places(map_hw.shape[0], height)
    columns = _places(map_hw.shape[1], width)
    along = _mix(map_hw, rows, 0)
    result: Floats = _mix(along, columns, 1).astype(np.float32)
    return result


def _places(have: int, wanted: int) -> Floats:
    places: Floats = np.clip((np.arange(wanted) + 0.5) * have / wanted - 0.5, 0, have - 1)
    return places


def _mix(values: Floats, places: Floats, axis: int) -> Floats:
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    share = (places - low).reshape((-1, 1) if axis == 0 else (1, -1))
    mixed: Floats = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return mixed
