"""Rules about settings that need an accelerator: `validate` and `run` refuse them on a machine without one.

`trl_ext.build.dtypes` and transformers judge the same with torch, for accelerators that `machine` does not know.
"""

from collections.abc import Iterator

from trl_ext.checks import machine
from trl_ext.checks.rule import problem, requirement
from trl_ext.checks.settings import Settings


@requirement("bf16", "fp16", "use_cpu")
def half_precision(s: Settings) -> Iterator[str]:
    asked = [key for key in ("bf16", "fp16") if s[key]]
    if len(asked) == 1 and not s["use_cpu"] and machine.has_accelerator() is False:
        yield half_precision_without_gpu(s.where(asked[0]), asked[0])


def half_precision_without_gpu(where: str, key: str) -> str:
    """A sentence about `bf16` or `fp16` on a machine without a GPU."""
    emulated = ", or add `use_cpu: true` to emulate it on the CPU, which is many times slower"
    return (
        f"{where} is true, but there is no GPU here that computes in 16 bits. Remove it to train in "
        f"float32{emulated if key == 'bf16' else ''}."
    )


@requirement("tf32", "use_cpu")
def tensor_float(s: Settings) -> Iterator[str]:
    """transformers refuses it without such a GPU, also where the run is on the CPU."""
    if not s["tf32"] or machine.has_accelerator() is None:
        return
    found = machine.capability()
    if found is None or found < machine.AMPERE:
        yield f"{s.where('tf32')} is true, and there is no GPU here of NVIDIA's Ampere generation or newer, which TF32 needs. Remove it."


@requirement("activation_offloading", "use_cpu")
def offloading(s: Settings) -> Iterator[str]:
    if s["activation_offloading"] and (s["use_cpu"] or machine.has_accelerator() is False):
        yield (
            f"{s.where('activation_offloading')} moves activations from the GPU to the memory of the CPU, and this run is on the CPU. "
            "Remove it."
        )


@problem("bf16_full_eval", "fp16_full_eval")
def one_precision_of_evaluations(s: Settings) -> Iterator[str]:
    if s["bf16_full_eval"] and s["fp16_full_eval"]:
        yield f"{s.named('bf16_full_eval', 'fp16_full_eval')} are both true: keep one of them."
