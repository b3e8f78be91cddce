"""Give axolotl's keys of evaluations and checkpoints."""

import math
from typing import Any

from trl_ext.foreign.axolotl.kind import LOSSES, is_axolotl, is_off, kind, unless_off
from trl_ext.foreign.common import DEFAULT, UNSET
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

CHECKPOINTS = 4
"""How many checkpoints axolotl keeps."""


def _is_evaluated(values: Values) -> bool:
    """Whether the file has data to evaluate on."""
    return bool(values.get("val_set_size") or values.get("test_datasets")) or not is_axolotl(values)


def _share(value: Any, values: Values) -> float | None:
    """The share of all steps between two events, of which an epoch has `value`; `None` for one event or none."""
    epochs = values.get("num_epochs") or 1
    if not isinstance(value, int | float) or not isinstance(epochs, int | float) or value <= 0 or epochs <= 0:
        return None
    share = 1 / (value * epochs)
    return math.floor(share * 1e6) / 1e6 if share < 1 else None  # rounded up, it would be one step more


def _evals_per_epoch(value: Any, values: Values) -> Meaning | tuple[Meaning, ...]:
    if is_off(value) or not value:
        return UNSET if value is None else Meaning(reason="there are no evaluations unless `eval_strategy` says so")
    if not _is_evaluated(values):
        return Meaning(reason="the file has no data to evaluate on")
    share = _share(value, values)
    if value == 1 or share is None:
        return Meaning({"eval_strategy": "epoch", "eval_on_start": True})
    every = Meaning({"eval_steps": share}, f"{value} evaluations per epoch are one in this share of all steps")
    return Meaning({"eval_strategy": "steps"}), every, Meaning({"eval_on_start": True})


def _eval_steps(value: Any, values: Values) -> Meaning:
    if is_off(value) or not value:
        return UNSET
    if not _is_evaluated(values):
        return Meaning(reason="the file has no data to evaluate on")
    return Meaning({"eval_strategy": "steps", "eval_steps": value, "eval_on_start": True})


def _eval_strategy(value: Any, values: Values) -> Meaning:
    if value in (None, False, "no"):
        return UNSET if value is None else DEFAULT
    if not _is_evaluated(values):
        return Meaning(reason="the file has no data to evaluate on")
    if values.get("eval_steps") or values.get("evals_per_epoch"):
        return Meaning(reason="`eval_steps` or `evals_per_epoch` say when evaluations are")
    return Meaning({"eval_strategy": value, "eval_on_start": True})


def _saves_per_epoch(value: Any, values: Values) -> Meaning | tuple[Meaning, ...]:
    if is_off(value) or not value:
        return UNSET if value is None else Meaning({"save_strategy": "epoch"}, "axolotl saves after each epoch then")
    share = _share(value, values)
    if value == 1 or share is None:
        return Meaning({"save_strategy": "epoch"})
    reason = f"{value} checkpoints per epoch are one in this share of all steps"
    return Meaning({"save_strategy": "steps"}), Meaning({"save_steps": share}, reason)


def _save_steps(value: Any, values: Values) -> Meaning:
    return UNSET if is_off(value) or not value else Meaning({"save_strategy": "steps", "save_steps": value})


def _save_strategy(value: Any, values: Values) -> Meaning:
    if value is False:
        return Meaning({"save_strategy": "no"})
    if values.get("save_steps") or values.get("saves_per_epoch"):
        return Meaning(reason="`save_steps` or `saves_per_epoch` say when checkpoints are saved")
    if value is None:
        return Meaning({"save_strategy": "epoch"})
    if value == "best" and not values.get("metric_for_best_model"):
        return Meaning({"save_strategy": "best", "metric_for_best_model": "loss"})
    return Meaning({"save_strategy": value})


def _early_stopping(value: Any, values: Values) -> Meaning:
    if kind(values) in LOSSES:
        return Meaning(reason="axolotl does not read it with `rl`")
    return Meaning(
        reason="a run is not stopped early",
        changes="it trains to its last step. `load_best_model_at_end: true` keeps the best checkpoint",
    )


