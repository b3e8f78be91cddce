"""What a setting needs and is not installed is named before anything is imported."""

import pytest

from tests.recipe.helpers import load, problem
from trl_ext.checks import optimizers, packages
from trl_ext.checks.trackers import PACKAGES, trackers
from trl_ext.recipe import schema

OF_TORCH = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
NO_PACKAGE = {"all", "none", "kubeflow"}


@pytest.fixture
def bare(monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda package: False)


@pytest.mark.parametrize(
    ("text", "pip"),
    [
        ("use_liger_kernel: true\n", "liger-kernel"),
        ("optim: galore_adamw_8bit\noptim_target_modules: all-linear\n", "galore-torch"),
        ("optim: apollo_adamw\noptim_target_modules: all-linear\n", "apollo-torch"),
        ("trainer: sft\noptim: adalomo\n", "lomo-optim"),
        ("optim: schedule_free_radam\n", "schedulefree"),
        ("optim: grokadamw\n", "grokadamw"),
        ("optim: stable_adamw\n", "torch-optimi"),
        ("optim: adamw_torch_4bit\n", "torchao"),
        ("optim: paged_adamw_32bit\n", "bitsandbytes"),
        ("optim: adamw_8bit\n", "bitsandbytes"),
        ("optim: lion_32bit\n", "bitsandbytes"),
    ],
)
def test_a_package_that_is_not_there_is_named(text, pip, bare, tmp_path):
    said = problem(tmp_path, text)
    key = "use_liger_kernel" if "liger" in text else "optim"
    assert said.startswith(f"`{key}` (line ") and f"`pip install {pip}`" in said


def test_what_pytorch_and_transformers_have_needs_none(bare, tmp_path):
    for name in OF_TORCH:
        load(tmp_path, f"optim: {name}\n")


def test_every_optimizer_of_transformers_has_its_package():
    names = set(schema.training("paired")["optim"].choices)
    assert {name for name in names if optimizers.package_of(name) is None} == OF_TORCH


def test_every_tracker_of_transformers_has_its_package():
    assert set(trackers()) - {*PACKAGES} <= NO_PACKAGE


@pytest.mark.parametrize("name", ["lomo", "galore_adamw_layerwise"])
def test_an_update_inside_the_backward_pass_is_refused(name, tmp_path):
    assert "inside the backward pass" in problem(tmp_path, f"optim: {name}\noptim_target_modules: all-linear\n")


def test_low_rank_optimizers_need_their_modules(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "is_installed", lambda package: True)
    assert "add `optim_target_modules: all-linear`" in problem(tmp_path, "optim: galore_adamw\n")


@pytest.mark.parametrize("given", ["betas=(0.5,0.5)", "momentum", "momentum=0.9,"])
def test_the_format_of_optimizer_arguments(given, tmp_path):
    said = problem(tmp_path, f"optim: sgd\noptim_args: '{given}'\n")
    assert said.startswith(f"`optim_args` (line 4) is '{given}': give name=value") and "rank=64,scale=0.25" in said
    assert ("`adam_beta1`" in said) == ("betas" in given)
