"""What range a number must lie in."""

import math
from collections.abc import Callable, Iterator

from trl_ext.recipe.settings import Settings

Bound = tuple[str, Callable[[float], bool]]
"""What is allowed, in words and as a test."""

RATE = ("a number greater than 0 and at most 1, 5e-6 for instance", lambda x: 0 < x <= 1)
SHARE_OR_STEPS = (
    "a whole number of steps, or a share of them between 0 and 1",
    lambda x: 0 < x < 1 or (x >= 1 and float(x).is_integer()),
)
COUNT = ("a whole number of at least 1", lambda x: x >= 1)
POSITIVE = ("a number greater than 0", lambda x: x > 0)
NOT_NEGATIVE = ("a number of at least 0", lambda x: x >= 0)
BELOW_ONE = ("a number of at least 0 and below 1", lambda x: 0 <= x < 1)
SHARE = ("a number from 0 to 1", lambda x: 0 <= x <= 1)
_HELD_OUT = (
    "a number of examples from 1, or a share between 0 and 1",
    lambda x: 0 < x < 1 or (x >= 1 and float(x).is_integer()),
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
    "precompute_ref_batch_size": COUNT,
    "ref_model_sync_steps": COUNT,
    "learning_rate": RATE,
    "num_train_epochs": POSITIVE,
    "lora_alpha": POSITIVE,
    "logging_steps": SHARE_OR_STEPS,
    "save_steps": SHARE_OR_STEPS,
    "eval_steps": SHARE_OR_STEPS,
    "adam_epsilon": POSITIVE,
    "warmup_steps": (
        "0, a whole number of steps, or a share of them below 1",
        lambda x: 0 <= x < 1 or float(x).is_integer(),
    ),
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
    "eval_size": _HELD_OUT,
    "test_split_size": _HELD_OUT,
    "max_steps": ("at least 1, or -1 to count epochs", lambda x: x >= 1 or x == -1),
}


def outside(s: Settings, bounds: dict[str, Bound]) -> Iterator[str]:
    """A sentence for each number that is out of its range."""
    for key in s:
        phrase, holds = bounds.get(key, (None, None))
        value = s[key]
        if phrase is None or not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        if not math.isfinite(value) or not holds(value):
            yield f"{s.where(key)} is {value}: give {phrase}."
