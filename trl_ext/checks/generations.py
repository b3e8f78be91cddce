"""Rules about batches of sampled completions: prompts, micro-batches and processes must divide them evenly."""

import os
from collections.abc import Iterator
from functools import partial

from trl_ext.checks.advantage import completions_per_prompt, declared
from trl_ext.checks.bounds import COUNT, out_of_bounds
from trl_ext.checks.rule import is_policy_gradient, problem, samples_pairs
from trl_ext.checks.settings import Settings

problem("num_generations", applies_to=is_policy_gradient)(partial(out_of_bounds, "num_generations", COUNT))


@problem("num_generations", "num_generations_eval", applies_to=samples_pairs)
def enough_for_a_pair(s: Settings) -> Iterator[str]:
    for key in ("num_generations", "num_generations_eval"):
        if s[key] is not None and s[key] < 2:
            yield f"{s.where(key)} is {s[key]}: a pair needs at least 2 completions of a prompt."


@problem("per_device_train_batch_size", "num_generations", applies_to=samples_pairs)
def pairs_in_one_batch(s: Settings) -> Iterator[str]:
    yield from _whole_prompts(s, "per_device_train_batch_size", "num_generations")


@problem(
    "per_device_eval_batch_size", "num_generations", "num_generations_eval", "eval_strategy", applies_to=samples_pairs
)  # fmt: skip
def evaluated_pairs_in_one_batch(s: Settings) -> Iterator[str]:
    if s["eval_strategy"] not in (None, "no"):
        key = "num_generations_eval" if s["num_generations_eval"] else "num_generations"
        yield from _whole_prompts(s, "per_device_eval_batch_size", key)


def _whole_prompts(s: Settings, batch: str, completions: str) -> Iterator[str]:
    size, generations = s[batch], s[completions]
    if generations and generations > 1 and size % generations:
        yield (
            f"{s.where(batch)} counts completions and is {size}: give a multiple of {generations}, the completions of a prompt "
            f"(`{completions}`), so that every pair is in one batch."
        )


# TRL's configuration judges the same, with the number of processes it knows (`tests/checks/test_ppo.py` compares them).
@problem(
    "per_device_train_batch_size", "num_generations", "generation_batch_size", "steps_per_generation",
    "gradient_accumulation_steps", "per_device_eval_batch_size", "num_generations_eval", "eval_strategy", "advantage",
    applies_to=is_policy_gradient, recipe_only=True,
)  # fmt: skip
def batches(s: Settings, processes: int | None = None) -> Iterator[str]:
    """Where completions cannot be divided evenly.

    Args:
        processes: The number of processes of the run; as accelerate launched it if not given.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
    size, groups = s["per_device_train_batch_size"], completions_per_prompt(s)
    total, steps = s["generation_batch_size"], s["steps_per_generation"]
    if groups is None:
        return
    if min(size, groups, total or 1, steps or 1, s["gradient_accumulation_steps"], s["num_generations_eval"] or 1) < 1:
        return  # out of its range, which another rule reports
    each = f"{size} (`per_device_train_batch_size`)" + (f" × {processes} processes" if processes > 1 else "")
    if twice := list(size_given_twice(s, processes)):
        yield from twice
        return
    if total and total % (size * processes):
        near = max(1, round(total / (size * processes))) * size * processes
        yield (
            f"{s.where('generation_batch_size')} is {total}, which is not a multiple of {each} = {size * processes}: "
            f"set it to {near}, for instance."
        )
        return
    steps = steps or s["gradient_accumulation_steps"]
    rollout = total or size * processes * steps
    if rollout % groups:
        made_of = f"`generation_batch_size` {total}" if total else f"{each} × {steps} micro-batches"
        yield (
            f"{s.where('num_generations')} is {groups}{_by_default(s)}, and a rollout of {rollout} completions ({made_of}) does "
            f"not hold a whole number of prompts: {_remedy(s, rollout, groups)}."
        )
    evaluated = s["num_generations_eval"] or groups
    batch = s["per_device_eval_batch_size"] * processes
    if s["eval_strategy"] not in (None, "no") and batch % evaluated:
        key = "num_generations_eval" if s["num_generations_eval"] else "num_generations"
        yield (
            f"{s.where(key)} is {evaluated}{'' if s['num_generations_eval'] else _by_default(s)}, and an evaluation batch of {batch} completions (`per_device_eval_batch_size`, "
            "over all processes) does not hold a whole number of prompts: set `num_generations_eval` to "
            f"{nearest_divisor(batch, evaluated)}, or `per_device_eval_batch_size` to "
            f"{-(-s['per_device_eval_batch_size'] // evaluated) * evaluated}."
        )


@problem(
    "generation_batch_size", "steps_per_generation", "per_device_train_batch_size",
    applies_to=samples_pairs, recipe_only=True,
)  # fmt: skip
def size_given_twice(s: Settings, processes: int | None = None) -> Iterator[str]:
    """A configuration that is made holds both, and they agree. Arguments: see `batches`."""
    processes = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
    total, steps = s["generation_batch_size"], s["steps_per_generation"]
    if total and steps and total != s["per_device_train_batch_size"] * processes * steps:
        yield (
            f"{s.where('generation_batch_size')} and {s.where('steps_per_generation')} both set the number of completions in "
            "a rollout, and they disagree: keep one of them."
        )


def _remedy(s: Settings, rollout: int, groups: int) -> str:
    nearest = nearest_divisor(rollout, groups)
    if nearest == 1 and declared(s).needs_groups:
        return f"give a batch whose rollout has a multiple of {groups} completions"
    return f"set `num_generations` to {nearest}, for instance, or change the batch"


def _by_default(s: Settings) -> str:
    return "" if s["num_generations"] else f" by default for the advantage {s['advantage']}"


def nearest_divisor(total: int, wanted: int) -> int:
    """The divisor of `total` nearest to `wanted`, the larger of two."""
    return min((n for n in range(total, 0, -1) if total % n == 0), key=lambda n: abs(n - wanted))
