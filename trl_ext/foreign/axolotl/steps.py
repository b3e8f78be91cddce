"""Give axolotl's keys of an optimizer step: batch sizes, the optimizer, and the schedule of the learning rate."""

from typing import Any

from trl_ext.foreign.axolotl.kind import LOSSES, is_off, kind, renamed, unless_off
from trl_ext.foreign.common import UNSET
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

ADAMW = "adamw_torch_fused"
WARMUP = 0.03
"""The share of the steps that axolotl warms up for, unless the file says it."""
SAME = {
    "ao_adamw_8bit": "adamw_torch_8bit",
    "ao_adamw_4bit": "adamw_torch_4bit",
    "adamw_hf": "adamw_torch",
    "optimi_adamw": ADAMW,
    "flash_adamw": ADAMW,
    "flash_lion": "lion_32bit",
    "flash_sgd": "sgd",
    "flash_sgdw": "sgd",
}
"""Optimizers of other packages, with the one here that takes the same steps."""

OWN = ("muon", "dion", "sinkgd", "adopt_adamw", "came_pytorch", "q_galore_adamw8bit", "ao_adamw_fp8", "flash_adam")
"""Optimizers that only axolotl has."""


def _optimizer(value: Any, values: Values) -> Meaning:
    if is_off(value):
        return UNSET
    value = str(value)
    if value in SAME:
        return Meaning({"optim": SAME[value]}, "it takes the same steps, in another number format")
    if value in OWN:
        return Meaning(
            reason=f"{value} is not available",
            changes=f"AdamW is used (`optim: {ADAMW}`), and the learning rate was chosen for {value}",
            advice="choose an optimizer and a learning rate for it",
        )
    return Meaning({"optim": value})


def _arguments(value: Any, values: Values) -> Meaning:
    """A mapping, or "key=value,key=value"."""
    if isinstance(value, dict):
        value = ",".join(f"{key}={given}" for key, given in value.items())
    return Meaning({"optim_args": value})


def _targets(value: Any, values: Values) -> Meaning:
    return Meaning({"optim_target_modules": "all-linear" if value == "all_linear" else value})


def _schedule(value: Any, values: Values) -> Meaning:
    name = value or "cosine"
    if name in ("rex", "one_cycle"):
        return Meaning(
            {"lr_scheduler_type": "cosine"},
            f"the schedule {name} is not available",
            "the learning rate follows a cosine",
        )
    return Meaning({"lr_scheduler_type": _cosine(values) or name})


def _cosine(values: Values) -> str | None:
    """The schedule of a cosine that ends above 0; `None` where the file has none."""
    is_cosine = values.get("lr_scheduler") in (None, "cosine")
    return "cosine_with_min_lr" if is_cosine and values.get("cosine_min_lr_ratio") else None


