"""What a server answers: frozen pydantic values that print well.

Every result turns into a dict of plain values (`to_dict`), into JSON (`to_json`) and, where it
has rows, into a pandas DataFrame (`to_pandas`, when pandas is installed). Arrays in results are
views of what arrived and are read-only: copy one to change it.
"""

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, PlainSerializer
from pydantic_core import CoreSchema, core_schema

from serving.client.errors import ClientError, UsageError

if TYPE_CHECKING:
    import pandas as pd  # pyright: ignore[reportMissingImports]

T = TypeVar("T")

BAR = "█▏▎▍▌▋▊▉"


def bar(fraction: float, width: int = 20) -> str:
    """Draws a fraction in 0..1 as a bar of at most `width` characters, in eighths of one."""
    eighths = round(max(0.0, min(1.0, fraction)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return BAR[0] * whole + (BAR[rest] if rest else "")


def _plain(array: NDArray[Any]) -> Any:
    """Returns an array as nested lists that JSON can hold; bytes as text, or base64 where not."""
    if array.dtype.kind in "OSU":
        flat = [_text(item) for item in array.reshape(-1).tolist()]
        return np.array(flat, dtype=object).reshape(array.shape).tolist()
    if array.dtype.kind == "V":  # bfloat16 as raw 16-bit patterns
        return array.view(np.uint16).tolist()
    return array.tolist()


def _text(item: Any) -> Any:
    if not isinstance(item, bytes):
        return item
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(item).decode("ascii")}


class _ArraySchema:
    """Tells pydantic to take an array as it is and to write it as nested lists."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(
            np.ndarray,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _plain, when_used="json-unless-none"
            ),
        )


Array = Annotated[NDArray[Any], _ArraySchema]


def _are_equal(some: Mapping[str, Array], others: Mapping[str, Array]) -> bool:
    return some.keys() == others.keys() and all(
        np.array_equal(array, others[name]) for name, array in some.items()
    )


class Result(BaseModel):
    """A value from a server: nothing changes after it was made, unknown keys are ignored."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", protected_namespaces=(), ser_json_inf_nan="constants"
    )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, numbers and strings."""
        return self.model_dump(mode="json")

    def to_json(self, *, indent: int | None = None) -> str:
        """Returns the same as JSON text."""
        return self.model_dump_json(indent=indent)


class Timings(Result):
    """Where the time of a call went on the server, in seconds; None where it does not say."""

    decode_s: float | None = None
    queue_s: float | None = None
    execute_s: float | None = None
    encode_s: float | None = None

    @property
    def total_s(self) -> float:
        """The sum of what the server says, in seconds."""
        parts = (self.decode_s, self.queue_s, self.execute_s, self.encode_s)
        return sum(part for part in parts if part is not None)

    def __str__(self) -> str:
        named = (
            ("decode", self.decode_s),
            ("queue", self.queue_s),
            ("execute", self.execute_s),
            ("encode", self.encode_s),
        )
        return ", ".join(f"{name} {s * 1e3:.2f} ms" for name, s in named if s is not None)


class Answer(Result):
    """What every answer of a model says about itself.

    Attributes:
        model: The model's name.
        version: The version that answered; None when the server does not say.
        request_id: The id that the server's logs know the call by.
        timings: Where the server's time went.
        outcome: How this project's server came by it: "direct", "queued", "joined" with an
            identical request, "cached"; "" of other servers.
    """

    model: str
    version: int | None = None
    request_id: str = ""
    timings: Timings = Timings()
    outcome: str = ""

    @property
    def name(self) -> str:
        """The model and its version in words."""
        return self.model if self.version is None else f"{self.model} version {self.version}"


class LabelScore(Result):
    """One of the k best labels of an image.

    Attributes:
        class_id: The index of the label in the model's list.
        label: Its name; "" when the server has none.
        probability: In 0..1.
    """

    class_id: int
    label: str
    probability: float

    @property
    def name(self) -> str:
        """The label, or the class id where there is none."""
        return self.label or f"class {self.class_id}"

    def __str__(self) -> str:
        return f"{self.name} {self.probability:.4f}"


class Classification(Answer):
    """The k best labels of one image, best first.

    Attributes:
        scores: The labels with their probabilities.
    """

    scores: tuple[LabelScore, ...]

    @property
    def label(self) -> str:
        """The best label."""
        return self._best.label

    @property
    def class_id(self) -> int:
        """The class id of the best label."""
        return self._best.class_id

    @property
    def probability(self) -> float:
        """The probability of the best label."""
        return self._best.probability

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, best first."""
        return tuple(item.label for item in self.scores)

    @property
    def _best(self) -> LabelScore:
        if not self.scores:
            raise UsageError(f"{self.name} answered no label at all.")
        return self.scores[0]

    def to_pandas(self) -> "pd.DataFrame":
        """Returns one row per label: class_id, label, probability.

        Raises:
            UsageError: pandas is not installed.
        """
        return _frame(
            {
                name: [getattr(item, name) for item in self.scores]
                for name in ("class_id", "label", "probability")
            }
        )

    def __str__(self) -> str:
        width = max((len(item.name) for item in self.scores), default=0)
        lines = [self.name]
        lines += [
            f"  {item.name:<{width}}  {item.probability:7.4f}  {bar(item.probability)}".rstrip()
            for item in self.scores
        ]
        return "\n".join(lines)


