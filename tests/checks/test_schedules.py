"""Schedules that transformers cannot construct, or that would not do what was meant, compared with transformers' own."""

import pytest
import torch
from transformers import SchedulerType
from transformers.optimization import get_scheduler

from tests.recipe.helpers import BASE, PPO, load, problem, problems
from trl_ext.checks import schedules

EVALUATED = "eval_strategy: steps\neval_size: 8\n"
COMPLETE = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-5},
    "warmup_stable_decay": {"num_decay_steps": 3},
    "greedy": {"min_lr": 1e-5},
    "polynomial": {"lr_end": 1e-5, "power": 2.0},
}
"""What each schedule needs at a rate of 1e-4."""


def construct(name, kwargs, rate=1e-4):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    return get_scheduler(name, optimizer, 2, 20, kwargs)


def text(name, kwargs, rate=1e-4):
    return f"lr_scheduler_type: {name}\nlr_scheduler_kwargs: {kwargs}\nlearning_rate: {rate}\n{EVALUATED}"


@pytest.mark.parametrize("name", [schedule.value for schedule in SchedulerType])
def test_every_schedule_is_accepted_exactly_if_transformers_can_construct_it(name, tmp_path):
    complete = COMPLETE.get(name, {})
    construct(name, complete)
    load(tmp_path, text(name, complete))
    if "min_lr_rate" in complete or ("min_lr" in complete and "cosine" in name) or name == "warmup_stable_decay":
        with pytest.raises((ValueError, TypeError)):
            construct(name, {})
        assert f"is {name}, which needs" in problem(tmp_path, text(name, {}))
    if not name.startswith("constant"):
        with pytest.raises(TypeError):
            construct(name, complete | {"cycles": 2})
        assert f"has `cycles`, which the schedule {name} does not take" in problem(
            tmp_path, text(name, complete | {"cycles": 2})
        )


def test_the_arguments_are_those_of_the_installed_functions():
    assert schedules.arguments_of("warmup_stable_decay").required == ("num_decay_steps",)
    assert schedules.arguments_of("polynomial").defaults == {"lr_end": 1e-7, "power": 1.0}
    assert schedules.arguments_of("linear") == ({}, ())
    assert {"mode", "factor", "patience", "min_lr"} <= set(schedules.arguments_of("reduce_lr_on_plateau").defaults)


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("cosine_with_min_lr", {"min_lr": 1e-5, "min_lr_rate": 0.1}, "keep one of them"),
        ("polynomial", {"lr_end": 1e-4}, "`lr_end` in `lr_scheduler_kwargs` (line 4) is 0.0001, and `learning_rate`"),
        ("warmup_stable_decay", {"num_decay_steps": 3, "decay_type": "exp"}, "give 'linear' or 'cosine' or '1-sqrt'"),
        ("reduce_lr_on_plateau", {"factor": 1.0}, "give a number between 0 and 1"),
        ("reduce_lr_on_plateau", {"mode": "best"}, "give 'min' or 'max'"),
        ("greedy", {"min_lr": 1e-5, "factor": 2}, "give a number between 0 and 1"),
    ],
)
def test_values_that_transformers_or_torch_refuses(name, kwargs, said, tmp_path):
    with pytest.raises(ValueError):
        construct(name, kwargs)
    assert said in problem(tmp_path, text(name, kwargs))


@pytest.mark.parametrize("value", ["many", [1], True, ".nan"])
def test_values_of_another_kind(value, tmp_path):
    given = f"lr_scheduler_type: cosine_with_restarts\nlr_scheduler_kwargs: {{num_cycles: {str(value).lower()}}}\n"
    assert "`num_cycles` in `lr_scheduler_kwargs` (line 4) is" in problem(tmp_path, given)


def test_a_schedule_that_rises_is_refused(tmp_path):
    """GreedyLR's own minimum is 1e-3: 200 times the rates of preference losses."""
    assert schedules.arguments_of("greedy").defaults["min_lr"] == 1e-3
    said = problem(tmp_path, text("greedy", {}, rate=5e-6))
    assert "whose `min_lr` is 0.001 by default, and `learning_rate` (line" not in said and "is 5e-06" in said
    assert "`min_lr` in" in problem(tmp_path, text("cosine_with_min_lr", {"min_lr": 1e-3}))
    assert "`lr_end` is 1e-07 by default" in problem(tmp_path, text("polynomial", {}, rate=1e-7))
    with pytest.raises(ValueError, match="must be smaller"):
        construct("polynomial", {}, rate=1e-7)


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_by_evaluations_needs_them_and_their_direction(name, tmp_path):
    given = f"lr_scheduler_type: {name}\nlr_scheduler_kwargs: {{min_lr: 1e-9}}\n"
    assert "the run has none" in problem(tmp_path, given)
    metric = f"{given}{EVALUATED}metric_for_best_model: rewards/margins\n"
    assert "`lr_scheduler_kwargs: {mode: max}`" in problem(tmp_path, metric)
    load(tmp_path, f"{given}{EVALUATED}metric_for_best_model: loss\n")
    load(tmp_path, metric.replace("min_lr: 1e-9", "min_lr: 1e-9, mode: max"))


def test_the_phases_of_warmup_stable_decay_fit_the_run(tmp_path):
    given = "lr_scheduler_type: warmup_stable_decay\nlr_scheduler_kwargs: {num_decay_steps: 15}\nmax_steps: 20\n"
    load(tmp_path, f"{given}warmup_steps: 5\n")
    said = problem(tmp_path, f"{given}warmup_steps: 6\n")
    assert "phases of 6 (`warmup_steps`) + 15 (`num_decay_steps`) steps are longer than the run of 20 steps" in said
    assert "phases of" in problem(tmp_path, f"{given}warmup_steps: 0.3\n")  # 6 steps


def test_arguments_as_json_and_arguments_that_are_none(tmp_path):
    load(tmp_path, "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: '{\"min_lr_rate\": 0.1}'\n")
    assert "write a mapping" in problems(tmp_path, "lr_scheduler_kwargs: fast\n")[0]


def test_arguments_and_warmups_without_effect_are_noted(tmp_path):
    notes = load(tmp_path, "lr_scheduler_type: constant\nlr_scheduler_kwargs: {num_cycles: 2}\n").notes
    assert any("the schedule constant takes none" in note for note in notes)
    notes = load(tmp_path, "max_steps: 20\nwarmup_steps: 20\n").notes
    assert any("the learning rate never reaches `learning_rate`" in note for note in notes)
    assert not any("never reaches" in note for note in load(tmp_path, "max_steps: 20\nwarmup_steps: 19\n").notes)


@pytest.mark.parametrize("base", [PPO, f"{BASE}trainer: sft\n", f"{BASE}trainer: reward\n", f"{BASE}loss: kto\n"])
def test_every_kind_of_training(base, tmp_path):
    assert "needs `num_decay_steps`" in problem(tmp_path, "lr_scheduler_type: warmup_stable_decay\n", base)
