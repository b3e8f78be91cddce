"""Rules about the number format of training."""

from collections.abc import Iterator

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings


@problem("bf16", "fp16")
def one_half_precision(s: Settings) -> Iterator[str]:
    if s["bf16"] and s["fp16"]:
        yield f"{s.named('bf16', 'fp16')} are both true: keep bf16 (Ampere GPUs and newer) or fp16."


@problem("bf16", "fp16", "use_cpu")
def half_precision_on_a_cpu(s: Settings) -> Iterator[str]:
    """Accelerate leaves the model in float32 there: autocast to float16 needs an accelerator."""
    if s["fp16"] and s["use_cpu"] and not s["bf16"]:
        yield (
            f"{s.named('fp16', 'use_cpu')} are both true, but training in float16 needs a GPU. Remove `fp16` to train in "
            "float32, or write `bf16: true` to emulate bfloat16, which is many times slower."
        )
