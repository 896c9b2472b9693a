"""The typed client: asks a server over REST or gRPC, and needs none of its parts.

from serving.client import Client

with Client("http://127.0.0.1:8501") as client:
    answer = client.classify("lenet5", "digit.png", top_k=3)
    print(answer.label, answer.probability)
"""

from serving.client.async_client import AsyncClient
from serving.client.client import Client
from serving.client.errors import ClientError
from serving.client.results import (
    Classification,
    Explanation,
    Framing,
    LabelScore,
    Layer,
    Layers,
    Metadata,
    Method,
    ModelStatus,
    Outcome,
    Prediction,
)
from serving.client.settings import Hedge, Retries, Tls

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "ClientError",
    "Explanation",
    "Framing",
    "Hedge",
    "LabelScore",
    "Layer",
    "Layers",
    "Metadata",
    "Method",
    "ModelStatus",
    "Outcome",
    "Prediction",
    "Retries",
    "Tls",
]
