"""What type checkers know of the client; checked by mypy and pyright, never run."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from serving.client import (
    AsyncClient,
    Classification,
    Client,
    Explanation,
    Hedge,
    LabelScore,
    Layer,
    Layers,
    Metadata,
    ModelStatus,
    Outcome,
    Prediction,
    Retries,
    Tls,
)
from serving.client.testing import FakeServer, Recorder


def threads(client: Client) -> None:
    found = client.predict("m", np.zeros((1, 28, 28, 1), np.float32))
    assert_type(found, Prediction)
    assert_type(found["probabilities"], NDArray[Any])
    assert_type(found.array, NDArray[Any])
    assert_type(found.version, int | None)
    client.predict("m", {"a": [1.0], "b": [[2, 3]]}, outputs=["x"], label="stable", timeout_s=1)

    assert_type(client.classify("m", "digit.png"), Classification)
    assert_type(client.classify("m", Path("digit.png"), top_k=3), Classification)
    assert_type(client.classify("m", b"..."), Classification)
    assert_type(client.classify("m", np.zeros((2, 2), np.uint8)), Classification)
    assert_type(client.classify("m", ["a.png", "b.png"]), list[Classification])
    assert_type(client.classify("m", [b"..."]), list[Classification])
    assert_type(client.classify("m", "digit.png").scores, tuple[LabelScore, ...])
    assert_type(client.classify("m", "digit.png").scores[0].probability, float)

    assert_type(client.predict_many("m", [np.zeros(3)]), Iterator[Outcome[Prediction]])
    assert_type(client.classify_many("m", ["a.png"]), Iterator[Outcome[Classification]])
    for outcome in client.classify_many("m", Path().glob("*.png")):
        assert_type(outcome.unwrap(), Classification)
        assert_type(outcome.value, Classification | None)

    assert_type(client.layers("m"), Layers)
    assert_type(client.layers("m")["conv1"], Layer)
    found_inside = client.explain("m", "digit.png", method="occlusion", options={"patch": 8})
    assert_type(found_inside, Explanation)
    assert_type(found_inside["drop"], NDArray[Any])
    assert_type(client.explain("m", None, method="filters", layer="c1").label, str | None)

    assert_type(client.models(), tuple[str, ...])
    assert_type(client.metadata("m"), Metadata)
    assert_type(client.status("m"), ModelStatus)
    assert_type(client.wait_until_ready("m", timeout_s=5), None)


async def tasks() -> None:
    async with AsyncClient("grpc://host", retries=Retries(attempts=1)) as client:
        assert_type(await client.predict("m", [[1.0]]), Prediction)
        assert_type(await client.classify("m", "digit.png"), Classification)
        assert_type(await client.classify("m", ["digit.png"]), list[Classification])
        stream = client.classify_many("m", ["a.png"])
        assert_type(stream, AsyncIterator[Outcome[Classification]])
        async for outcome in stream:
            assert_type(outcome.unwrap(), Classification)
        assert_type(await client.models(), tuple[str, ...])
        assert_type(await client.layers("m"), Layers)
        assert_type(await client.explain("m", b"...", method="input"), Explanation)


def settings() -> None:
    with Client(
        "https://host",
        protocol="oip",
        tls=Tls(ca=Path("ca.pem")),
        hedge=Hedge(after_s=0.1),
        headers=lambda: {"traceparent": "00-..."},
    ) as client:
        assert_type(client, Client)
    Client("http://host", protocol="triton")  # type: ignore[arg-type]
    client.predict("m", [1.0], version="1")  # type: ignore[arg-type]


def testing() -> None:
    server = FakeServer()
    server.add("m", lambda image: image.sum((1, 2)), inputs={"image": ("float32", (None, 2, 2))})
    assert_type(server.client(timeout_s=1), Client)
    assert_type(server.async_client(), AsyncClient)
    with Recorder("kept.json", "http://host") as recorder:
        assert_type(recorder.client(), Client)
