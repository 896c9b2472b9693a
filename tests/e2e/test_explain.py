"""Explanations from a real server, through the typed client and the command line."""

import json
import shutil

import numpy as np
import pytest

from serving.client import AsyncClient, Client, Explanation, Layers
from serving.client.errors import InvalidInputError, UnsupportedError
from tests.e2e.conftest import convzoo, serve
from zoo.explain.units import ACTIVATIONS

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow, pytest.mark.openvino]


@pytest.fixture(scope="module")
def place(published, published_xo, tmp_path_factory):
    made = tmp_path_factory.mktemp("explained")
    shutil.copytree(published.base_path / published.model, made / "models" / published.model)
    shutil.copytree(published_xo.base_path / "xo", made / "models" / "xo")
    return made


@pytest.fixture(scope="module")
def server(place):
    with serve(place / "models", place) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url, timeout_s=120) as made:
        yield made


@pytest.fixture(scope="module")
def digit(published):
    return sorted((published.run / "holdout").glob("*.png"))[0]


@pytest.fixture(scope="module")
def probe(place):
    from zoo.explain.source import open_source
    from zoo.keras_probe import load_probe

    source = open_source(place / "models" / "lenet5_modern")
    return source, load_probe(source.keras_file)


def test_the_layers_are_the_networks(client, probe):
    found = client.layers("lenet5_modern")
    assert isinstance(found, Layers)
    assert [(each.name, each.kind, each.shape) for each in found.layers] == [
        (each.name, each.kind, each.output_shape) for each in probe[1].layers
    ]
    assert "unit" in found["c3"].methods
    assert [method.name for method in found.methods if method.problem] == []


def test_maps_from_openvino_are_those_of_keras(client, probe, digit):
    source, keras = probe
    found = client.explain("lenet5_modern", digit, method="feature_maps")
    image = source.subject(keras, digit.read_bytes()).image_hwc
    expected = keras.feature_maps(image[None], [layer.name for layer in keras.layers])
    assert found.arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert np.allclose(found[name], array[0], atol=1e-5), name
        assert not found[name].flags.writeable


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("saliency", {"target": "3"}),
        ("grad_cam", {"layer": "c3"}),
        ("integrated_gradients", {"options": {"steps": 8}}),
        ("occlusion", {"options": {"patch": 8, "stride": 8}}),
        ("unit", {"layer": "c1", "options": {"row": 3, "column": 4, "channel": 2}}),
        ("filters", {"layer": "c3"}),
    ],
)
def test_the_server_explains_as_python_does(client, probe, digit, method, more):
    from zoo.explain.methods import explain

    source, keras = probe
    found = client.explain("lenet5_modern", digit, method=method, **more)
    assert isinstance(found, Explanation)
    given = {**more, "target": int(more["target"])} if "target" in more else more
    here = explain(source.subject(keras, digit.read_bytes()), method, **given)
    assert (found.layer, found.class_id) == (here.layer, here.target)
    assert found.version == 1
    for name, array in here.arrays.items():
        scale = float(np.abs(array).max()) or 1.0
        assert np.allclose(found[name], array, atol=1e-4 * scale), name


@pytest.fixture(scope="module")
def an_x(published_xo):
    return sorted((published_xo.run / "holdout").glob("*_X.png"))[0]


def test_a_units_numbers_add_up(client, an_x):
    found = client.explain("xo", an_x, method="unit", layer="conv1")
    total = found["products"].sum() * found.facts["scale"] + found.facts["bias"]
    assert total == pytest.approx(found.facts["before"], rel=1e-5)
    after = ACTIVATIONS[found.facts["activation"]](found.facts["before"])
    assert after == pytest.approx(found.facts["value"], rel=1e-5)


def test_a_trace_of_xo_has_every_number(client, an_x):
    found = client.explain("xo", an_x, method="trace")
    assert found.label == "X"
    assert [step["layer"] for step in found.facts["steps"]] == [
        *("image", "conv1", "conv1_relu", "pool1", "flatten", "logits")
    ]
    assert np.array_equal(found["map:conv1_relu"], np.maximum(found["map:conv1"], 0))
    votes = found["map:flatten"] @ found["kernel:logits"] + found["bias:logits"]
    assert np.allclose(votes, found["map:logits"], atol=1e-4)


def test_a_method_that_needs_no_image_takes_none(client):
    found = client.explain("xo", None, method="filters", layer="conv1")
    assert found["filters"].shape == (3, 3, 3, 1)
    with pytest.raises(InvalidInputError, match="send one"):
        client.explain("xo", None, method="occlusion")


def test_pictures_come_as_png(client, digit):
    found = client.explain("lenet5_modern", digit, method="occlusion", as_picture=True)
    assert found.picture.startswith(b"\x89PNG")


def test_what_cannot_be_explained_says_why(client, digit):
    with pytest.raises(InvalidInputError, match="no ReLU up to 'c3'"):
        client.explain("lenet5_modern", digit, method="deconvnet", layer="c3")
    with pytest.raises(InvalidInputError, match="Did you mean 'saliency'"):
        client.explain("lenet5_modern", digit, method="salience")


async def test_the_async_client_asks_the_same(server, digit):
    async with AsyncClient(server.url) as client:
        layers = await client.layers("lenet5_modern")
        found = await client.explain(
            "lenet5_modern", digit, method="occlusion", target="3", version=1
        )
    assert layers.model == "lenet5_modern"
    assert found.label == "3"


def test_protocols_without_explanations_say_where_they_are(server, digit):
    with Client(f"grpc://{server.grpc}") as client:
        with pytest.raises(UnsupportedError, match="over REST"):
            client.layers("lenet5_modern")
        with pytest.raises(UnsupportedError, match="over REST"):
            client.explain("lenet5_modern", digit, method="input")


def test_the_command_line_writes_pictures_arrays_and_a_page(place, an_x, tmp_path):
    version = place / "models" / "xo" / "1"
    told = json.loads(
        convzoo("explain", version, an_x, "--method", "trace", "--out", tmp_path, "--json").stdout
    )
    assert told["label"] == "X"
    page = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert "divided by 9" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "src=" not in page
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "trace.npz") as file:
        assert file["map:conv1"].shape == (7, 7, 3)
    failed = convzoo("explain", version, an_x, "--method", "tracing", check=False)
    assert failed.returncode == 2
    assert "Did you mean 'trace'" in failed.stderr


def test_the_command_line_looks_over_data_and_snapshots_and_checks_sanity(
    published_xo, an_x, tmp_path
):
    run, images = published_xo.run, published_xo.run / "holdout"
    told = json.loads(
        convzoo(
            "explain", run, "--method", "top_patches", "--layer", "conv1_relu", "--data", images,
            "--out", tmp_path / "top.png", "--json",
        ).stdout
    )  # fmt: skip
    assert [len(patches) for patches in told["maps"].values()] == [9, 9, 9]
    told = json.loads(
        convzoo(
            "explain", run, "--method", "evolution", "--layer", "conv1_relu", "--data", images,
            "--set", "channel=1", "--out", tmp_path / "evolution.png", "--json",
        ).stdout
    )  # fmt: skip
    assert [stage["epoch"] for stage in told["stages"]] == [1, 2, 5]
    told = json.loads(
        convzoo(
            "explain", run, an_x, "--method", "sanity", "--set", "of=saliency",
            "--out", tmp_path / "sanity.png", "--json",
        ).stdout
    )  # fmt: skip
    assert [step["layer"] for step in told["steps"]] == ["logits", "conv1"]
    assert (tmp_path / "sanity.png").read_bytes().startswith(b"\x89PNG")
