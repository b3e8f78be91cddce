"""Loading runs every pass once, over all layers; problems are collected on the way."""

import sys
from pathlib import Path

import pytest

from tests.recipe.helpers import PPO, problems, write
from trl_ext import recipe
from trl_ext.recipe.load import (
    choose_loss,
    choose_method,
    convert_types,
    drop_misplaced_keys,
    drop_unknown_keys,
    fit_to_loss,
    fit_variants,
    merge_entries,
    merge_layers,
    note_reused_hyperparameters,
    read_evaluation,
    read_variants,
    run_checks,
    take_entries,
    unfold_loss_kwargs,
)

PASSES = (
    choose_method, take_entries, read_variants, drop_unknown_keys, drop_misplaced_keys, unfold_loss_kwargs, choose_loss, convert_types,
    fit_variants, merge_layers, merge_entries, read_evaluation, fit_to_loss, note_reused_hyperparameters, run_checks,
)  # fmt: skip
LOSS = "model_name_or_path: embedded\ndataset_name: embedded\nloss: dpo\nvariants: {ipo: {beta: 1}, kto: {}, simpo: {gamma: 1}}\n"


def calls(path: Path, flags: dict) -> list:
    """The code objects of `trl_ext.recipe` that one load calls, in order."""
    found = []

    def record(frame, event, _):
        if event == "call" and frame.f_globals.get("__name__", "").startswith("trl_ext.recipe."):
            found.append(frame.f_code)

    sys.setprofile(record)
    try:
        recipe.load(path, flags)
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("text", [LOSS, PPO], ids=["a loss with variants", "a trainer"])
def test_every_pass_runs_once_and_in_order(text, tmp_path):
    codes = [one.__code__ for one in PASSES]
    called = [code for code in calls(write(tmp_path, "", text), {"learning_rate": 1e-5}) if code in codes]
    assert called == codes


def test_a_problem_found_in_a_variant_and_after_merging_is_reported_once(tmp_path):
    assert problems(tmp_path, "loss: ipo\nvariants: {ipo: {beta: -1}}\n") == [
        "`variants.ipo.beta` (line 4) is -1, and ipo needs a number greater than 0."
    ]


def test_a_variant_cannot_choose_what_decides_about_it(tmp_path):
    found = problems(tmp_path, "variants:\n  ipo: {trainer: ppo, loss_type: dpo}\n")
    assert len(found) == 2 and all("cannot be set in a variant. Remove it." in sentence for sentence in found)


def test_problems_of_every_pass_in_the_order_of_the_file(tmp_path):
    text = """\
    variants: {ipo: {zzz: 1}}
    loss: dop
    learning_rate: fast
    loss_kwargs: {beat: 1}
    lora_rank: 8
    load_in_4bit: true
    """
    found = problems(tmp_path, text, trainer="po", row_tokens=0)
    assert [sentence.split("`")[1] for sentence in found] == [
        "variants.ipo.zzz", "loss", "learning_rate", "beat", "lora_rank", "load_in_4bit", "--trainer", "--row_tokens",
    ]  # fmt: skip
