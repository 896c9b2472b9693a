"""What the front ends ask of the core."""

from typing import Protocol

from serving.messages import (
    ClassifyImagesCall,
    ClassifyImagesReply,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    Target,
)


class Service(Protocol):
    """Answers for models; raises `serving.errors` and nothing of any protocol."""

    async def predict(self, call: PredictCall) -> PredictReply:
        """Runs one signature."""
        ...

    async def classify_images(self, call: ClassifyImagesCall) -> ClassifyImagesReply:
        """Images in, labels out."""
        ...

    def metadata(self, target: Target) -> ModelMetadata:
        """What a version takes and gives."""
        ...

    def status(self, target: Target) -> ModelStatus:
        """The states of a model's versions."""
        ...

    def models(self) -> tuple[str, ...]:
        """The names of all models."""
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