class Prediction(Answer):
    """The outputs of one call of a signature.

    Attributes:
        signature: The signature that was called.
        outputs: Its outputs by name, in the order asked for; read-only arrays.
    """

    signature: str = "serving_default"
    outputs: Mapping[str, Array]

    @property
    def array(self) -> NDArray[Any]:
        """The only output, as an array.

        Raises:
            UsageError: there are several, and one has to be named.
        """
        if len(self.outputs) != 1:
            names = ", ".join(self.outputs) or "none"
            raise UsageError(
                f"{self.name} answered {len(self.outputs)} outputs ({names}): name the one you "
                "want, as in prediction['name']."
            )
        return next(iter(self.outputs.values()))

    def __getitem__(self, output: str) -> NDArray[Any]:
        try:
            return self.outputs[output]
        except KeyError:
            names = ", ".join(self.outputs)
            raise KeyError(f"No output {output!r}; {self.name} answered {names}.") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return (self.model, self.version, self.signature) == (
            other.model,
            other.version,
            other.signature,
        ) and _are_equal(self.outputs, other.outputs)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def to_pandas(self) -> "pd.DataFrame":
        """Returns one row per example; a column per output, or per element of a wider one.

        Raises:
            UsageError: pandas is not installed, or the outputs have no leading dimension in
                common.
        """
        rows = {array.shape[0] if array.ndim else None for array in self.outputs.values()}
        if len(rows) != 1 or None in rows:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in self.outputs.items())
            raise UsageError(f"These outputs share no leading dimension to make rows of: {shapes}.")
        columns: dict[str, Any] = {}
        for name, array in self.outputs.items():
            flat = array.reshape(array.shape[0], -1)
            if array.ndim == 1:
                columns[name] = flat[:, 0]
            else:
                columns |= {f"{name}_{i}": flat[:, i] for i in range(flat.shape[1])}
        return _frame(columns)

    def __str__(self) -> str:
        lines = [f"{self.name}, signature {self.signature}"]
        for name, array in self.outputs.items():
            shown = np.array2string(array, precision=4, threshold=24, edgeitems=3, prefix="    ")
            lines.append(f"  {name}: {array.dtype} {array.shape}\n    {shown}")
        return "\n".join(lines)


