"""The catalog, its page and its commands."""

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from zoo.anatomy import output_size
from zoo.catalog import CATALOG, SPECS
from zoo.cli import list_command, short, show
from zoo.errors import UsageError
from zoo.weights.public import PUBLIC

ROOT = Path(__file__).parents[2]


def script():
    spec = importlib.util.spec_from_file_location("networks", ROOT / "scripts" / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_networks_is_what_the_catalog_says():
    networks = script()
    assert networks.PAGE.read_text(encoding="utf-8") == networks.page()
    assert {spec.paper for spec in SPECS} <= networks.papers()
    assert set(networks.OTHERS) <= set(CATALOG)


def test_published_errors_are_those_of_the_form_that_is_built():
    # Table 3 of [he2016] has option A and B; the zoo builds B. torchvision measured its own weights.
    assert [(each.top1, each.top5) for each in CATALOG["resnet34"].errors] == [(24.52, 7.46)]
    assert [(each.top1, each.top5) for each in CATALOG["alexnet_owt"].errors] == [(43.478, 20.934)]
    found = {
        name: PUBLIC[f"densenet{name}/torchvision"].top1_error for name in (121, 161, 169, 201)
    }
    assert found == {121: 25.566, 161: 22.862, 169: 24.4, 201: 23.104}


def test_names_are_unique():
    assert len(CATALOG) == len(SPECS)


def test_list_names_every_network_with_its_figures():
    run = CliRunner().invoke(list_command, env={"COLUMNS": "80"})
    assert run.exit_code == 0
    for spec in SPECS:
        assert spec.name in run.stdout
    assert "40.7/18.2" in run.stdout
    told = json.loads(CliRunner().invoke(list_command, ["--json"]).stdout)
    assert {each["name"]: each["parameters"] for each in told}["vgg16"] == 138_357_544


def test_show_names_those_that_exist():
    run = CliRunner().invoke(show, ["lenet6"])
    assert isinstance(run.exception, UsageError)
    assert "Did you mean 'lenet5'" in str(run.exception)


@pytest.mark.tensorflow
def test_show_tells_every_layer_and_draws(tmp_path):
    run = CliRunner().invoke(show, ["lenet5", "--json", "--png", str(tmp_path / "a.png")])
    told = json.loads(run.stdout)
    layers = {layer["name"]: layer for layer in told["layers"]}
    assert layers["c3"]["output_shape"] == [10, 10, 16]
    assert layers["c3"]["receptive_field"] == 14
    assert told["totals"] == {
        "parameters": 60_000,
        "fixed": 840,
        "macs": 325_680,
        "dense_share": pytest.approx(10_164 / 60_000),
    }
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "10x10x16" in CliRunner().invoke(show, ["lenet5"]).stdout


@pytest.mark.parametrize(
    ("arguments", "places"),
    [((227, 11, 0, 4), 55), ((32, 5, 0, 1), 28), ((28, 5, 2, 1), 28), ((4, 2, 0, 2), 2)],
)
def test_output_sizes_are_counted(arguments, places):
    assert output_size(*arguments) == places


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (224, 11, 0, 4),
            r"= 54.25 is no whole number: rounded down 54 places leave 1 pixels unseen, rounded up 55 places need 3 more",
        ),
        ((4, 7, 1, 1), r"A kernel of 7 does not fit into 4 pixels padded by 1 on both sides \(6\)"),
        ((4, 0, 1, 1), "at least 1"),
    ],
)
def test_sizes_that_do_not_come_out_even_say_what_would(arguments, words):
    with pytest.raises(UsageError, match=words):
        output_size(*arguments)


def test_counts_are_shortened():
    assert [short(n) for n in (0, 999, 1_000, 61_706, 724_406_816, 15_470_264_320)] == [
        *("0", "999", "1.0 k", "61.7 k", "724.4 M", "15.5 G")
    ]
