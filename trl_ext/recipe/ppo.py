"""What can be known to be wrong with a PPO recipe: its rewards, its KL, its adapter."""

import os
from collections.abc import Iterator
from pathlib import Path

from trl_ext.checks import ppo as rules
from trl_ext.checks import reward_names
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.model_files import reward as reward_folder
from trl_ext.recipe import stages
from trl_ext.recipe.bounds import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Bound, outside
from trl_ext.recipe.renamed_keys import line
from trl_ext.recipe.settings import Settings
from trl_ext.rl import truth_table
from trl_ext.support.messages import shown_text

BOUNDS: dict[str, Bound] = {
    "kl_coef": NOT_NEGATIVE,
    "kl_target": POSITIVE,
    "kl_horizon": COUNT,
    "gamma": SHARE,
    "lam": SHARE,
    "critic_learning_rate": NOT_NEGATIVE,
    "vf_coef": NOT_NEGATIVE,
    "cliprange_value": POSITIVE,
    "epsilon": POSITIVE,
    "epsilon_high": POSITIVE,
    "missing_eos_penalty": NOT_NEGATIVE,
    "num_generations": COUNT,
    "num_iterations": COUNT,
    "steps_per_generation": COUNT,
    "generation_batch_size": COUNT,
    "max_completion_length": COUNT,
    "temperature": POSITIVE,
    "top_p": ("a number greater than 0 and at most 1", lambda x: 0 < x <= 1),
    "min_p": BELOW_ONE,
}

SEVERAL_GPUS = (
    "updates run past the wrapper that shards the model. Use `accelerate launch --multi_gpu`: one 4-bit copy each."
)

UNSUPPORTED = {
    "deepspeed": SEVERAL_GPUS,
    "fsdp": SEVERAL_GPUS,
    "auto_find_batch_size": "after running out of memory it restarts at step 0 with another batch. Remove it: an update that "
    "does not fit runs again in halves anyway.",
}


def bounds(s: Settings) -> Iterator[str]:
    yield from outside(s, BOUNDS)


def rewards(s: Settings, who: str = "PPO") -> Iterator[str]:
    if not s["reward_funcs"] and not s["reward_adapter"] and not s.meant & {"reward_funcs", "reward_adapter"}:
        yield (
            f"{who} has no source of reward: add `reward_funcs` (a known function, `rewards.py:function`, a sequence "
            "classifier), or `reward_adapter`, the folder of a reward model trained on the same base (`trainer: reward`)."
        )
    for name in s["reward_funcs"] or []:
        if (problem := reward_names.problem(str(name))) is not None:
            yield f"{s.where('reward_funcs')} names {shown_text(str(name))}, {problem}"
    weights, count = s["reward_weights"], len(s["reward_funcs"] or []) + bool(s["reward_adapter"])
    if weights and count and len(weights) != count:
        yield f"{s.where('reward_weights')} has {len(weights)} weights for {count} sources of reward: give one for each."


def reward_adapter(s: Settings) -> Iterator[str]:
    folder = s["reward_adapter"]
    if not folder or stages.awaited(s) is not None:
        return
    if (problem := reward_folder.problem(folder, stages.base_of(s["model_name_or_path"]))) is not None:
        yield f"{s.where('reward_adapter')} is {folder}, {problem}"


def adapter(s: Settings) -> Iterator[str]:
    path = Path(s["model_name_or_path"] or "").expanduser()
    if not s["use_peft"] and not adapter_folder.is_in(path):
        yield (
            "PPO keeps policy, reference and critic on one base, told apart by adapters: add "
            f"{line('use_peft', True)}, or name the folder of an adapter to go on from as `model_name_or_path`."
        )


def divergence(s: Settings) -> Iterator[str]:
    if s["beta"] is not None:
        yield f"{s.where('beta')} is {s['beta']}: PPO has one KL coefficient, `kl_coef`. Set that and remove `beta`."
    if (problem := _cell(s)[1]) is not None:
        named = s.named("kl_estimator", "kl_placement", "kl_level")
        yield f"{named}: {problem}"
    if s["kl_controller"] == "adaptive" and s["kl_target"] is None:
        yield f"{s.where('kl_controller')} is adaptive: add `kl_target`, the wanted KL in nats per completion."
    if s["kl_controller"] == "fixed" and (steering := s.named("kl_target", "kl_horizon")):
        yield f"{steering} would steer an adaptive KL coefficient: add {line('kl_controller', 'adaptive')}, or remove it."


def reference(s: Settings) -> Iterator[str]:
    if s["sync_ref_model"]:
        yield f"{s.where('sync_ref_model')} is on, and PPO's reference stays what it is: remove it."


def unsupported(s: Settings) -> Iterator[str]:
    for key, reason in UNSUPPORTED.items():
        if s[key]:
            yield f"{s.where(key)} is not supported: {reason}"


def together(s: Settings) -> Iterator[str]:
    yield from rules.problems(s)
    yield from rules.batches(s, int(os.environ.get("WORLD_SIZE", "1")))


def users_code(s: Settings) -> list[str]:
    """Whose code is going to be run."""
    names = [str(name) for name in s["reward_funcs"] or []]
    return [
        reward_names.statement(name)
        for name in names
        if reward_names.is_users_code(name) and reward_names.problem(name) is None
    ]


def notes(s: Settings) -> list[str]:
    """Whose code is going to be run, and what settings do that may not be what was meant."""
    found = users_code(s)
    cell, problem = _cell(s)
    warning = truth_table.warning(*cell, s["gamma"]) if problem is None and s["kl_coef"] else None
    return [*found, *([] if warning is None else [warning]), *rules.notes(s)]


CHECKS = (bounds, rewards, reward_adapter, adapter, divergence, reference, unsupported, together)

REPLACED = ("unsupported", "reference_refresh")
"""General checks whose advice does not hold for PPO."""


def _cell(s: Settings) -> tuple[tuple[str, str, str | None], str | None]:
    """Estimator, placement and level, and what is wrong with them."""
    cell = s["kl_estimator"], s["kl_placement"], s["kl_level"]
    try:
        truth_table.check(*cell)
    except ValueError as error:
        return cell, str(error)
    return cell, None
