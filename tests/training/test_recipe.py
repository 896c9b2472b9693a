"""Recipes: every fault names what would have worked."""

import numpy as np
import pytest

from training import recipe as recipes
from training.data.dataset import Images, split_by_content
from training.data.sources import DigitsSource
from zoo.catalog import CATALOG
from zoo.errors import UsageError
from zoo.preprocess import Preprocessing


def test_every_bundled_recipe_is_valid_and_its_header_tells_what_to_expect():
    assert recipes.bundled()
    for name, path in recipes.bundled().items():
        recipe = recipes.read(name)
        assert recipe.model.name in CATALOG
        header = path.read_text().split("model:")[0]
        for line in ("Command:", "Hardware:", "Time:", "Expected:"):
            assert line in header, f"{name} lacks {line}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["epoch=3"], ("'epoch'", "'epochs'")),
        (["optimizer.learning_rat=3"], ("'learning_rate'", "optimizer")),
        (["optimizer.kind=adan"], ("'adan'", "'adam'", "sgd")),
        (["data.source=mnits"], ("'mnits'", "'mnist'", "digits", "idx")),
        (["epochs=many"], ("epochs", "'many'")),
        (["epochs=0"], ("epochs", "greater than or equal to 1")),
        (["epochs"], ("key=value",)),
        (["epochs.much=3"], ("'epochs'", "value")),
        (["schedule={kind: staircase, epochs: [1, 2], factors: [0.1]}"], ("2 epochs need", "1")),
        (["schedule={kind: staircase, epochs: [2, 1], factors: [1, 2]}"], ("epochs must rise",)),
        (["input={height: 32, width: 32, channels: 1}"], ("channels: 1", "colour: rgb", "gray")),
        (
            ["input={height: 32, width: 32, channels: 3, colour: gray}"],
            ("channels: 3", "colour: gray"),
        ),
        (
            ["preprocessing.input_steps=[{kind: standardise, mean: [1]}]"],
            ("input_steps", "mean and std are given together"),
        ),
        (
            ["preprocessing.input_steps=[{kind: standardise, mean: [1], std: [0]}]"],
            ("std", "greater than 0"),
        ),
    ],
)
def test_a_wrong_override_names_what_exists(overrides, words):
    with pytest.raises(UsageError) as refused:
        recipes.read("digits_lenet5_modern", overrides)
    for word in words:
        assert word in str(refused.value)


def test_googlenets_mean_pixel_stands_in_the_order_of_its_channels():
    steps = recipes.read("imagenet_googlenet").preprocessing.input_steps
    preprocessing = Preprocessing(input=CATALOG["googlenet"].input, input_steps=steps)
    mean_rgb = np.broadcast_to(np.array([123, 117, 104], np.uint8), (224, 224, 3))
    assert not preprocessing.to_input(preprocessing.to_pixels(mean_rgb)[None]).any()


def test_an_unknown_recipe_names_those_that_exist():
    with pytest.raises(UsageError, match=r"'digits_lenet5'\. Did you mean 'digits_lenet5_modern'"):
        recipes.read("digits_lenet5")


def test_overrides_take_the_place_of_the_files_values():
    recipe = recipes.read("digits_lenet5_modern", ["optimizer.learning_rate=5e-2", "epochs=3"])
    assert recipe.optimizer.learning_rate == 0.05
    assert recipe.epochs == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 0.001), ("-2E5", -200000.0), ("1.5e3", 1500.0), (".5e2", 50.0), ("8", 8)),
        *(('"8"', "8"), ("'1e-3'", "1e-3"), ("nan", "nan"), ("infinity", "infinity")),
        *(("1_0", 10), ("one", "one"), ("8e", "8e")),
    ],
)
def test_quoted_values_are_text_and_numbers_need_no_point(text, value):
    found = recipes.parse_override(f"key={text}")[1]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.learning_rate=inf", "learning_rate: Input should be a finite number"),
        ("optimizer.weight_decay=1e400", "weight_decay: Input should be a finite number"),
        ("seed=99999999999", "seed: Input should be less than 4294967296"),
        ("publish_as=a/b", "publish_as: .*'a/b' cannot name a model"),
    ],
)
def test_what_would_end_in_a_traceback_or_in_vain_is_refused_before_anything_runs(override, words):
    with pytest.raises(UsageError, match=words):
        recipes.read("digits_lenet5_modern", [override])


@pytest.fixture
def bare(tmp_path):
    """A recipe that leaves its optimizer, schedule and loss at their defaults."""
    path = tmp_path / "bare.yaml"
    path.write_text("model: {name: lenet5_modern}\ndata: {source: digits}\nepochs: 1\n")
    return str(path)


def test_overrides_go_into_a_default_that_has_them(bare):
    recipe = recipes.read(bare, ["optimizer.learning_rate=0.5", "loss.label_smoothing=0.1"])
    assert recipe.optimizer == recipes.Adam(learning_rate=0.5)
    assert recipe.loss == recipes.CrossEntropy(label_smoothing=0.1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "optimizer.momentum=0.9",
            "optimizer says no kind; momentum belongs to sgd: add e.g. optimizer.kind=sgd",
        ),
        ("schedule.every_epochs=2", "schedule says no kind; every_epochs belongs to step: "),
        ("optimizer.momentun=0.9", "optimizer says no kind; there are adam, sgd"),
        ("data={data_dir: photos}", "data says no source; data_dir belongs to mnist, idx, images,"),
        ("preprocessing.input_steps=[{mean: [1]}]", "preprocessing.input_steps.0 says no kind"),
    ],
)
def test_a_group_of_no_kind_names_one_that_has_its_keys(bare, override, words):
    with pytest.raises(UsageError) as refused:
        recipes.read(bare, [override])
    assert words in str(refused.value)


def test_a_class_whose_name_is_a_number_can_be_chosen():
    recipe = recipes.read("digits_lenet5_modern", ['data.one_against_rest="8"'])
    assert recipe.data.one_against_rest == "8"


def test_the_hash_knows_every_value_but_not_where_the_data_lies(tmp_path):
    plain = recipes.read("mnist_lenet5_modern")
    assert plain.sha256() == recipes.read("mnist_lenet5_modern", (), tmp_path).sha256()
    assert plain.sha256() != recipes.read("mnist_lenet5_modern", ["seed=2"]).sha256()


def test_the_digits_are_split_the_same_way_everywhere():
    dataset = DigitsSource().load()
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 1797
    assert len(dataset.test) == 345
    assert dataset.test.sha256() == DigitsSource().load().test.sha256()
    train, test = set(dataset.train.hashes()), set(dataset.test.hashes())
    assert not train & test


def test_an_image_keeps_its_part_when_others_come():
    images = DigitsSource().load().train
    some = images.take(slice(0, 500))
    _, chosen = split_by_content(images, 0.3, "salt")
    _, chosen_of_some = split_by_content(Images(some.pixels_nhwc, some.class_ids), 0.3, "salt")
    assert set(chosen_of_some.hashes()) <= set(chosen.hashes())


def test_photos_are_turned_upright_unless_a_recipe_says_otherwise():
    from training.train import input_of, steps_of
    from zoo.preprocess import Preprocessing

    for overrides, upright in (((), True), (("preprocessing.upright=false",), False)):
        recipe = recipes.read("images", overrides)
        assert steps_of(recipe, input_of(recipe)).upright is upright
    # A version of before says nothing, and was trained on pixels as they lie in the file.
    assert not Preprocessing.model_validate(
        {"input": {"height": 1, "width": 1, "channels": 1}}
    ).upright
