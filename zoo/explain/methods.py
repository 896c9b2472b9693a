"""All methods by name: what each needs, takes and gives. Command line and server go through here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from zoo.artifact import first_fault
from zoo.errors import ExplainError
from zoo.explain import (
    deconvnet,
    filters,
    grad_cam,
    guided,
    integrated,
    invariance,
    inversion,
    maps,
    occlusion,
    saliency,
    trace,
    units,
)
from zoo.explain.probe import (
    Array,
    Floats,
    Layer,
    Probe,
    activation_of,
    ancestors,
    chosen_target,
    last_maps,
    logits,
    require_layer,
    require_maps,
    softmax,
)
from zoo.explain.resize import resize_bilinear
from zoo.frozen import Frozen
from zoo.preprocess import Pixels
from zoo.spec import ImageInput
from zoo.suggest import unknown

Need = Literal["maps", "weights", "gradients"]
JSONValue: TypeAlias = Any

# What one explanation may hold: the largest single layer of VGG-16 has 3.2 million values.
MOST_VALUES = 4_000_000


@dataclass(frozen=True, slots=True)
class Subject:
    """What is explained.

    Attributes:
        probe: The network.
        pixels_hwc: The image as it reaches the input steps, uint8.
        image_hwc: The same as the network takes it.
        input: What the network says of its input.
        labels: The names of the classes.
        should_stop: Asked between the steps of methods that go on for long.
    """

    probe: Probe
    pixels_hwc: Pixels
    image_hwc: Floats
    input: ImageInput
    labels: tuple[str, ...] = ()
    should_stop: Callable[[], bool] = lambda: False

    def label(self, class_id: int) -> str:
        """The name of a class, or its number where it has none."""
        return self.labels[class_id] if class_id < len(self.labels) else str(class_id)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a method found.

    Attributes:
        method: Its name.
        arrays: What it gives, by name; `zoo.explain.methods.METHODS` says what each is.
        layer: The layer it looked at, if one.
        target: The class id it explained, if one.
        facts: Numbers and words that belong to it, as JSON has them.
    """

    method: str
    arrays: Mapping[str, Array]
    layer: str | None = None
    target: int | None = None
    facts: Mapping[str, JSONValue] = field(default_factory=dict)


class Options(Frozen):
    """A method without options of its own."""

    model_config = ConfigDict(allow_inf_nan=False)


Chosen = TypeVar("Chosen", bound=Options)

