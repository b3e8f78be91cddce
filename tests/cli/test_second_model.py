"""Where all weights are trained, the reference is a second model: validate, run, card and plan say so and count it."""

from types import SimpleNamespace

import pytest

from tests.recipe.helpers import load, problem
from trl_ext import losses
from trl_ext.cli.summary import summary
from trl_ext.planner import request
from trl_ext.trainers.common.step_zero import reference_of


@pytest.mark.parametrize(
    ("text", "said", "copies"),
    [
        ("loss: dpo\n", "a second model in memory, the initial weights, because all weights are trained", 2),
        ("loss: dpo\nprecompute_ref_log_probs: true\n", "values precomputed from the initial weights", 1),
        ("loss: dpo\nuse_peft: true\n", "the base model with its adapter off", 1),
        ("loss: simpo\n", "none", 1),
    ],
)
def test_validate_and_plan(text, said, copies, tmp_path):
    recipe = load(tmp_path, text)
    assert summary(recipe)["reference"] == said
    assert request.read(recipe).storage.copies == copies


def test_run_and_card():
    """Both print `reference_of`."""
    trainer = SimpleNamespace(args=SimpleNamespace(sync_ref_model=False), loss=losses.get("dpo"), ref_model=object())
    assert reference_of(trainer) == "a second model in memory, beside the trained one"


def test_a_file_that_names_its_reference_is_told_both_kinds(tmp_path):
    said = problem(tmp_path, "ref_model_name_or_path: org/model\n")
    assert "with its adapter switched off, or a second copy of the model where all weights are trained" in said
