"""Rules about the number format of training."""

from collections.abc import Iterator

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings


@problem("bf16", "fp16")
def one_half_precision(s: Settings) -> Iterator[str]:
    if s["bf16"] and s["fp16"]:
        yield f"{s.named('bf16', 'fp16')} are both true: keep bf16 (Ampere GPUs and newer) or fp16."