class Outcome(Result, Generic[T]):
    """What became of one item of `predict_many` or `classify_many`: its answer, or its error.

    Attributes:
        index: The item's place in what was passed in, from 0.
        value: The answer for this item; None when it failed.
        error: Why it failed; None when it did not.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    index: int
    value: T | None = None
    error: Annotated[ClientError, PlainSerializer(str)] | None = None

    @property
    def is_ok(self) -> bool:
        """Whether there is an answer."""
        return self.error is None

    def unwrap(self) -> T:
        """Returns the answer, or raises the error that stands in its place."""
        if self.error is not None:
            raise self.error
        if self.value is None:
            raise UsageError(f"Item {self.index} has neither an answer nor an error.")
        return self.value

    def __str__(self) -> str:
        return f"{self.index}: {self.value if self.error is None else self.error}"


class Tensor(Result):
    """One named input or output of a signature.

    Attributes:
        name: Its key in the signature.
        dtype: NumPy's name ("float32", "uint8"...), "bytes" for strings, "bfloat16".
        shape: None in a place stands for any size; None as a whole for any rank.
        tensor_name: The graph's name for it, e.g. "serving_default_image:0"; "" where the server
            does not say.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    tensor_name: str = ""

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype} of any shape"
        sizes = ["N" if size is None else str(size) for size in self.shape]
        return f"{self.name}: {self.dtype} ({', '.join(sizes)}{',' * (len(sizes) == 1)})"


class Signature(Result):
    """A named function of a model: what it takes and what it gives.

    Attributes:
        name: What `predict` calls it.
        inputs: What it takes, by name.
        outputs: What it gives, by name.
        defaults: What stands for inputs that a call leaves out; read-only arrays. Open Inference
            servers do not tell theirs.
        method_name: TensorFlow Serving's word for what may call it; "" where the server does not
            say.
    """

    name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    defaults: Mapping[str, Array] = {}
    method_name: str = ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature):
            return NotImplemented
        return (self.name, self.inputs, self.outputs, self.method_name) == (
            (other.name, other.inputs, other.outputs, other.method_name)
        ) and _are_equal(self.defaults, other.defaults)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __str__(self) -> str:
        lines = [self.name]
        for name, tensor in self.inputs.items():
            default = self.defaults.get(name)
            shown = "" if default is None else f" = {np.array2string(default, threshold=8)}"
            lines.append(f"  in   {tensor}{shown}")
        lines += [f"  out  {tensor}" for tensor in self.outputs.values()]
        return "\n".join(lines)


class Metadata(Result):
    """What a version of a model takes and gives.

    Attributes:
        model: The model's name.
        version: The version described; None when the server does not say.
        signatures: Its signatures by name. The Open Inference Protocol knows only one, which is
            called "serving_default" here.
        labels: The names of its classes, where the server tells them.
        platform: The server's word for what runs it, e.g. "tensorflow_savedmodel".
    """

    model: str
    version: int | None = None
    signatures: Mapping[str, Signature]
    labels: tuple[str, ...] = ()
    platform: str = ""

    def __str__(self) -> str:
        head = self.model if self.version is None else f"{self.model} version {self.version}"
        return "\n".join([head, *map(str, self.signatures.values())])


State = Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END", "UNKNOWN"]


class VersionStatus(Result):
    """The state of one version and, when it failed, why.

    Attributes:
        version: Its number; None when the server names none.
        state: "AVAILABLE" when it answers.
        error_code: The canonical code of the error, e.g. "NOT_FOUND"; "OK" when there is none.
        error: Why it failed; of a version that answers, what is not as it was published, such as
            fp32 in place of bf16 on a processor without it; "" when all is well.
    """

    version: int | None
    state: State
    error: str = ""
    error_code: str = "OK"

    @property
    def is_ready(self) -> bool:
        """Whether this version answers."""
        return self.state == "AVAILABLE"


class ModelStatus(Result):
    """The versions of one model that the server knows, newest first."""

    model: str
    versions: tuple[VersionStatus, ...]

    @property
    def is_ready(self) -> bool:
        """Whether any version answers."""
        return any(version.is_ready for version in self.versions)

    def __str__(self) -> str:
        lines = [self.model]
        for version in self.versions:
            why = f": {version.error}" if version.error else ""
            lines.append(f"  version {version.version}  {version.state}{why}")
        return "\n".join(lines)


