"""Evaluations that would not take place, and metrics that they do not have."""

import pytest

from tests.recipe.helpers import BASE, PPO, RATE, load, problem, write
from tests.trainers.online.test_recipe import ONLINE
from trl_ext import losses, recipe
from trl_ext.checks.evaluation import metrics_of
from trl_ext.methods import METHODS

EVALUATED = "eval_strategy: steps\neval_size: 8\n"


@pytest.mark.parametrize(
    ("base", "metric", "meant"),
    [
        (BASE, "eval_reward/margins", "did you mean rewards/margins"),
        (f"{BASE}loss: kto\n", "rewards/accuracies", "no evaluation of a loss on labelled completions has"),
        (f"{BASE}loss: simpo\n", "log_ratio/chosen", "did you mean"),
        (f"{BASE}loss: apo_zero_unpaired\n", "kl", "allowed are"),
        (PPO, "rewards/margins", "rewards/NAME/mean"),
        (f"{BASE}trainer: sft\n", "accuracy", "mean_token_accuracy"),
        (f"{BASE}trainer: reward\n", "rewards/margins", "margin"),
        (ONLINE, "bleu", "score/margin"),
    ],
)
def test_a_metric_that_no_evaluation_has(base, metric, meant, tmp_path):
    said = problem(tmp_path, f"{EVALUATED}metric_for_best_model: {metric}\n", base)
    assert f"is {metric}, which no evaluation of" in said and meant in said


@pytest.mark.parametrize(
    ("base", "metric"),
    [
        (BASE, "eval_rewards/margins"),
        (BASE, "loss"),
        (f"{BASE}loss: kto\n", "kl"),
        (PPO, "rewards/sentiment/mean"),
        (PPO, "score"),
        (f"{BASE}trainer: reward\n", "accuracy"),
    ],
)
def test_a_metric_that_evaluations_have(base, metric, tmp_path):
    assert recipe.load(write(tmp_path, f"{EVALUATED}metric_for_best_model: {metric}\n", base), RATE).notes == []


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("load_best_model_at_end: true\n", "add `eval_strategy: steps`"),
        (f"load_best_model_at_end: true\n{EVALUATED}save_strategy: epoch\n", "set `save_strategy: steps`"),
        (f"load_best_model_at_end: true\n{EVALUATED}save_strategy: 'no'\n", "set `save_strategy: steps`"),
        ("load_best_model_at_end: true\neval_strategy: epoch\neval_size: 8\n", "set `save_strategy: epoch`"),
        (
            f"load_best_model_at_end: true\n{EVALUATED}eval_steps: 30\nsave_steps: 100\n",
            "not a multiple of 30 (`eval_steps`): set `save_steps: 90`",
        ),
        (f"load_best_model_at_end: true\n{EVALUATED}eval_steps: 0.1\nsave_steps: 100\n", "both as shares"),
        ("save_strategy: best\nmetric_for_best_model: loss\n", "the run has no evaluations"),
        (f"save_strategy: best\n{EVALUATED}", "add `metric_for_best_model: loss`"),
        ("eval_strategy: steps\neval_size: 8\neval_delay: 11\nmax_steps: 10\n", "would never be evaluated"),
        ("eval_strategy: epoch\neval_size: 8\neval_delay: 2\nnum_train_epochs: 1\n", "would never be evaluated"),
    ],
)
def test_checkpoints_and_evaluations_that_do_not_fit(text, remedy, tmp_path):
    assert remedy in problem(tmp_path, text)


def test_shares_are_compared_as_transformers_does(tmp_path):
    given = f"load_best_model_at_end: true\n{EVALUATED}eval_steps: 0.1\nsave_steps: "
    load(tmp_path, f"{given}0.3\n")
    assert "not a multiple" in problem(tmp_path, f"{given}0.25\n")
    load(tmp_path, f"load_best_model_at_end: true\n{EVALUATED}save_strategy: best\n")


def test_an_evaluation_at_the_start_needs_rows(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 4, encoding="utf-8")
    base = f"model_name_or_path: embedded\ndataset_name: {rows}\n"
    said = problem(tmp_path, "eval_on_start: true\n", base)
    assert "`eval_on_start` (line 3) is true, which evaluates on the split `test`" in said and "`eval_size`" in said
    assert load(tmp_path, "eval_on_start: true\neval_size: 8\n").notes == []


def test_settings_that_evaluate_nothing_are_noted(tmp_path):
    assert "has no effect by itself" in load(tmp_path, "do_eval: true\n").notes[0]
    assert "has no effect without `eval_strategy`" in load(tmp_path, "metric_for_best_model: loss\n").notes[0]
    assert load(tmp_path, f"do_eval: true\n{EVALUATED}").notes == []


def test_metrics_depend_on_the_loss():
    paired = METHODS["paired"]
    assert "log_ratio/chosen" in metrics_of(paired, losses.describe("dpo"))
    assert "log_ratio/chosen" not in metrics_of(paired, losses.describe("simpo"))
    assert "kl/sequence" not in metrics_of(METHODS["online"], losses.describe("simpo"))
