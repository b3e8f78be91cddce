"""Keep the weights of a 4-bit base exactly as they were loaded."""

from torch import nn


def keep_exact_cpu_kernels(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on the first CPU forward in evaluation mode.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 then replaces a layer's weights by an inference-only bfloat16 format
    for good: the compute dtype is ignored, the scales are rounded, and no gradient passes the layer any more, so a
    reference pass in evaluation mode would change the policy's base. No effect on models that are not 4-bit.

    This relies on the layer asking `support_avx512bf16_for_cpu` before each forward (`tests/support/test_frozen_base.py`).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