class Layer(Result):
    """One layer of a network, and the methods that can look at it.

    Attributes:
        name: Its name.
        kind: Its Keras class.
        shape: Of its output: (height, width, channels), or (units,).
        parents: The layers it takes from.
        methods: What `explain` can do with it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parents: tuple[str, ...]
    methods: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}) {'x'.join(map(str, self.shape))}"


class Method(Result):
    """A method of explanation, as the server can run it for a version.

    Attributes:
        name: What `explain` calls it.
        title: What the literature calls it.
        paper: Its key in the bibliography.
        takes_layer: Whether a layer can be chosen.
        needs_layer: Whether one must be.
        takes_target: Whether a class can be chosen.
        needs_image: Whether it looks at an image.
        options: The JSON Schema of its options.
        problem: Why the server cannot run it; empty when it can.
    """

    name: str
    title: str
    paper: str
    takes_layer: bool
    needs_layer: bool
    takes_target: bool
    needs_image: bool
    options: Mapping[str, Any]
    problem: str


class Framing(Result):
    """How a drawing is laid out to look like the digits that a version learned.

    The longer side of the ink gets `box` of the `field` pixels of a square.

    Attributes:
        field: The side of the square, in pixels.
        box: What the longer side of the ink gets of it, in pixels.
        is_by_mass: Whether the ink's centre of mass goes to the middle, or that of its box.
    """

    field: int
    box: int
    is_by_mass: bool


class Layers(Result):
    """What of a version can be looked into.

    Attributes:
        model: The model's name.
        version: The version that answered.
        labels: The names of its classes.
        input_shape: (height, width, channels).
        image_size: (height, width) that images must have; None where any size works.
        layers: Its layers, in order.
        methods: The methods.
        colour: The order of its channels: "gray", "rgb" or "bgr"; "" where the server does not say.
        framing: How drawings must look; None unless it learned framed digits.
    """

    model: str
    version: int
    labels: tuple[str, ...]
    input_shape: tuple[int, ...]
    image_size: tuple[int, int] | None
    layers: tuple[Layer, ...]
    methods: tuple[Method, ...]
    colour: str = ""
    framing: Framing | None = None

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"No layer {name!r}; there are {', '.join(x.name for x in self.layers)}.")

    def __str__(self) -> str:
        return "\n".join(str(layer) for layer in self.layers)


class Explanation(Answer):
    """What a method found.

    Attributes:
        method: Its name.
        layer: The layer it looked at, if one.
        class_id: The class it explained, if one.
        label: Its label.
        arrays: What it gives, by name; read-only.
        facts: Numbers and words that belong to it.
        picture: A PNG, when one was asked for in place of arrays.
    """

    method: str
    layer: str | None
    class_id: int | None
    label: str | None
    arrays: Mapping[str, Array]
    facts: Mapping[str, Any]
    picture: bytes = b""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Explanation):
            return NotImplemented
        return (
            (self.model, self.version, self.method, self.layer, self.class_id, self.label)
            == (other.model, other.version, other.method, other.layer, other.class_id, other.label)
            and (self.facts, self.picture) == (other.facts, other.picture)
            and _are_equal(self.arrays, other.arrays)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self.arrays:
            raise KeyError(f"No array {name!r}; there are {', '.join(self.arrays) or 'none'}.")
        return self.arrays[name]

    def __str__(self) -> str:
        of = f" of {self.layer}" if self.layer else ""
        what = f" for {self.label!r}" if self.label is not None else ""
        shapes = ", ".join(f"{name} {list(each.shape)}" for name, each in self.arrays.items())
        return f"{self.name}: {self.method}{of}{what}: {shapes or f'{len(self.picture)} bytes PNG'}"


def _frame(columns: Mapping[str, Any]) -> "pd.DataFrame":
    try:
        import pandas as pd  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UsageError(
            "to_pandas() needs pandas, which is not installed: pip install pandas."
        ) from error
    return pd.DataFrame(dict(columns))
