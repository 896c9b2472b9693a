"""One image through every operation of a small network, with the real numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.errors import ExplainError
from zoo.explain.deconvnet import strongest_unit
from zoo.explain.probe import Array, Floats, Layer, Probe, activation_of
from zoo.explain.units import Unit, unit_of

# A trace is read by people: LeNet-5 has 9,118 values, and 61,706 weights in its modern form.
MOST_VALUES = 20_000
MOST_WEIGHTS = 100_000


@dataclass(frozen=True, slots=True)
class Step:
    """One operation.

    Attributes:
        layer: The layer that does it.
        output: Its output, [h, w, c] or [units].
        weights: Its weights by name.
        unit: The strongest unit's arithmetic, as an example; None for the image.
    """

    layer: Layer
    output: Floats
    weights: Mapping[str, Floats]
    unit: Unit | None


@dataclass(frozen=True, slots=True)
class Trace:
    """All operations, in order; the image comes first."""

    steps: tuple[Step, ...]
    labels: tuple[str, ...]

    def arrays(self) -> dict[str, Array]:
        """The outputs as "map:LAYER" and the weights as "NAME:LAYER"."""
        found: dict[str, Array] = {}
        for step in self.steps:
            found[f"map:{step.layer.name}"] = step.output
            for name, weight in step.weights.items():
                found[f"{name}:{step.layer.name}"] = weight
        return found

    def facts(self) -> dict[str, Any]:
        """The steps as JSON has them; the numbers of maps and weights are in `arrays`."""
        return {
            "labels": list(self.labels),
            "steps": [
                {
                    "layer": step.layer.name,
                    "kind": step.layer.kind,
                    "parents": list(step.layer.parents),
                    "shape": list(step.output.shape),
                    "activation": activation_of(step.layer),
                    "config": {
                        name: step.layer.config[name]
                        for name in SHOWN
                        if step.layer.config.get(name) is not None
                    },
                    "unit": None if step.unit is None else unit_facts(step.unit, with_arrays=True),
                }
                for step in self.steps
            ],
        }


SHOWN = ("kernel_size", "pool_size", "strides", "padding", "table", "filters", "units")


def trace(probe: Probe, image_hwc: Floats, labels: tuple[str, ...] = ()) -> Trace:
    """Runs the network and keeps every number.

    Args:
        probe: A small network whose layers follow each other.
        image_hwc: A preprocessed image.
        labels: The names of its classes.

    Raises:
        ExplainError: the network branches, or has more numbers than a person would read.
    """
    layers = probe.layers
    branching = next((layer for layer in layers if len(layer.parents) > 1), None)
    values = sum(int(np.prod(layer.output_shape)) for layer in layers)
    weights = sum(
        int(np.prod(array.shape))
        for layer in layers
        for array in probe.weights(layer.name).values()
    )
    if branching is not None or values > MOST_VALUES or weights > MOST_WEIGHTS:
        why = f"it branches at {branching.name!r}" if branching else f"{values:,} values"
        raise ExplainError(
            f"A trace shows every number of a chain with at most {MOST_VALUES:,} values and "
            f"{MOST_WEIGHTS:,} weights; this network has {why} and {weights:,} weights. "
            "`unit` shows the arithmetic of any one unit."
        )
    maps = probe.feature_maps(image_hwc[None], [layer.name for layer in layers])
    steps = []
    for layer in layers:
        output = maps[layer.name][0]
        unit = None
        if layer.parents:
            inputs = [maps[parent][0] for parent in layer.parents]
            place = strongest_unit(layer, output, None, None)
            unit = unit_of(probe, layer, inputs, output, place)
        steps.append(Step(layer, output, probe.weights(layer.name), unit))
    return Trace(tuple(steps), labels)


def unit_facts(unit: Unit, *, with_arrays: bool = False) -> dict[str, Any]:
    """A unit as JSON has it."""
    facts: dict[str, Any] = {
        "place": list(unit.place),
        "operation": unit.operation,
        "sources": list(unit.sources),
        "scale": unit.scale,
        "bias": unit.bias,
        "before": unit.before,
        "activation": unit.activation,
        "value": unit.value,
        "winner": None if unit.winner is None else list(unit.winner),
        "box": None if unit.box is None else unit.box._asdict(),
        "sees": unit.sees._asdict(),
        **unit.extra,
    }
    if with_arrays:
        for name, array in (("patch", unit.patch), ("kernel", unit.kernel)):
            # NaN stands for what hangs over the edge; JSON has no word for it.
            facts[name] = [None if np.isnan(each) else float(each) for each in array.ravel()]
        facts["patch_shape"] = list(unit.patch.shape)
    return facts
