"""The environment variables that are set before the libraries are imported."""

import os
import platform
import sys
from types import SimpleNamespace

import pytest

from trl_ext.runs import libraries

EXPANDABLE = "expandable_segments:True"


@pytest.fixture
def environment(monkeypatch):
    """An empty one, on Linux."""
    variables = {}
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "release", lambda: "6.8.0-45-generic")
    for hide in ("hide_progress_off_terminals", "hide_bars_of_datasets"):
        monkeypatch.setattr(libraries.quiet, hide, lambda: None)
    return variables


def recipe(env=None, **values):
    return SimpleNamespace(sections=lambda: {"env": env or {}}, get=values.get)


def test_segments_are_expandable_by_default(environment):
    libraries.configure(recipe())
    assert environment["PYTORCH_ALLOC_CONF"] == EXPANDABLE


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"])
@pytest.mark.parametrize("value", ["max_split_size_mb:128", ""])
def test_the_users_own_settings_are_kept(environment, name, value):
    environment[name] = value
    libraries.configure(recipe())
    assert {key: given for key, given in environment.items() if "ALLOC" in key} == {name: value}
    environment.clear()
    libraries.configure(recipe(env={name: value}))  # of the recipe
    assert {key: given for key, given in environment.items() if "ALLOC" in key} == {name: value}


def test_vllm_has_an_allocator_that_refuses_them(environment):
    libraries.configure(recipe(use_vllm=True))
    assert "PYTORCH_ALLOC_CONF" not in environment


@pytest.mark.parametrize(
    ("system", "release"),
    [
        ("linux", "5.15.167.4-microsoft-standard-WSL2"),
        ("linux", "4.4.0-19041-Microsoft"),
        ("linux", "5.15.148-tegra"),
        ("win32", "10"),
        ("darwin", "24.1.0"),
    ],
)
def test_systems_that_cannot_map_gpu_memory_keep_fixed_segments(environment, monkeypatch, system, release):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "release", lambda: release)
    libraries.configure(recipe())
    assert "PYTORCH_ALLOC_CONF" not in environment
