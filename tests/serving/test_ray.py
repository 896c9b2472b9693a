"""The door to Ray where there is no Ray; tests/e2e/test_ray.py has one."""

import importlib
import sys

import pytest


def test_without_ray_the_extras_that_bring_it_are_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "serving.ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs ray.*'convzoo\[serve,ray\]'"):
        importlib.import_module("serving.ray")