def _min_lr(value: Any, values: Values) -> Meaning:
    if not value:
        return UNSET
    if _cosine(values) is None:
        return Meaning(reason="only the schedule cosine reads it")
    return Meaning({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": value}})


def _warmup_steps(value: Any, values: Values) -> Meaning:
    if value is None:
        value = WARMUP if values.get("warmup_ratio") is None else None
    if value is None:
        return UNSET
    if value == WARMUP:
        return Meaning({"warmup_steps": value}, "axolotl warms up for 3 % of the steps, at most 100")
    return (
        Meaning({"warmup_steps": 2}, "axolotl warms up for at least 2 steps")
        if value == 1
        else Meaning({"warmup_steps": value})
    )


def _warmup_ratio(value: Any, values: Values) -> Meaning:
    if value is None:
        return UNSET
    if values.get("warmup_steps") is not None:
        return Meaning(reason="axolotl uses `warmup_steps` instead")
    return Meaning({"warmup_steps": value}, "`warmup_steps` takes a share of the steps too")


def _batch(value: Any, values: Values) -> Meaning:
    """The number of examples of one step on one device. Axolotl derives the accumulation from it."""
    micro = values.get("micro_batch_size")
    if not isinstance(value, int) or not isinstance(micro, int) or micro < 1:
        return UNSET if value is None else Meaning({"per_device_train_batch_size": value})
    if values.get("gradient_accumulation_steps"):
        return Meaning(reason="axolotl derives it from the other two")
    return Meaning(
        {"gradient_accumulation_steps": max(value // micro, 1)}, "it is the number of examples per step on a device"
    )


def _micro_batch(value: Any, values: Values) -> Meaning:
    if value is None:
        return Meaning({"per_device_train_batch_size": 1})
    evaluation = {} if values.get("eval_batch_size") else {"per_device_eval_batch_size": value}
    return Meaning({"per_device_train_batch_size": value} | evaluation)


def _accumulation(value: Any, values: Values) -> Meaning:
    return UNSET if value is None else Meaning({"gradient_accumulation_steps": value})


def _epochs(value: Any, values: Values) -> Meaning:
    return Meaning({"num_train_epochs": 1.0 if value is None else value})


def _grouping(value: Any, values: Values) -> Meaning:
    if kind(values) in LOSSES:
        return Meaning(reason="rows are packed or sorted by length, so there is no padding to save")
    return Meaning(reason="examples are drawn at random, in an order that does not depend on their length")


def _curriculum(value: Any, values: Values) -> Meaning:
    if kind(values) in LOSSES:
        return Meaning(reason="axolotl reads it for demonstrations only")
    return Meaning({"train_sampling_strategy": "sequential"})


def _neftune(value: Any, values: Values) -> Meaning:
    if kind(values) in LOSSES:
        return Meaning(reason="axolotl does not read it with `rl`")
    return Meaning({"neftune_noise_alpha": value})


def defaults(values: Values) -> dict[str, Any]:
    """Axolotl's own defaults of a step."""
    found: dict[str, Any] = {"num_epochs": 1.0, "micro_batch_size": 1, "lr_scheduler": "cosine"}
    if values.get("warmup_steps") is None and values.get("warmup_ratio") is None:
        found["warmup_steps"] = WARMUP
    return {key: value for key, value in found.items() if values.get(key) is None}


def _lacks(reason: str, changes: str) -> Reader:
    return unless_off(Meaning(reason=reason, changes=changes))


_ONE_RATE = ("all weights have one learning rate", "these weights have the same learning rate as all others")
_ONLY_THERE = Meaning(reason="only an optimizer that is not available reads it")

MEANS: dict[str, str | Meaning | Reader] = {
    "micro_batch_size": _micro_batch,
    "eval_batch_size": renamed("per_device_eval_batch_size"),
    "gradient_accumulation_steps": _accumulation,
    "batch_size": _batch,
    "num_epochs": _epochs,
    "optimizer": _optimizer,
    "optim_args": unless_off(_arguments),
    "optim_target_modules": unless_off(_targets),
    "torchdistx_path": Meaning(reason="`optim: adamw_anyprecision` finds its package itself"),
    "lr_scheduler": _schedule,
    "cosine_min_lr_ratio": _min_lr,
    "cosine_constant_lr_ratio": _lacks(
        "the cosine ends with the last step", "the learning rate reaches its minimum at the end, not at this share of the steps"
    ),
    "lr_quadratic_warmup": _lacks("warmup is linear", "the learning rate rises in a straight line"),
    "lr_div_factor": Meaning(reason="only the schedule one_cycle reads it"),
    "warmup_steps": _warmup_steps,
    "warmup_ratio": _warmup_ratio,
    "embedding_lr": _lacks(*_ONE_RATE),
    "embedding_lr_scale": _lacks(*_ONE_RATE),
    "lr_groups": _lacks(*_ONE_RATE),
    "group_by_length": unless_off(_grouping),
    "curriculum_sampling": unless_off(_curriculum),
    "neftune_noise_alpha": unless_off(_neftune),
    "noisy_embedding_alpha": unless_off(_neftune),
    "auto_find_batch_size": unless_off(
        Meaning(
            reason="a batch size that is found while training changes the number of examples per step",
            advice="remove it, and lower `per_device_train_batch_size` if memory runs out",
        )
    ),
    "lisa_n_layers": _lacks("LISA is not available", "all layers are trained in every step"),
    "lisa_step_interval": Meaning(reason="only LISA reads it"),
    "lisa_layers_attribute": Meaning(reason="only LISA reads it"),
    **dict.fromkeys(
        (
            "adam_beta3", "adam_epsilon2", "dion_lr", "dion_momentum", "dion_rank_fraction", "dion_rank_multiple_of",
            "qgalore_rank", "qgalore_update_proj_gap", "qgalore_scale", "qgalore_proj_type", "qgalore_proj_quant",
            "qgalore_proj_bits", "qgalore_proj_group_size", "qgalore_cos_threshold", "qgalore_gamma_proj", "qgalore_queue_size",
            "grokfast_alpha", "grokfast_lamb",
        ),
        _ONLY_THERE,
    ),
}  # fmt: skip
"""Every key of this part."""
