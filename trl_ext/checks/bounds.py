"""Rules about the range of a number, one for each setting."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings


class Bound(NamedTuple):
    """The allowed values in words, and as a test."""

    phrase: str
    holds: Callable[[float], bool]


def _is_whole(x: float) -> bool:
    return float(x).is_integer()


RATE = Bound("a number greater than 0 and at most 1, 5e-6 for instance", lambda x: 0 < x <= 1)
SHARE_OR_STEPS = Bound(
    "a whole number of steps, or a share of them between 0 and 1", lambda x: 0 < x < 1 or (x >= 1 and _is_whole(x))
)
COUNT = Bound("a whole number of at least 1", lambda x: x >= 1 and _is_whole(x))
POSITIVE = Bound("a number greater than 0", lambda x: x > 0)
NOT_NEGATIVE = Bound("a number of at least 0", lambda x: x >= 0)
BELOW_ONE = Bound("a number of at least 0 and below 1", lambda x: 0 <= x < 1)
SHARE = Bound("a number from 0 to 1", lambda x: 0 <= x <= 1)
POSITIVE_SHARE = Bound("a number greater than 0 and at most 1", lambda x: 0 < x <= 1)
HELD_OUT = Bound(
    "a number of examples from 1, or a share between 0 and 1", lambda x: 0 < x < 1 or (x >= 1 and _is_whole(x))
)

BOUNDS: dict[str, Bound] = {
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    "max_length": COUNT,
    "row_tokens": COUNT,
    "lora_r": COUNT,
    "max_train_samples": COUNT,
    "max_eval_samples": COUNT,
    "save_total_limit": COUNT,
    "dataset_num_proc": COUNT,
    "dataloader_prefetch_factor": COUNT,
    "precompute_ref_batch_size": COUNT,
    "ref_model_sync_steps": COUNT,
    "torch_empty_cache_steps": COUNT,
    "num_train_epochs": POSITIVE,
    "lora_alpha": POSITIVE,
    "logging_steps": SHARE_OR_STEPS,
    "save_steps": SHARE_OR_STEPS,
    "eval_steps": SHARE_OR_STEPS,
    "adam_epsilon": POSITIVE,
    "warmup_steps": Bound(
        "0, a whole number of steps, or a share of them below 1", lambda x: 0 <= x < 1 or (x >= 1 and _is_whole(x))
    ),
    "dataset_pair_margin": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "dataloader_num_workers": NOT_NEGATIVE,
    "seed": NOT_NEGATIVE,
    "skip_nonfinite_steps": NOT_NEGATIVE,
    "lora_dropout": BELOW_ONE,
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "ld_alpha": SHARE,
    "ref_model_mixup_alpha": SHARE,
    "eval_size": HELD_OUT,
    "test_split_size": HELD_OUT,
    "max_steps": Bound("at least 1, or -1 to count epochs", lambda x: x >= 1 or x == -1),
    # Of methods that sample completions
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
    **dict.fromkeys(("sapo_temperature_pos", "sapo_temperature_neg"), POSITIVE),
    **dict.fromkeys(("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"), NOT_NEGATIVE),
    "missing_eos_penalty": NOT_NEGATIVE,
    "vllm_importance_sampling_clip_max": POSITIVE,
    "vllm_importance_sampling_clip_min": NOT_NEGATIVE,
    "num_iterations": COUNT,
    "steps_per_generation": COUNT,
    "generation_batch_size": COUNT,
    "max_completion_length": COUNT,
    "temperature": POSITIVE,
    "top_p": POSITIVE_SHARE,
    "min_p": BELOW_ONE,
}
"""The range of each setting. `num_generations` depends on the method: see `trl_ext.checks.generations`."""


def out_of_bounds(key: str, bound: Bound, s: Settings) -> Iterator[str]:
    """A sentence if a number that was set is out of its range. Other values are a matter of types."""
    value = s[key]
    if key not in s or not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    if not math.isfinite(value) or not bound.holds(value):
        yield f"{s.where(key)} is {value}: give {bound.phrase}."


for _key, _bound in BOUNDS.items():
    problem(_key)(partial(out_of_bounds, _key, _bound))
# A recipe with a learning rate of 0 trains nothing; code may want a step that changes nothing.
problem("learning_rate", recipe_only=True)(partial(out_of_bounds, "learning_rate", RATE))
