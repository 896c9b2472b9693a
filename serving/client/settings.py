"""How a client behaves when things go slow or wrong, and how it proves who it is.

Every value is checked when it is made; nothing here opens a file or a connection.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_TIMEOUT_S = 60.0


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Retries(_Settings):
    """When a call that failed is made again.

    Only failures that are safe to repeat are: no connection, a server that is starting or
    draining, a server that is overloaded and says when to come back. A wait never passes the
    call's deadline; where it would, the failure is raised at once.

    Attributes:
        attempts: How often a call is made at most, the first time included; 1 means no retries.
        first_wait_s: The longest wait before the second attempt; each wait is drawn evenly
            between 0 and its longest ("full jitter"), so that many clients do not return as one.
        factor: By how much the longest wait grows from one attempt to the next.
        longest_wait_s: Where that growth ends. A server's own Retry-After is kept beyond it.
        budget: Retries per call over the long run, e.g. 0.2: one retry for five calls. When a
            server is down, retries add at most this fraction to its load.
        burst: Retries that may be made before the budget counts.
    """

    attempts: int = Field(default=4, ge=1)
    first_wait_s: float = Field(default=0.05, ge=0)
    factor: float = Field(default=2.0, ge=1)
    longest_wait_s: float = Field(default=2.0, ge=0)
    budget: float = Field(default=0.2, ge=0)
    burst: int = Field(default=10, ge=0)


class Hedge(_Settings):
    """A second attempt beside one that is slow; the first answer wins.

    It takes from the same budget as retries, so that a server that is slow for everyone does
    not get twice the load.

    Attributes:
        after_s: How long the first attempt may take alone. A good value is the latency that
            one call in twenty exceeds.
    """

    after_s: float = Field(gt=0)


class Tls(_Settings):
    """Whom to believe, and who we are, over `https://` and `grpcs://`.

    Attributes:
        ca: A PEM file with the authorities to believe instead of the system's.
        certificate: A PEM file with our certificate (and its chain), for servers that ask.
        key: The PEM file with its private key; needed with `certificate`.
        server_name: The name in the server's certificate, when the URL has another one.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    @model_validator(mode="after")
    def _certificate_and_key_come_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key come together: one of them is missing.")
        return self
