"""The guide to serving says what is so."""

import re
import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import click

from serving.cli import serve
from serving.core.drift import DriftSettings
from serving.limits import Limits
from serving.messages import Outcome, VersionOptions
from serving.model_config import read_config
from serving.protocols.openapi import document
from serving.tfs_flags import DONE

GUIDE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def section(title):
    return GUIDE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_configuration_in_the_guide_is_read(tmp_path):
    text, drift = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "serve.toml").write_text(text)
    config = read_config(tmp_path / "serve.toml")
    (digits,) = config.models
    assert digits.labels == {"canary": 4, "stable": 3}
    assert digits.options_of(3).cache_bytes == 10_000_000
    assert digits.options_of(4).cache_bytes == 0
    assert config.limits == tomllib.loads(text)["limits"]
    (tmp_path / "drift.toml").write_text(drift)
    config = read_config(tmp_path / "drift.toml")
    # The guide names every setting, with its default.
    assert config.drift == DriftSettings(log=tmp_path / "drift")
    assert set(tomllib.loads(drift)["drift"]) == set(DriftSettings.model_fields)


def test_every_limit_is_told_with_its_default():
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+)", section("Limits"), re.MULTILINE))
    expected = asdict(Limits())
    assert set(told) == set(expected)
    for name, value in expected.items():
        number = int(told[name].replace(",", ""))
        unit = 1 << 20 if f"`{name}` | {told[name]} MiB" in GUIDE else 1
        assert number * unit == value, name


def test_every_option_and_outcome_is_told():
    options = section("Models and versions")
    assert all(f"`{each.name}`" in options for each in fields(VersionOptions))
    assert all(f"| `{each}` |" in section("Headers") for each in Outcome)


def test_every_flag_in_the_guide_is_one():
    own = {name for param in serve.params if isinstance(param, click.Option) for name in param.opts}
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", GUIDE)) - {"--base-path"}
    assert flags <= own | {f"--{name}" for name in DONE}


def test_every_path_in_the_guide_is_described():
    paths = {re.sub(r"\{\w+\}", "{}", path) for path in document()["paths"]}
    told = re.findall(
        r"`(?:GET |POST )?(/[\w{}/:.]+)`", section("What is asked where").split("\n\nAfter")[0]
    )
    assert told
    for path in told:
        concrete = re.sub(r"\{\w+\}", "{}", path)
        assert any(each.startswith(concrete) for each in paths) or concrete.startswith("/v2/"), path