def _of_causal(name: str) -> Reader:
    """A setting that axolotl reads without `rl` only."""

    def read(value: Any, values: Values) -> Meaning:
        if value is None:
            return UNSET
        if kind(values) in LOSSES:
            return Meaning(reason="axolotl does not read it with `rl`")
        return Meaning({name: value})

    return read


def _best(value: Any, values: Values) -> Meaning:
    if not value:
        return UNSET if value is None else DEFAULT
    if kind(values) in LOSSES:
        return Meaning(reason="axolotl does not read it with `rl`")
    every, saved = values.get("eval_steps"), values.get("save_steps")
    if not (_is_evaluated(values) and every and saved and not saved % every):
        return Meaning(reason="axolotl does not follow it: `save_steps` is not a multiple of `eval_steps`")
    return Meaning({"load_best_model_at_end": True})


def _resume(value: Any, values: Values) -> Meaning:
    return UNSET if is_off(value) else Meaning({"resume_from_checkpoint": value})


def _watchdog(value: Any, values: Values) -> Meaning:
    if kind(values) in LOSSES:
        return Meaning(reason="axolotl does not read it with `rl`")
    return Meaning(reason="a run does not stop at a high loss", changes="it trains to its last step")


def defaults(values: Values) -> dict[str, Any]:
    """Axolotl saves after each epoch, and keeps four checkpoints."""
    found: dict[str, Any] = {}
    if not any(values.get(key) for key in ("save_steps", "saves_per_epoch", "save_strategy")):
        found["save_strategy"] = "epoch"
    if not values.get("save_total_limit") and values.get("save_strategy") != "no":
        found["save_total_limit"] = CHECKPOINTS
    return found


_NO_SAMPLES = Meaning(reason="evaluations sample no text. `trl-ext eval` and `trl-ext chat` do so after the run")

MEANS: dict[str, str | Meaning | Reader] = {
    "evals_per_epoch": _evals_per_epoch,
    "eval_steps": _eval_steps,
    "eval_strategy": _eval_strategy,
    "evaluation_strategy": _eval_strategy,
    "saves_per_epoch": _saves_per_epoch,
    "save_steps": _save_steps,
    "save_strategy": _save_strategy,
    "save_total_limit": lambda value, values: Meaning({"save_total_limit": value or CHECKPOINTS}),
    "save_first_step": unless_off(Meaning(reason="checkpoints are saved where `save_steps` says so")),
    "dynamic_checkpoint": unless_off(Meaning(reason="a checkpoint is saved when the run is stopped by a signal (Ctrl-C)")),
    "early_stopping_patience": unless_off(_early_stopping),
    "load_best_model_at_end": _best,
    "metric_for_best_model": _of_causal("metric_for_best_model"),
    "greater_is_better": _of_causal("greater_is_better"),
    "resume_from_checkpoint": _resume,
    "auto_resume_from_checkpoints": unless_off(
        Meaning(
            reason="a run continues when it is asked to",
            advice="to continue, run it again with `--resume_from_checkpoint true`",
        )
    ),
    "loss_watchdog_threshold": unless_off(_watchdog),
    "loss_watchdog_patience": Meaning(reason="only `loss_watchdog_threshold` reads it"),
    **dict.fromkeys(
        (
            "do_causal_lm_eval", "eval_causal_lm_metrics", "do_bench_eval", "bench_dataset", "bench_split", "eval_table_size",
            "eval_max_new_tokens", "generate_samples", "num_generation_samples", "generation_max_new_tokens",
            "generation_temperature", "generation_top_p", "generation_top_k", "generation_prompt_ratio", "generation_do_sample",
            "dpo_generate_during_eval", "lm_eval_tasks", "lm_eval_batch_size", "lm_eval_post_train", "lm_eval_model",
        ),
        unless_off(_NO_SAMPLES),
    ),
}  # fmt: skip
"""Every key of this part."""
