"""What the front ends ask of the core."""

from typing import Protocol

from serving.errors import UnsupportedError
from serving.messages import (
    ClassifyImagesCall,
    ClassifyImagesReply,
    ExplainCall,
    ExplainReply,
    LayersReply,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    ReloadConfigCall,
    Target,
    VersionStatistics,
)


class Service(Protocol):
    """Answers for models; raises `serving.errors` and nothing of any protocol."""

    def admit(self, target: Target, deadline: float | None, kind: str) -> None:
        """Refuses, before its body is decoded, a request that would be refused afterwards.

        `kind` is "predict" or "classify".
        """
        ...

    async def predict(self, call: PredictCall) -> PredictReply:
        """Runs one signature."""
        ...

    async def classify_images(self, call: ClassifyImagesCall) -> ClassifyImagesReply:
        """Images in, labels out."""
        ...

    async def explain(self, call: ExplainCall) -> ExplainReply:
        """Looks inside a model while an image goes through."""
        ...

    async def layers(self, target: Target, deadline: float | None = None) -> LayersReply:
        """What of a model can be looked into."""
        ...

    def metadata(self, target: Target) -> ModelMetadata:
        """What a version takes and gives."""
        ...

    def status(self, target: Target) -> ModelStatus:
        """The states of a model's versions."""
        ...

    def statuses(self) -> tuple[ModelStatus, ...]:
        """The states of all models' versions."""
        ...

    def models(self) -> tuple[str, ...]:
        """The names of all models."""
        ...

    def statistics(self, target: Target | None) -> tuple[VersionStatistics, ...]:
        """What a model, one of its versions, or with None every version has done."""
        ...

    def metrics(self) -> tuple[bytes, str]:
        """The counts and times so far, and their content type."""
        ...

    def is_live(self) -> bool:
        """Whether the process is up."""
        ...

    def is_ready(self) -> bool:
        """Whether requests are taken."""
        ...

    def is_model_ready(self, target: Target) -> bool:
        """Whether a model takes requests."""
        ...


class Administration(Protocol):
    """Changes what is served; raises `serving.errors`.

    A server may do without: then the protocols answer that they cannot.
    """

    async def reload_config(self, call: ReloadConfigCall) -> None:
        """Serves the models of a configuration and no others; returns when all are available.

        Raises:
            LoadError: some did not become available, and why.
            VersionNotFoundError: a label points to a version that does not serve.
        """
        ...

    async def load(self, model: str) -> None:
        """Loads a model of the repository, or looks for versions that are new."""
        ...

    async def unload(self, model: str) -> None:
        """Stops serving a model; returns when what it has begun is done."""
        ...


def required(administration: Administration | None) -> Administration:
    """What changes the server; raises `UnsupportedError` when this one is not to be changed."""
    if administration is None:
        raise UnsupportedError(
            "This server follows its base path: versions are loaded by publishing them there and "
            "unloaded by removing them."
        )
    return administration
