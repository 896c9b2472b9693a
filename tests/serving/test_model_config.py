"""Configuration files in three forms say the same, and say what is wrong with them."""

from dataclasses import replace

import pytest

from serving.app import drift_of
from serving.cli import _settings as settings_of
from serving.cli import serve
from serving.config import Settings
from serving.core.drift import DriftSettings
from serving.errors import ConfigError
from serving.messages import ModelSettings, Transition, VersionOptions, VersionPolicy
from serving.model_config import read_config

NOT_SETTINGS = ("dry_run", "as_json", "log_format")

TOML = """
[defaults]
max_queue_s = 2.0

[models.digits]
base_path = "digits"
versions = [2, 1]
labels = { stable = 1 }
transition = "resources"
answers_once = true

[models.digits.version.2]
cache_bytes = 1000

[models.all]
base_path = "/models/all"
versions = "all"

[models.newest]
base_path = "/models/newest"
latest = 3

[limits]
images = 7
"""
YAML = """
defaults: {max_queue_s: 2.0}
models:
  digits:
    base_path: digits
    versions: [2, 1]
    labels: {stable: 1}
    transition: resources
    answers_once: true
    version: {2: {cache_bytes: 1000}}
  all: {base_path: /models/all, versions: all}
  newest: {base_path: /models/newest, latest: 3}
limits: {images: 7}
"""
TEXT = """
model_config_list {
  config {
    name: "digits" base_path: "/models/digits" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: 1 }
    logging_config { sampling_config { sampling_rate: 0.1 } }
  }
  config { name: "newest" base_path: "/models/newest" model_platform: "tensorflow" }
}
"""


@pytest.mark.parametrize(("name", "text"), [("a.toml", TOML), ("a.yaml", YAML), ("a.yml", YAML)])
def test_toml_and_yaml_say_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    config = read_config(tmp_path / name)
    options = VersionOptions(max_queue_s=2.0)
    once = VersionOptions(max_queue_s=2.0, answers_once=True)
    digits, everything, newest = config.models
    assert digits == ModelSettings(
        "digits",
        str(tmp_path / "digits"),  # relative to the file
        VersionPolicy(specific=(1, 2)),
        {"stable": 1},
        Transition.RESOURCES,
        once,
        {2: VersionOptions(max_queue_s=2.0, answers_once=True, cache_bytes=1000)},
    )
    assert digits.options_of(1) == once
    assert digits.options_of(2).cache_bytes == 1000
    assert everything == ModelSettings(
        "all", "/models/all", VersionPolicy(is_all=True), options=options
    )
    assert newest.policy == VersionPolicy(latest=3)
    assert config.limits == {"images": 7}


