"""The catalog, its page and its commands."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import zoo
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
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("alexnet", {"order": "norm_pool"}, "No order 'norm_pool'. Did you mean 'norm-pool'"),
        ("alexnet", {"lrn": "bogus"}, "No lrn 'bogus'.*caffe"),
        ("vgg11_lrn", {"batch_norm": True}, "lrn or batch_norm, not both"),
        ("lenet5_modern", {"num_classes": 2.5}, "found num_classes=2.5"),
        ("lenet5_modern", {"num_classes": "3"}, "found num_classes='3'"),
        ("lenet5_modern", {"num_classes": True}, "found num_classes=True"),
        ("lenet5_modern", {"input_shape": 32}, "three whole numbers.*found 32"),
        ("lenet5_modern", {"input_shape": (32.0, 32, 1)}, "three whole numbers"),
        ("lenet5_modern", {"input_shape": (32, 32, None)}, r"found \[32, 32, None\]"),
        ("lenet5", {"input_shape": (32, 32, 0)}, r"found \[32, 32, 0\]"),
        ("lenet5_modern", {"input_shape": (32, 32, -1)}, r"found \[32, 32, -1\]"),
        ("convnet", {"spec": {"stages": [{"filters": 2}], "dense": [0]}}, "dense.0"),
    ],
)
def test_an_option_that_cannot_be_is_refused(name, options, words):
    with pytest.raises(UsageError, match=words):
        zoo.create(name, **options)


@pytest.mark.tensorflow
def test_networks_are_not_built_for_channels_first(monkeypatch):
    import keras

    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(UsageError, match="channels_first"):
        zoo.create("lenet5_modern")


@pytest.mark.tensorflow
def test_builders_refuse_variants_that_are_not_in_their_papers_tables():
    from zoo.models.resnet import resnet, resnet_cifar
    from zoo.models.vgg import vgg, vgg_cifar

    for build, option in (
        (vgg, {"configuration": "F"}),
        (vgg_cifar, {"configuration": "F"}),
        (resnet, {"depth": 51}),
        (resnet, {"version": "v2"}),
        (resnet, {"pool": "same"}),
        (resnet_cifar, {"depth": 21}),
    ):
        with pytest.raises(UsageError):
            build(**option)


def test_weights_are_there_without_another_import_and_bring_no_framework():
    code = (
        "import sys, zoo\n"
        "assert 'zoo.weights' not in sys.modules\n"
        "assert zoo.weights.PUBLIC and zoo.weights.fetch and zoo.weights.load\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
        "assert not hasattr(zoo, 'weigths')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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


@pytest.mark.tensorflow
def test_show_cuts_nothing_off_however_narrow_the_terminal():
    run = CliRunner().invoke(show, ["googlenet"], env={"COLUMNS": "40"})
    assert "…" not in run.stdout
    (line,) = [each for each in run.stdout.splitlines() if each.startswith("image ")]
    assert line.split() == ["image", "InputLayer", "224x224x3", "1", "1"]
    assert "NormalizedTemplateConv2D" in CliRunner().invoke(show, ["xo"]).stdout


@pytest.mark.tensorflow
@pytest.mark.parametrize("picture", ["gone/a.png", "a.xyz", "a"])
def test_a_picture_that_cannot_be_written_is_wrong_usage(tmp_path, picture):
    run = CliRunner().invoke(show, ["xo", "--png", str(tmp_path / picture)])
    assert isinstance(run.exception, UsageError)
    assert picture in str(run.exception)


@pytest.mark.tensorflow
def test_a_dense_layer_behind_maps_sees_what_all_their_places_see():
    from zoo.anatomy import describe

    alexnet, modern = describe(zoo.create("alexnet")), describe(zoo.create("lenet5_modern"))
    assert alexnet["fc6"].receptive_field == 195 + 5 * 32
    assert alexnet["logits"].receptive_field == 195 + 5 * 32
    # In the 1998 form c5 is a convolution over the same 5x5 maps.
    assert modern["c5"].receptive_field == describe(zoo.create("lenet5"))["c5"].receptive_field


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
