"""Rules about humanline variants: `humanline`, the bounds of a token's log-ratio, and the reference that follows the policy."""

from collections.abc import Iterator

from trl_ext.checks.rule import LOSS, problem
from trl_ext.checks.settings import Settings

LOSSES = ("dpo", "kto")
"""Losses of the paper that read nothing but log-ratios of whole completions."""
BOUNDS = ("humanline_log_epsilon_p", "humanline_log_epsilon_r")


@problem("humanline", *BOUNDS)
def bounds_around_zero(s: Settings) -> Iterator[str]:
    low, high = (s[key] for key in BOUNDS)
    numbers = all(isinstance(value, (int, float)) for value in (low, high))
    if s["humanline"] and numbers and not low < 0 < high:
        yield (
            f"{s.named(*BOUNDS)} clip a token's log-ratio to [{low:g}, {high:g}]. It is 0 where the policy equals the reference, as in the "
            "first step, so the range has to contain 0: give a negative and a positive number, such as -1.0 and 1.5."
        )


@problem("humanline", *BOUNDS, recipe_only=True)
def bounds_of_nothing(s: Settings) -> Iterator[str]:
    ignored = [key for key in BOUNDS if key in s and s.differs(key)]
    if ignored and not s["humanline"]:
        yield f"{s.named(*ignored)} would be ignored: add `humanline: true`."


@problem("humanline", "sync_ref_model", "ref_model_mixup_alpha")
def reference_that_follows(s: Settings) -> Iterator[str]:
    if s["humanline"] and not (s["sync_ref_model"] and s["ref_model_mixup_alpha"] == 1):
        yield (
            f"{s.where('humanline')} is true: a humanline variant replaces its reference by the policy before every k-th optimizer step. "
            "Add `sync_ref_model: true`, `ref_model_mixup_alpha: 1.0`, and `ref_model_sync_steps` (1 in the authors' code)."
        )


@problem("humanline", LOSS)
def loss_of_log_ratios(s: Settings) -> Iterator[str]:
    if s["humanline"] and s.loss.name not in LOSSES:
        yield (
            f"{s.where('humanline')} is true and the loss is {s.loss.name}: humanline variants exist of {' and '.join(LOSSES)}. Choose one of "
            "them, or remove `humanline`."
        )


@problem("humanline", "ld_alpha")
def other_log_ratios(s: Settings) -> Iterator[str]:
    if s["humanline"] and s["ld_alpha"] not in (None, 1):
        yield (
            f"{s.named('humanline', 'ld_alpha')} both change the log-ratios of tokens: one clips them, the other scales some of them down. "
            "Remove one of the two settings."
        )