# In the input's units, whatever they are: float32 overflows in a network long before its own end.
InputValue = Annotated[float, Field(ge=-1e6, le=1e6)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

# How far an image may be moved: shares of the height, factors, degrees.
MOTION_BOUNDS: Mapping[invariance.Motion, tuple[float, float]] = {
    "translate": (-2.0, 2.0),
    "scale": (0.01, 100.0),
    "rotate": (-36_000.0, 36_000.0),
}


class OcclusionOptions(Options):
    """Sides and steps in pixels; the fill in the input's units."""

    patch: int | None = Field(default=None, ge=1, le=4096)
    stride: int | None = Field(default=None, ge=1, le=4096)
    fill: InputValue | None = None


class ClassModelOptions(Options):
    """See `class_model`."""

    steps: int = Field(default=100, ge=1, le=1000)
    rate: float = Field(default=0.1, gt=0, le=1000)
    decay: float = Field(default=0.01, ge=0, le=1000)


class IntegratedOptions(Options):
    """See `integrated_gradients`."""

    steps: int = Field(default=64, ge=1, le=1024)
    baseline: InputValue = 0.0


class UnitOptions(Options):
    """A unit; the strongest one where a part is not given."""

    channel: int | None = Field(default=None, ge=0)
    row: int | None = Field(default=None, ge=0)
    column: int | None = Field(default=None, ge=0)

    def place(self) -> tuple[int, int] | None:
        """(row, column), or None when neither is given."""
        if (self.row is None) != (self.column is None):
            raise ExplainError("A place has a row and a column; only one of them is given.")
        return None if self.row is None or self.column is None else (self.row, self.column)


Steps = Annotated[int, Field(ge=0, le=1000)]


class InversionOptions(Options):
    """The authors' constants, and how often to step at each of their three rates."""

    rate: float = Field(default=inversion.RATE, gt=0, le=1000)
    tv: float | None = Field(default=None, ge=0, le=1e6)
    alpha: float = Field(default=inversion.ALPHA_WEIGHT, ge=0, le=1e6)
    steps: tuple[Steps, Steps, Steps] = (100, 200, 100)
    seed: Seed = 0

    @field_validator("steps")
    @classmethod
    def _has_steps(cls, steps: tuple[int, int, int]) -> tuple[int, int, int]:
        if not any(steps):
            raise ValueError("at least one step is needed")
        return steps


class InvarianceOptions(Options):
    """See `invariance`."""

    motion: invariance.Motion = "translate"
    values: tuple[float, ...] = Field(default=(), max_length=128)
    fill: InputValue | None = None

    @field_validator("values")
    @classmethod
    def _within_bounds(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        low, high = MOTION_BOUNDS[info.data.get("motion", "rotate")]
        if not all(low <= each <= high for each in values):
            raise ValueError(f"values from {low:g} to {high:g} work")
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method.

    Attributes:
        name: What it is called by.
        title: What it is called in the literature.
        paper: Key into `docs/references.bib`; empty for what needs none.
        need: The most it asks of a probe: feature maps, weights too, or gradients.
        takes_layer: Whether a layer can be chosen.
        needs_layer: Whether one must be.
        needs_image: Whether it looks at an image, and not at the network alone.
        takes_target: Whether a class can be chosen.
        options: Its options.
        arrays: What it gives.
        run: Does it.
    """

    name: str
    title: str
    paper: str
    need: Need
    arrays: Mapping[str, str]
    run: Callable[[Subject, str | None, int | None, Any], Explanation]
    takes_layer: bool = False
    needs_layer: bool = False
    takes_target: bool = False
    needs_image: bool = True
    options: type[Options] = Options


def find(name: str) -> Method:
    """The method of that name.

    Raises:
        ExplainError: there is none.
    """
    if name not in METHODS:
        raise ExplainError(unknown("method", name, METHODS))
    return METHODS[name]


def explain(
    subject: Subject,
    method: str,
    *,
    layer: str | None = None,
    target: int | None = None,
    options: Mapping[str, JSONValue] | None = None,
) -> Explanation:
    """Runs a method.

    Args:
        subject: Network and image.
        method: A name of `METHODS`.
        layer: A layer's name; each method's own choice when None.
        target: A class id; the network's best when None.
        options: The method's own.

    Raises:
        ExplainError: no such method, layer, class or option, or this network or probe cannot.
    """
    chosen = find(method)
    if layer is not None and not chosen.takes_layer:
        raise ExplainError(f"{method} looks at no single layer; found layer {layer!r}.")
    if layer is None and chosen.needs_layer:
        names = ", ".join(each.name for each in subject.probe.layers[1:])
        raise ExplainError(f"{method} needs a layer; there are {names}.")
    if target is not None and not chosen.takes_target:
        raise ExplainError(f"{method} explains no single class; found target {target}.")
    if layer is not None:
        require_layer(subject.probe, layer)
    return chosen.run(subject, layer, target, read_options(method, chosen.options, options or {}))


def read_options(method: str, kind: type[Chosen], options: Mapping[str, JSONValue]) -> Chosen:
    """Checks options against what a method takes.

    Args:
        method: Its name.
        kind: Its options.
        options: What is asked for.

    Raises:
        ExplainError: an unknown one, or a value that does not work.
    """
    known = kind.model_fields
    for name in options:
        if name not in known:
            raise ExplainError(f"{method}: {unknown('option', str(name), known)}")
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        raise ExplainError(f"{method}: {first_fault(error)}") from error


def methods_of(probe: Probe, layer: Layer) -> tuple[str, ...]:
    """The methods that can look at a layer."""
    has_relu = any(
        activation_of(each) in ("relu", "leaky_relu")
        for each in ancestors(probe.layers, layer.name)
    )
    found = ["feature_maps"]
    if layer.kind in maps.SHARED:
        found.append("filters")
    if layer.parents:
        found += ["unit", "inversion", "invariance"]
        if has_relu:
            found.append("deconvnet")
        if layer.has_maps:
            found += ["occlusion", "grad_cam"]
            if has_relu:
                found.append("guided_grad_cam")
    return tuple(sorted(found))


# --- what each does -----------------------------------------------------------------------------


def _input(subject: Subject, _: str | None, __: int | None, ___: Options) -> Explanation:
    return Explanation("input", {"pixels": subject.pixels_hwc, "input": subject.image_hwc})


def _feature_maps(subject: Subject, layer: str | None, _: int | None, __: Options) -> Explanation:
    probe = subject.probe
    chosen = [require_layer(probe, layer)] if layer else list(probe.layers)
    total = sum(int(np.prod(each.output_shape)) for each in chosen)
    if total > MOST_VALUES:
        raise ExplainError(
            f"The maps of {'all layers' if layer is None else repr(layer)} have {total:,} values; "
            f"at most {MOST_VALUES:,} are given at once. Choose a layer."
        )
    found = probe.feature_maps(subject.image_hwc[None], [each.name for each in chosen])
    return Explanation(
        "feature_maps", {name: array[0] for name, array in found.items()}, layer=layer
    )


def _filters(subject: Subject, layer: str | None, _: int | None, __: Options) -> Explanation:
    assert layer is not None  # noqa: S101 - it needs one
    found = maps.filters(subject.probe, layer)
    nearest = [filters.nearest(kernel) for kernel in found]
    classical = [{"filter": name, "cosine": cosine} for name, cosine in nearest]
    return Explanation("filters", {"filters": found}, layer=layer, facts={"nearest": classical})


def _classical(subject: Subject, _: str | None, __: int | None, ___: Options) -> Explanation:
    image = subject.pixels_hwc.astype(np.float32)
    kernels = {name: kernel.tolist() for name, kernel in filters.FILTERS.items()}
    return Explanation("classical", filters.apply_all(image), facts={"kernels": kernels})


# Places of a patch on one image: at most this many are looked at.
MOST_PLACES = 4096


def _occlusion(
    subject: Subject, layer: str | None, target: int | None, options: OcclusionOptions
) -> Explanation:
    height, width, _ = subject.image_hwc.shape
    side = options.patch or max(1, min(height, width) // 4)
    step = options.stride or max(1, side // 4)
    places = occlusion.positions(height, side, step) * occlusion.positions(width, side, step)
    if side <= min(height, width) and places > MOST_PLACES:
        raise ExplainError(
            f"A patch of {side} with stride {step} has {places:,} places; at most "
            f"{MOST_PLACES:,} are looked at. A larger stride works."
        )
    found = occlusion.occlusion(
        subject.probe,
        subject.image_hwc,
        target,
        patch=options.patch,
        stride=options.stride,
        fill=options.fill,
        layer=layer,
    )
    return Explanation(
        "occlusion",
        {
            "probability": found.probability_hw,
            "strongest": found.strongest_hw,
            "best": found.best_hw,
            "drop": found.drop_HW,
            "tops": found.tops,
            "lefts": found.lefts,
        },
        layer=found.layer,
        target=found.target,
        facts={
            "probability": found.probability,
            "channel": found.channel,
            "patch": found.patch,
            "best_labels": {str(k): subject.label(int(k)) for k in np.unique(found.best_hw)},
        },
    )


def _saliency(subject: Subject, _: str | None, target: int | None, __: Options) -> Explanation:
    images = subject.image_hwc[None]
    target = chosen_target(subject.probe, images, target)
    found = saliency.saliency(subject.probe, images, target)[0]
    return Explanation("saliency", {"saliency": found}, target=target)


def _class_model(
    subject: Subject, _: str | None, target: int | None, options: ClassModelOptions
) -> Explanation:
    target = chosen_target(subject.probe, subject.image_hwc[None], target)
    found = saliency.class_model(
        subject.probe, target, steps=options.steps, rate=options.rate, decay=options.decay
    )
    facts = {"probability": found.probability, "score": float(found.scores[-1])}
    arrays = {"image": found.image_hwc, "scores": found.scores}
    return Explanation("class_model", arrays, target=target, facts=facts)


def _guided(subject: Subject, _: str | None, target: int | None, __: Options) -> Explanation:
    images = subject.image_hwc[None]
    target = chosen_target(subject.probe, images, target)
    found = guided.guided_backpropagation(subject.probe, images, target)[0]
    return Explanation("guided_backpropagation", {"attribution": found}, target=target)


def _grad_cam(subject: Subject, layer: str | None, target: int | None, _: Options) -> Explanation:
    images = subject.image_hwc[None]
    target = chosen_target(subject.probe, images, target)
    name = require_maps(subject.probe, layer or last_maps(subject.probe)).name
    cam = grad_cam.grad_cam(subject.probe, images, target, layer=name)[0]
    upsampled = resize_bilinear(cam, *images.shape[1:3])
    return Explanation("grad_cam", {"cam": cam, "upsampled": upsampled}, layer=name, target=target)


def _guided_grad_cam(
    subject: Subject, layer: str | None, target: int | None, _: Options
) -> Explanation:
    images = subject.image_hwc[None]
    target = chosen_target(subject.probe, images, target)
    name = require_maps(subject.probe, layer or last_maps(subject.probe)).name
    found = grad_cam.guided_grad_cam(subject.probe, images, target, layer=name)[0]
    return Explanation("guided_grad_cam", {"attribution": found}, layer=name, target=target)


def _integrated(
    subject: Subject, _: str | None, target: int | None, options: IntegratedOptions
) -> Explanation:
    found = integrated.integrated_gradients(
        subject.probe,
        subject.image_hwc,
        target,
        steps=options.steps,
        baseline=options.baseline,
    )
    facts = {"score_difference": found.score_difference, "residual": found.residual}
    arrays = {"attribution": found.attribution_hwc}
    return Explanation("integrated_gradients", arrays, target=found.target, facts=facts)


def _deconvnet(
    subject: Subject, layer: str | None, _: int | None, options: UnitOptions
) -> Explanation:
    assert layer is not None  # noqa: S101 - it needs one
    found = deconvnet.deconvnet(
        subject.probe, subject.image_hwc, layer, options.channel, options.place()
    )
    facts = {
        "place": list(found.place),
        "activation": found.activation,
        "box": found.box._asdict(),
    }
    return Explanation("deconvnet", {"projection": found.image_hwc}, layer=layer, facts=facts)


def _inversion(
    subject: Subject, layer: str | None, _: int | None, options: InversionOptions
) -> Explanation:
    assert layer is not None  # noqa: S101 - it needs one
    low, high = subject.input.value_range
    found = inversion.inversion(
        subject.probe,
        subject.image_hwc,
        layer,
        unit=(high - low) / 255,
        centre=(high + low) / 2,
        tv=options.tv,
        alpha=options.alpha,
        rate=options.rate,
        schedule=tuple(
            (steps, share)
            for steps, (_, share) in zip(options.steps, inversion.SCHEDULE, strict=True)
        ),
        seed=options.seed,
        should_stop=subject.should_stop,
    )
    arrays = {"image": found.image_hwc, "energies": found.energies}
    return Explanation("inversion", arrays, layer=layer, facts={"error": found.error})


def _invariance(
    subject: Subject, layer: str | None, target: int | None, options: InvarianceOptions
) -> Explanation:
    with_maps = [each.name for each in subject.probe.layers[1:]]
    layers = [layer] if layer else [with_maps[0], with_maps[-2]]
    found = invariance.invariance(
        subject.probe,
        subject.image_hwc,
        options.motion,
        layers,
        values=options.values,
        target=target,
        fill=options.fill,
    )
    return Explanation(
        "invariance",
        {
            "values": np.array(found.values, np.float32),
            "distance": found.distance_lv,
            "probability": found.probability_v,
        },
        layer=layer,
        target=found.target,
        facts={"motion": found.motion, "layers": list(found.layers)},
    )


def _unit(subject: Subject, layer: str | None, _: int | None, options: UnitOptions) -> Explanation:
    assert layer is not None  # noqa: S101 - it needs one
    found = require_layer(subject.probe, layer)
    place = options.place()
    if found.has_maps and place is not None and options.channel is not None:
        where: tuple[int, ...] = (*place, options.channel)
    else:
        output = subject.probe.feature_maps(subject.image_hwc[None], [layer])[layer][0]
        where = deconvnet.strongest_unit(found, output, options.channel, place)
    unit = units.explain_unit(subject.probe, subject.image_hwc, layer, where)
    arrays: dict[str, Array] = {"patch": unit.patch}
    if unit.kernel.size:
        arrays |= {"kernel": unit.kernel, "products": unit.products}
    return Explanation("unit", arrays, layer=layer, facts=trace.unit_facts(unit))


def _trace(subject: Subject, _: str | None, __: int | None, ___: Options) -> Explanation:
    found = trace.trace(subject.probe, subject.image_hwc, subject.labels)
    probabilities = softmax(logits(subject.probe, subject.image_hwc[None]))[0]
    return Explanation(
        "trace",
        found.arrays(),
        target=int(probabilities.argmax()),
        facts={**found.facts(), "probabilities": [float(each) for each in probabilities]},
    )


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="input",
            title="What the network sees, after preprocessing",
            paper="",
            need="maps",
            run=_input,
            arrays={"pixels": "uint8 [H, W, C]", "input": "[H, W, C], what the network takes"},
        ),
        Method(
            name="feature_maps",
            title="Feature maps",
            paper="zeiler2014",
            need="maps",
            takes_layer=True,
            run=_feature_maps,
            arrays={"<layer>": "the layer's output, [h, w, c] or [units]"},
        ),
        Method(
            name="filters",
            title="Filters",
            paper="krizhevsky2012",
            need="weights",
            takes_layer=True,
            needs_layer=True,
            needs_image=False,
            run=_filters,
            arrays={"filters": "[filters, h, w, c]"},
        ),
        Method(
            name="classical",
            title="Classical filters",
            paper="",
            need="maps",
            run=_classical,
            arrays={"<filter>": "the pixels filtered, [H, W, C], from 0..255"},
        ),
        Method(
            name="unit",
            title="The arithmetic of one unit",
            paper="",
            need="weights",
            takes_layer=True,
            needs_layer=True,
            options=UnitOptions,
            run=_unit,
            arrays={
                "patch": "what the unit takes",
                "kernel": "its weights",
                "products": "patch times kernel",
            },
        ),
        Method(
            name="trace",
            title="Every operation, step by step",
            paper="",
            need="weights",
            run=_trace,
            arrays={"map:<layer>": "its output", "<weight>:<layer>": "its weights"},
        ),
        Method(
            name="occlusion",
            title="Occlusion",
            paper="zeiler2014",
            need="maps",
            takes_layer=True,
            takes_target=True,
            options=OcclusionOptions,
            run=_occlusion,
            arrays={
                "probability": "[h, w], of the target with the patch at each place",
                "strongest": "[h, w], summed activity of the strongest map",
                "best": "[h, w], the class id that wins",
                "drop": "[H, W], mean loss of probability for each pixel",
                "tops": "[h], rows of the patch's upper edge",
                "lefts": "[w], columns of its left edge",
            },
        ),
        Method(
            name="saliency",
            title="Saliency map",
            paper="simonyan2014",
            need="gradients",
            takes_target=True,
            run=_saliency,
            arrays={"saliency": "[H, W], at least 0"},
        ),
        Method(
            name="class_model",
            title="Class model",
            paper="simonyan2014",
            need="gradients",
            takes_target=True,
            needs_image=False,
            options=ClassModelOptions,
            run=_class_model,
            arrays={"image": "[H, W, C], in the input's units", "scores": "[steps + 1]"},
        ),
        Method(
            name="guided_backpropagation",
            title="Guided backpropagation",
            paper="springenberg2015",
            need="gradients",
            takes_target=True,
            run=_guided,
            arrays={"attribution": "[H, W, C]"},
        ),
        Method(
            name="grad_cam",
            title="Grad-CAM",
            paper="selvaraju2017",
            need="gradients",
            takes_layer=True,
            takes_target=True,
            run=_grad_cam,
            arrays={"cam": "[h, w], at least 0", "upsampled": "[H, W]"},
        ),
        Method(
            name="guided_grad_cam",
            title="Guided Grad-CAM",
            paper="selvaraju2017",
            need="gradients",
            takes_layer=True,
            takes_target=True,
            run=_guided_grad_cam,
            arrays={"attribution": "[H, W, C]"},
        ),
        Method(
            name="integrated_gradients",
            title="Integrated gradients",
            paper="sundararajan2017",
            need="gradients",
            takes_target=True,
            options=IntegratedOptions,
            run=_integrated,
            arrays={"attribution": "[H, W, C], sums to the score difference"},
        ),
        Method(
            name="deconvnet",
            title="Deconvnet",
            paper="zeiler2014",
            need="gradients",
            takes_layer=True,
            needs_layer=True,
            options=UnitOptions,
            run=_deconvnet,
            arrays={"projection": "[H, W, C]"},
        ),
        Method(
            name="inversion",
            title="Inversion",
            paper="mahendran2015",
            need="gradients",
            takes_layer=True,
            needs_layer=True,
            options=InversionOptions,
            run=_inversion,
            arrays={"image": "[H, W, C], in the input's units", "energies": "[steps + 1]"},
        ),
        Method(
            name="invariance",
            title="Invariance curves",
            paper="zeiler2014",
            need="maps",
            takes_layer=True,
            takes_target=True,
            options=InvarianceOptions,
            run=_invariance,
            arrays={
                "values": "[v], how far the image moves",
                "distance": "[l, v], of the features",
                "probability": "[v], of the target",
            },
        ),
    )
}
