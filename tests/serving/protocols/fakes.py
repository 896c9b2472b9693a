"""A service with one small model, for the front ends: real codecs, no engine.

The model `m` has versions 1 and 2 (label `stable` on 1) and three signatures: `serving_default`
doubles x; `classify` and `regress` take serialised examples with one float feature `x`.
"""

import numpy as np

from serving.errors import (
    LabelNotFoundError,
    ModelNotFoundError,
    SignatureNotFoundError,
    VersionNotFoundError,
)
from serving.messages import (
    DEFAULT_SIGNATURE,
    BatchStatistics,
    ClassifyImagesReply,
    ExplainReply,
    LabelScore,
    LayerRecord,
    LayersReply,
    MethodRecord,
    ModelMetadata,
    ModelStatus,
    PredictReply,
    Signature,
    Spent,
    Target,
    TensorSpec,
    VersionState,
    VersionStatistics,
    VersionStatus,
)
from serving.wire.pool import message

LABELS = ("ant", "bee")

DONE = VersionStatistics(
    "m",
    2,
    rows=5,
    batches=2,
    success=Spent(3, 0.25),
    execute=Spent(2, 0.001),
    by_rows=(BatchStatistics(4, Spent(1, 0.0005)),),
    last_unix_s=1.5,
)


def specs(**dtypes):
    return {name: TensorSpec(name, dtype, (None,)) for name, dtype in dtypes.items()}


SIGNATURES = {
    DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, specs(x="float32"), specs(y="float32")),
    "classify": Signature(
        "classify", specs(inputs="bytes"), specs(classes="bytes", scores="float32")
    ),
    "regress": Signature("regress", specs(inputs="bytes"), specs(outputs="float32")),
}


def example(x):
    """A serialised example."""
    made = message("tensorflow.Example")()
    made.features.feature["x"].float_list.value.append(x)
    return made.SerializeToString()


def _feature(serialised):
    found = message("tensorflow.Example").FromString(serialised)
    return found.features.feature["x"].float_list.value[0]


class FakeService:
    """Answers for the model `m`; remembers the last call."""

    def __init__(self):
        self.ready = True
        self.failure = None
        self.last = None

    def _version(self, target):
        if self.failure is not None:
            raise self.failure
        if target.model != "m":
            raise ModelNotFoundError(target.model, ("m",))
        if target.label not in (None, "stable"):
            raise LabelNotFoundError("m", target.label, ("stable",))
        version = 1 if target.label else target.version or 2
        if version not in (1, 2):
            raise VersionNotFoundError("m", version, (1, 2))
        return version

    def admit(self, target, deadline, kind):
        self._version(target)

    async def predict(self, call):
        self.last = call
        version = self._version(call.target)
        name = call.signature or DEFAULT_SIGNATURE
        if name not in SIGNATURES:
            raise SignatureNotFoundError(name, SIGNATURES)
        if name == DEFAULT_SIGNATURE:
            outputs = {"y": call.inputs["x"] * 2}
        else:
            values = np.array([_feature(each) for each in call.inputs["inputs"]], np.float32)
            outputs = {"outputs": values[:, None]}
            if name == "classify":
                outputs = {
                    "classes": np.array([[b"ant", b"bee"]] * len(values), object),
                    "scores": np.stack([values, 1 - values], axis=1),
                }
        return PredictReply("m", version, name, outputs)

    async def classify_images(self, call):
        self.last = call
        best = (LabelScore(1, "bee", 0.75),)
        return ClassifyImagesReply("m", self._version(call.target), (best,) * len(call.images))

    async def explain(self, call):
        self.last = call
        arrays = {"map": np.array([[0.5, -2.0]], np.float32), "best": np.array([1])}
        return ExplainReply(
            model="m",
            version=self._version(call.target),
            method=call.method,
            layer=call.layer,
            class_id=1,
            label="bee",
            arrays={} if call.is_picture else arrays,
            facts={"probability": 0.25},
            picture=b"\x89PNG" if call.is_picture else b"",
            request_id=call.request_id,
        )

    async def layers(self, target, deadline=None):
        self.last = deadline
        return LayersReply(
            model="m",
            version=self._version(target),
            labels=LABELS,
            input_shape=(4, 4, 1),
            colour="gray",
            image_size=None,
            layers=(LayerRecord("conv1", "Conv2D", (2, 2, 3), ("image",), ("filters",)),),
            methods=(
                MethodRecord("filters", "Filters", "k2012", True, True, False, False, {}, "no"),
            ),
        )

    def metadata(self, target):
        version = self._version(target)
        return ModelMetadata("m", version, SIGNATURES, LABELS, versions=(1, 2))

    def status(self, target):
        if target.label:
            target = type(target)(target.model)  # status knows no labels
        version = self._version(target)
        versions = (version,) if target.version else (2, 1)
        states = tuple(VersionStatus(each, VersionState.AVAILABLE) for each in versions)
        return ModelStatus("m", states, {"stable": 1})

    def statuses(self):
        return (self.status(Target("m")),)

    def models(self):
        return ("m",)

    def metrics(self):
        return b"# nothing\n", "text/plain"

    def statistics(self, target):
        self.last = target
        if target is not None:
            self._version(target)
        return (DONE,)

    def is_live(self):
        return True

    def is_ready(self):
        return self.ready

    def is_model_ready(self, target):
        return self.ready and target.model == "m"