@pytest.mark.parametrize("name", ["models.config", "models.pbtxt", "models"])
def test_tensorflow_servings_text_is_read_under_any_other_name(tmp_path, name):
    (tmp_path / name).write_text(TEXT)
    assert read_config(tmp_path / name).models == (
        ModelSettings("digits", "/models/digits", VersionPolicy(specific=(1, 2)), {"stable": 1}),
        ModelSettings("newest", "/models/newest"),
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "models = ", "is no TOML"),
        ("a.yaml", "models: [", "is no YAML"),
        ("a.txt", "model_config_list { nonsense: 1 }", "no text proto ModelServerConfig: 1:21"),
        ("a.txt", "", "model_config_list is"),
        ("a.txt", 'model_config_list { config { name: "m" base_path: "x" } }', "absolute path"),
        ("a.toml", "[model.m]\nbase_path='x'", "model: Extra inputs"),
        ("a.toml", "[models.m]", "models.m.base_path: Field required"),
        ("a.toml", "[models.m]\nbase_path='x'\nmax_queue=1", "models.m.max_queue: Extra inputs"),
        ("a.toml", "[models.m]\nbase_path='x'\nversions='some'", "models.m.versions"),
        ("a.toml", "[models.m]\nbase_path='x'\nversions=[]", "names no version"),
        ("a.toml", "[models.'a/b']\nbase_path='x'", "'a/b' cannot name a model"),
        ("a.toml", "[models.m]\nbase_path='x'\nbatch_sizes=[4, 2]", "must ascend"),
        ("a.toml", "[models.m]\nbase_path='x'\nengine='openvinho'", "Did you mean 'openvino'"),
        ("a.toml", "[limits]\npixels = 1", "no limit 'pixels'; there are request_bytes"),
        ("a.toml", "[limits]\nimages = 0", "limit images is 0"),
        ("a.toml", "[drift]\nsample = 0.1", "drift.log: Field required"),
        ("a.toml", "[drift]\nlog='x'\nsample = 2", "drift.sample: Input should be less than"),
        ("a.toml", "[models.m]\nbase_path='x'\ndrift_sample=-1", "models.m.drift_sample: Input"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as told:
        read_config(tmp_path / name)
    assert words in str(told.value)
    assert told.value.exit_code == 2


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml cannot be read: No such file"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", '[models.digits]\nbase_path = "{}"\n'),
        ("c.yaml", "models: {{digits: {{base_path: '{}'}}}}\n"),
        (
            "c",
            "model_config_list {{ config {{ name: 'digits' base_path: '{}' "
            "model_platform: 'tensorflow' }} }}",
        ),
    ],
)
def test_a_base_path_may_be_the_url_of_an_object_store_and_no_other(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text.format("s3://bucket/models/digits"))
    assert read_config(path).models[0].base_path == "s3://bucket/models/digits"
    path.write_text(text.format("http://bucket/models/digits"))
    with pytest.raises(ConfigError, match=r"http://bucket/models/digits cannot be a base path"):
        read_config(path)


def test_options_of_the_server_hold_where_the_file_does_not_say(tmp_path):
    said = VersionOptions(is_isolated=True, streams=2, cache_bytes=9)
    (tmp_path / "a.toml").write_text(
        "[defaults]\nstreams = 3\n[models.m]\nbase_path = 'm'\nanswers_once = true\n"
        "[models.m.version.2]\nis_isolated = false"
    )
    (model,) = read_config(tmp_path / "a.toml", said).models
    expected = VersionOptions(is_isolated=True, streams=3, cache_bytes=9, answers_once=True)
    assert model.options_of(1) == expected
    assert model.options_of(2) == replace(expected, is_isolated=False)
    (tmp_path / "a").write_text(
        "model_config_list { config { name: 'm' base_path: '/m' model_platform: 'tensorflow' } }"
    )
    assert read_config(tmp_path / "a", said).models[0].options == said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.toml",
            "[drift]\nlog = 'seen'\ninterval_s = 60\n"
            "[models.m]\nbase_path = 'm'\ndrift_sample = 0.5\n"
            "[models.m.version.2]\ndrift_sample = 0",
        ),
        (
            "a.yaml",
            "drift: {log: seen, interval_s: 60}\n"
            "models: {m: {base_path: m, drift_sample: 0.5, version: {2: {drift_sample: 0}}}}",
        ),
    ],
)
def test_the_log_of_drift_stands_beside_the_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    config = read_config(tmp_path / name)
    assert config.drift == DriftSettings(log=tmp_path / "seen", interval_s=60)
    assert config.models[0].options_of(1).drift_sample == 0.5
    assert config.models[0].options_of(2).drift_sample == 0
    said = DriftSettings(log=tmp_path / "said")
    assert drift_of(Settings(config=tmp_path / name)) == config.drift
    assert drift_of(Settings(config=tmp_path / name, drift=said)) == said
    assert drift_of(Settings(base_path=tmp_path)) is None


def test_the_command_line_says_where_and_how_much(tmp_path):
    def settings(*arguments):
        context = serve.make_context("serve", ["--base-path", str(tmp_path), *arguments])
        given = {key: value for key, value in context.params.items() if key not in NOT_SETTINGS}
        return settings_of(context, given)

    assert settings().drift is None
    found = settings("--drift-log", str(tmp_path / "seen"), "--drift-sample", "1").drift
    assert found == DriftSettings(log=tmp_path / "seen", sample=1)
    with pytest.raises(ConfigError, match="--drift-sample says nothing without --drift-log"):
        settings("--drift-sample", "0.5")
