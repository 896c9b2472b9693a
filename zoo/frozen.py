"""The settings every file of this project agrees on: frozen, strict about keys, checked when made."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value: unknown keys are errors, nothing changes after it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
